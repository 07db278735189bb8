"""Packages of the user's, which register environments, nodes and algorithms."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

from mbrl.errors import ConfigError, one_line, raised_at


def import_packages(names: Sequence[str]) -> None:
    """Import the packages that register a user's environments, nodes and algorithms.

    Packages in the working directory are found too, as ``python -m`` would find them.

    Raises:
        ConfigError: naming the package that cannot be imported.
    """
    if names and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    for name in names:
        try:
            importlib.import_module(name)
        except (Exception, SystemExit) as error:
            where = raised_at(error)
            if where:
                advice = f"raised at {where}"
            elif name.endswith(".py") or os.sep in name:
                advice = "name the module, without its folder and .py"
            else:
                advice = "it must be importable from here, e.g. by PYTHONPATH"
            raise ConfigError(
                f"--import: cannot import {name!r} ({type(error).__name__}: {one_line(error)}); "
                f"{advice}"
            ) from error
