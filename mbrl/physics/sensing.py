"""Sensor values at a state, as ``mj_forward`` gives them, and their Jacobians there."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import mujoco
import numpy as np
from numpy.typing import NDArray

from mbrl.errors import DivergenceError
from mbrl.physics.differences import ManifoldDifference
from mbrl.physics.engine import SimulationPool, quiet
from mbrl.physics.forks import ForkedLock
from mbrl.physics.linearization import converged
from mbrl.physics.native_engine import make_engine
from mbrl.physics.sensors import SensorDifference
from mbrl.physics.state import StateSpec
from mbrl.physics.step_difference import bounds
from mbrl.types import Array, SensorLinearization

_SENSOR, _OBJECT = mujoco.mjtSensor, mujoco.mjtObj
# A power of two, so that most perturbations are exact: the best size for centred differences.
_EPS = 2.0**-20
_ROWS_PER_CALL = 4096
# Position and rotation of the frame of every kind of object.
_FRAMES = {
    int(_OBJECT.mjOBJ_BODY): ("xipos", "ximat"),
    int(_OBJECT.mjOBJ_XBODY): ("xpos", "xmat"),
    int(_OBJECT.mjOBJ_GEOM): ("geom_xpos", "geom_xmat"),
    int(_OBJECT.mjOBJ_SITE): ("site_xpos", "site_xmat"),
}
_AXES = {
    int(_SENSOR.mjSENS_FRAMEXAXIS): 0,
    int(_SENSOR.mjSENS_FRAMEYAXIS): 1,
    int(_SENSOR.mjSENS_FRAMEZAXIS): 2,
}
_OF_FRAMES = {
    *_AXES,
    int(_SENSOR.mjSENS_FRAMEPOS),
    int(_SENSOR.mjSENS_FRAMELINVEL),
    int(_SENSOR.mjSENS_FRAMEANGVEL),
}
_OF_SUBTREES = {int(_SENSOR.mjSENS_SUBTREECOM), int(_SENSOR.mjSENS_SUBTREELINVEL)}
_MODELS = -1  # the kind of a probe that is a sensor of the model


class Probe(NamedTuple):
    """A quantity to measure; the model need not have a sensor for it.

    Attributes:
        kind: an ``mjtSensor`` of a frame or a subtree, in the world's frame: position, x, y or z
            axis, linear or angular velocity; center of mass, its velocity. -1: a sensor of the
            model.
        type: ``mjtObj`` of the frame: body (inertial), xbody, geom or site; else 0.
        id: of the frame or of the subtree's body, or of the model's sensor.
    """

    kind: int
    type: int
    id: int

    @classmethod
    def sensor(cls, model: mujoco.MjModel, sensor: int) -> Probe:
        """Return what a sensor of the model measures."""
        kind, of = int(model.sensor_type[sensor]), int(model.sensor_objtype[sensor])
        plain = (
            model.sensor_reftype[sensor] == int(_OBJECT.mjOBJ_UNKNOWN)
            and model.sensor_cutoff[sensor] == 0
            and not model.opt.disableflags & int(mujoco.mjtDisableBit.mjDSBL_SENSOR)
        )
        if plain and ((kind in _OF_FRAMES and of in _FRAMES) or kind in _OF_SUBTREES):
            return cls(kind, of if kind in _OF_FRAMES else 0, int(model.sensor_objid[sensor]))
        return cls(_MODELS, 0, sensor)

    def size(self, model: mujoco.MjModel) -> int:
        """How many numbers it is."""
        return int(model.sensor_dim[self.id]) if self.kind == _MODELS else 3

    def needs_dynamics(self, model: mujoco.MjModel) -> bool:
        """Whether it depends on accelerations or forces."""
        return self.kind == _MODELS and bool(
            model.sensor_needstage[self.id] == int(mujoco.mjtStage.mjSTAGE_ACC)
        )


class Sensing:
    r"""Measurements :math:`y = h(x, u)` of ``mj_forward``, with C and D in dy = C dx + D du.

    Those of position and velocity run only the stages of ``mj_forward`` that they need. Probes of
    frames and subtrees have Jacobians in closed form: with J(q) that of a point, and v its
    velocity J(q) qvel,

    .. math:: \partial v / \partial q_j = \dot J_j + J [e_j, \dot q],

    where the Lie bracket, zero but for ball and free joints, is that of motions along the j-th
    tangent and along the velocity. Other sensors of the model are differenced, those of
    accelerations and forces as :class:`SensorDifference` does. Without the native engine all are
    differences of ``mj_forward``.

    Args:
        model: the model; kept.
        spec: its state space.
        probes: what to measure.
        threads: engine threads.

    Attributes:
        size: how many numbers y has.
        parts: where each probe's are among them.
    """

    def __init__(
        self, model: mujoco.MjModel, spec: StateSpec, probes: Sequence[Probe], threads: int
    ):
        self._model, self._spec, self._probes = model, spec, tuple(probes)
        sizes = [probe.size(model) for probe in probes]
        ends = np.cumsum([0, *sizes])
        self.size = int(ends[-1])
        self.parts = [slice(int(a), int(b)) for a, b in itertools.pairwise(ends)]
        dynamic = [probe.needs_dynamics(model) for probe in probes]
        self._static = [p for p, needs in zip(probes, dynamic, strict=True) if not needs]
        self._dynamic = [p for p, needs in zip(probes, dynamic, strict=True) if needs]
        self._moved: NDArray[np.bool_] = np.repeat(dynamic, sizes).astype(bool)
        self._data_rows: NDArray[np.intp] = _data_rows(model, self._dynamic)
        self._native: Any = None if model.nplugin else make_engine(model, threads)
        self._pool = SimulationPool(model, spec, threads, ("sensordata",))
        self._differences = ManifoldDifference(
            spec, self._serial, lambda a, b: b - a, *bounds(model), _ROWS_PER_CALL
        )
        self._sensors = (
            SensorDifference(converged(model), spec, 1, threads) if self._dynamic else None
        )
        # The buffers are shared by all calls: one Python thread at a time.
        self._lock = ForkedLock()

    def values(self, state: Array, ctrl: Array) -> Array:
        """Measure at states [B, nx] under controls [B, nu].

        Returns:
            y, [B, size].

        Raises:
            DivergenceError: naming the rows that MuJoCo cannot make sense of.
        """
        with self._lock:
            return self._values(state, ctrl)

    def linearize(self, state: Array, ctrl: Array) -> tuple[Array, SensorLinearization]:
        """Measure and differentiate at states [B, nx] and controls [B, nu].

        Returns:
            y [B, size]; C [B, size, ndx] and D [B, size, nu], with the solver converged.

        Raises:
            DivergenceError: naming the rows that MuJoCo cannot make sense of.
        """
        shape = len(state), self.size
        c, d = np.zeros((*shape, self._spec.ndx)), np.zeros((*shape, self._spec.nu))
        with self._lock:
            if self._native is None:
                values = self._values(state, ctrl)
                if self._static:
                    c[:, ~self._moved] = self._differences(state, ctrl, eps=_EPS, centered=True).A
            else:
                values = np.empty(shape)
                values[:, ~self._moved], c[:, ~self._moved] = self._sense(state, ctrl, True)
                if self._dynamic:
                    values[:, self._moved] = self._forward(state, ctrl)
            if self._sensors is not None:
                slopes = self._sensors(state, ctrl)
                c[:, self._moved] = slopes.C[:, self._data_rows]
                d[:, self._moved] = slopes.D[:, self._data_rows]
        return values, SensorLinearization(c, d)

    def _values(self, state: Array, ctrl: Array) -> Array:
        values = np.empty((len(state), self.size))
        if self._native is None:
            values[:, ~self._moved] = self._serial(state, ctrl)
        else:
            values[:, ~self._moved] = self._sense(state, ctrl, False)[0]
        if self._dynamic:
            values[:, self._moved] = self._forward(state, ctrl)
        return values

    def _sense(self, state: Array, ctrl: Array, derivatives: bool) -> tuple[Array, Array]:
        """Let the native engine measure what needs no dynamics."""
        with quiet():
            found = self._native.sense(state, ctrl, self._static, _EPS, derivatives)
        values, jacobian, status = found
        _refuse(np.flatnonzero(status))
        return values, jacobian

    def _forward(self, state: Array, ctrl: Array) -> Array:
        """Measure what needs dynamics."""
        self._pool.forward(state, ctrl)
        data = self._pool.field("sensordata", len(state))
        return np.asarray(data, dtype=np.float64)[:, self._data_rows]

    def _serial(self, state: Array, ctrl: Array) -> Array:
        """Measure what needs no dynamics, one row after the other."""
        model, data = self._model, mujoco.MjData(self._model)
        subtrees = any(p.kind == int(_SENSOR.mjSENS_SUBTREELINVEL) for p in self._static)
        rows = np.empty((len(state), int((~self._moved).sum())))
        bad = []
        with quiet():
            for i in range(len(state)):
                mujoco.mj_resetData(model, data)
                data.qpos[:], data.qvel[:], data.act[:] = self._spec.split(state[i])
                data.ctrl[:] = ctrl[i]
                mujoco.mj_forward(model, data)
                if subtrees:
                    mujoco.mj_subtreeVel(model, data)
                parts = [_read(model, data, probe) for probe in self._static]
                rows[i] = np.concatenate([np.zeros(0), *parts])
                if data.warning.number.any() or not np.isfinite(rows[i]).all():
                    bad.append(i)
        _refuse(bad)
        return rows


def _data_rows(model: mujoco.MjModel, probes: Sequence[Probe]) -> NDArray[np.intp]:
    """Return where sensors of the model are in ``sensordata``."""
    starts = [(int(model.sensor_adr[p.id]), p.size(model)) for p in probes]
    return np.array([a + i for a, size in starts for i in range(size)], dtype=np.intp)


def _read(model: mujoco.MjModel, data: mujoco.MjData, probe: Probe) -> Array:
    """Return what MjData holds of a probe."""
    kind, of, at = probe
    if kind == _MODELS:
        start = model.sensor_adr[at]
        return data.sensordata[start : start + model.sensor_dim[at]].copy()
    if kind == int(_SENSOR.mjSENS_SUBTREECOM):
        return data.subtree_com[at].copy()
    if kind == int(_SENSOR.mjSENS_SUBTREELINVEL):
        return data.subtree_linvel[at].copy()
    if kind == int(_SENSOR.mjSENS_FRAMEPOS):
        return getattr(data, _FRAMES[of][0])[at].copy()
    if kind in _AXES:
        return getattr(data, _FRAMES[of][1])[at].reshape(3, 3)[:, _AXES[kind]].copy()
    both = np.empty(6)
    mujoco.mj_objectVelocity(model, data, of, at, both, 0)
    return both[:3] if kind == int(_SENSOR.mjSENS_FRAMEANGVEL) else both[3:]


def _refuse(rows: Sequence[int] | NDArray[np.intp]) -> None:
    if len(rows):
        found = [int(row) for row in rows]
        raise DivergenceError(f"measuring rows {found[:8]}: the simulation diverged", found)
