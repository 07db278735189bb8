"""What residuals are made in and evaluated at: a model, its names, and measurements of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import mujoco
import numpy as np
from numpy.typing import NDArray

from mbrl.errors import ConfigError, UnknownNameError, suggestion
from mbrl.physics import Probe, Simulator
from mbrl.resources import resource_path
from mbrl.types import Array, SensorLinearization

Steps: TypeAlias = NDArray[np.int64]


class Point(NamedTuple):
    """Where residuals are evaluated."""

    state: Array  # (N, nx)
    ctrl: Array  # (N, nu)
    t: Steps  # (N,): index of the action that led to the state
    measured: Array  # (N, m)
    slopes: SensorLinearization | None = None  # of what is measured, where Jacobians are wanted


class Slopes(NamedTuple):
    """Jacobians of a residual in tangent space."""

    x: Array  # (N, k, ndx)
    u: Array  # (N, k, nu)


class Residual(ABC):
    r"""A vector r(x, u; t) that a cost wants to be zero.

    Attributes:
        size: its width k.
        uses_time: whether it depends on t.
    """

    size: int
    uses_time: bool = False

    @abstractmethod
    def value(self, point: Point) -> Array:
        """Return r, [N, k]."""

    @abstractmethod
    def slopes(self, point: Point) -> Slopes:
        """Return the Jacobians of r."""


class NamedModel:
    """A model in which residuals find what they name, and say what they measure.

    Args:
        simulator: the physics.

    Attributes:
        model: its model.
        spec: its state space.
        dt: seconds per control step.
        probes: what has been asked to be measured.
    """

    def __init__(self, simulator: Simulator):
        self.model, self.spec, self.dt = simulator.model, simulator.spec, simulator.dt
        self.probes: list[Probe] = []
        self._ends = [0]

    def measured(self, probe: Probe) -> slice:
        """Ask for a measurement; return where it will be among all of them."""
        if probe not in self.probes:
            self.probes.append(probe)
            self._ends.append(self._ends[-1] + probe.size(self.model))
        at = self.probes.index(probe)
        return slice(self._ends[at], self._ends[at + 1])

    def id(self, kind: str, name: str, where: str) -> int:
        """Return the id of what the model calls by a name.

        Args:
            kind: "joint", "body", "site", "sensor", "actuator" or "key".
            name: the name.
            where: the configuration key of the name, for messages.

        Raises:
            UnknownNameError: if there is nothing of that name; names the closest.
        """
        of = getattr(mujoco.mjtObj, f"mjOBJ_{kind.upper()}")
        found = mujoco.mj_name2id(self.model, of, name)
        if found >= 0:
            return int(found)
        count = getattr(self.model, _COUNTS[kind])
        names = [mujoco.mj_id2name(self.model, of, i) for i in range(count)]
        legal = suggestion(name, filter(None, names))
        raise UnknownNameError(f"{where}: no {_WORDS.get(kind, kind)} {name!r}; {legal}")

    def ids(self, kind: str, names: str | Sequence[str] | None, where: str) -> list[int]:
        """Return the ids of one or several names; None: of all."""
        if names is None:
            return list(range(getattr(self.model, _COUNTS[kind])))
        listed = [names] if isinstance(names, str) else names
        return [self.id(kind, name, where) for name in listed]

    def state(self, keyframe: str | None, where: str) -> Array:
        """Return the state (nx) of a keyframe; None: of the model's reference pose, at rest."""
        spec = self.spec
        if keyframe is None:
            return spec.join(self.model.qpos0, np.zeros(spec.nv))
        key = self.id("key", keyframe, where)
        parts = self.model.key_qpos[key], self.model.key_qvel[key], self.model.key_act[key]
        return spec.join(*parts)


_COUNTS = {
    "joint": "njnt",
    "body": "nbody",
    "site": "nsite",
    "sensor": "nsensor",
    "actuator": "nactuator",
    "key": "nkey",
}
_WORDS = {"key": "keyframe"}


def found_file(path: str) -> Path:
    """Return the path of a file as it is given, or else of that name among our assets."""
    given = Path(path).expanduser()
    inside = resource_path("assets", path)
    return inside if not given.is_file() and inside.is_file() else given


def vector(value: Any, size: int, where: str) -> Array:
    """Return a number, or a list of ``size`` numbers, as an array (size).

    Raises:
        ConfigError: if the list has another length.
    """
    numbers = np.asarray(value, dtype=np.float64)
    if numbers.ndim and numbers.shape != (size,):
        raise ConfigError(f"{where} must be a number or {size} of them, got {value!r}")
    return np.array(np.broadcast_to(numbers, size))
