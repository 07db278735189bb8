"""The folders of the package and its native engine; all the rest is in pyproject.toml."""

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


def native_engine():
    """Return the engine that differentiates MuJoCo, against the mujoco wheel of this environment.

    It is optional: without a C++ compiler the package installs all the same, and falls back to
    finite differences of whole steps.
    """
    mujoco, pybind11 = folder_of("mujoco"), folder_of("pybind11")
    names = ("libmujoco.so.*", "libmujoco.*.dylib", "mujoco.lib")
    library = mujoco and next((f for name in names for f in mujoco.glob(name)), None)
    windows = sys.platform == "win32"
    native = Path("mbrl", "physics", "native")
    # Where a part is missing compiling fails, which is allowed; an sdist has the sources anyway.
    return [
        Extension(
            "mbrl.physics._engine",
            sorted(map(str, native.glob("*.cpp"))),
            depends=sorted(map(str, native.glob("*.h"))),
            include_dirs=[str(folder / "include") for folder in (mujoco, pybind11) if folder],
            # By its path: the name of the file carries the version.
            extra_objects=[str(library)] if library else [],
            extra_compile_args=(
                ["/O2", "/std:c++17", "/EHsc"]
                if windows
                else ["-O3", "-std=c++17", "-fvisibility=hidden"]
            ),
            language="c++",
            optional=True,
        )
    ]


setup(
    packages=[*find_packages(include=["mbrl", "mbrl.*"]), *DATA],
    package_dir=DATA,
    package_data={"mbrl": ["py.typed"], **{name: ["**/*"] for name in DATA}},
    ext_modules=native_engine(),
)
