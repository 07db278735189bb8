"""The folders of the package and its native parts; all the rest is in pyproject.toml."""

import importlib.util
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup

# The folders of data at the top of the repository travel inside the package: a wheel has
# mbrl/assets and mbrl/configs, an editable install keeps using assets/ and configs/ themselves.
HERE = Path(__file__).resolve().parent
DATA = {f"mbrl.{name}": name for name in ("assets", "configs") if (HERE / name).is_dir()}


def folder_of(package):
    """Return the folder of an installed package, without importing it; None if there is none."""
    spec = importlib.util.find_spec(package)
    return Path(spec.submodule_search_locations[0]) if spec else None


def extension(name, sources, include=(), **options):
    """Return an optional extension in C++: where compiling fails the package installs all the same.

    An sdist has the sources whatever is missing here.
    """
    pybind11 = folder_of("pybind11")
    return Extension(
        name,
        [str(path) for path in sources],
        include_dirs=[str(path) for path in (*include, pybind11 and pybind11 / "include") if path],
        extra_compile_args=(
            ["/O2", "/std:c++17", "/EHsc"]
            if sys.platform == "win32"
            else ["-O3", "-std=c++17", "-fvisibility=hidden", "-fno-math-errno"]
        ),
        language="c++",
        optional=True,
        **options,
    )


def native_engine():
    """Return the engine that differentiates MuJoCo, against the mujoco wheel of this environment.

    Without it Jacobians are finite differences of whole steps.
    """
    mujoco, native = folder_of("mujoco"), Path("mbrl", "physics", "native")
    names = ("libmujoco.so.*", "libmujoco.*.dylib", "mujoco.lib")
    library = mujoco and next((f for name in names for f in mujoco.glob(name)), None)
    return extension(
        "mbrl.physics._engine",
        sorted(native.glob("*.cpp")),
        [mujoco and mujoco / "include"],
        depends=sorted(map(str, native.glob("*.h"))),
        # By its path: the name of the file carries the version.
        extra_objects=[str(library)] if library else [],
    )


def native_riccati():
    """Return the backward pass of iLQR, which needs no MuJoCo; without it, NumPy does the same."""
    native, dense = Path("mbrl", "planning", "native"), Path("mbrl", "physics", "native")
    return extension(
        "mbrl.planning._riccati",
        [*sorted(native.glob("*.cpp")), dense / "dense.cpp"],
        [dense],
        depends=sorted(map(str, [*native.glob("*.h"), dense / "dense.h"])),
    )


def native_perceptron():
    """Return passes through many small networks; without it, torch does the same."""
    native = Path("mbrl", "nn", "native")
    return extension(
        "mbrl.nn._perceptron",
        sorted(native.glob("*.cpp")),
        depends=sorted(map(str, native.glob("*.h"))),
        extra_link_args=[] if sys.platform == "win32" else ["-pthread"],
    )


setup(
    packages=[*find_packages(include=["mbrl", "mbrl.*"]), *DATA],
    package_dir=DATA,
    package_data={"mbrl": ["py.typed"], **{name: ["**/*"] for name in DATA}},
    ext_modules=[native_engine(), native_riccati(), native_perceptron()],
)
