"""Which folders the package is made of; everything else about it is in pyproject.toml."""

from pathlib import Path

from setuptools import find_packages, setup

# The folders of data at the top of the repository travel inside the package: a wheel has
# mbrl/assets and mbrl/configs, an editable install keeps using assets/ and configs/ themselves.
HERE = Path(__file__).resolve().parent
DATA = {f"mbrl.{name}": name for name in ("assets", "configs") if (HERE / name).is_dir()}

setup(
    packages=[*find_packages(include=["mbrl", "mbrl.*"]), *DATA],
    package_dir=DATA,
    package_data={"mbrl": ["py.typed"], **{name: ["**/*"] for name in DATA}},
)
