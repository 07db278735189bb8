"""The native engine: is it there, and what is said if it is not."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Sequence
from types import ModuleType
from typing import Any

import mujoco

from mbrl.physics.step_difference import bounds

# Build isolation would take the newest MuJoCo, not the one that is installed.
_AGAIN = "install mbrl again, with pip install --no-build-isolation"


def load_engine(module: str = "mbrl.physics._engine") -> tuple[ModuleType | None, str]:
    """Return the native engine, or None and why there is none."""
    try:
        # Linked against the libmujoco that ``import mujoco`` has loaded, of exactly one version.
        engine = importlib.import_module(module)
    except ImportError as error:
        if isinstance(error, ModuleNotFoundError):
            return None, "it was not built (no C++ compiler?)"
        if "libmujoco" in str(error):  # of another version, which its name carries
            return None, f"it was built for another MuJoCo ({error}); {_AGAIN}"
        return None, f"it is broken: {error}"
    built, running = engine.BUILT_FOR, mujoco.mj_version()
    if built != running:
        return None, f"it was built for MuJoCo {built}, this is {running}; {_AGAIN}"
    return engine, ""


_ENGINE, _WHY_NOT = load_engine()


def native_engine() -> tuple[ModuleType | None, str]:
    """Return the native engine, or None and why there is none."""
    return _ENGINE, _WHY_NOT


def make_engine(model: mujoco.MjModel, threads: int, fields: Sequence[str] = ()) -> Any:
    """Return an engine for ``model``, which has to outlive it; None if there is none.

    Args:
        model: the model.
        threads: how many threads.
        fields: model fields of which every row has values of its own.
    """
    engine, _ = native_engine()
    return engine and engine.Engine(model._address, threads, *bounds(model), list(fields))


class _Notice:
    """Says once per process that the native engine is missing, and what that costs."""

    def __init__(self) -> None:
        self._given = False

    def give(self) -> None:
        if not self._given:
            self._given = True
            warnings.warn(
                f"the native Jacobian engine is missing: {_WHY_NOT}; Jacobians come from "
                "differences of whole steps instead, 5 to 30 times slower and less accurate",
                RuntimeWarning,
                stacklevel=2,
            )


NOTICE = _Notice()
