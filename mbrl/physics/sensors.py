"""Jacobians of sensor values."""

from __future__ import annotations

from collections import Counter

import mujoco
import numpy as np

from mbrl.errors import ModelError
from mbrl.physics.differences import ManifoldDifference
from mbrl.physics.engine import SimulationPool, quiet
from mbrl.physics.implicit import ImplicitDifference, fallen
from mbrl.physics.native_engine import make_engine
from mbrl.physics.state import StateSpec
from mbrl.physics.step_difference import bounds
from mbrl.types import Array, SensorLinearization

# Centred differences. The engine's are shorter than those of its geometry: contact forces among
# the sensors bend with the impedance, at a scale of millimetres.
_NATIVE_EPS, _STEP_EPS = 2.0**-23, 2.0**-20
_ROWS_PER_CALL = 4096


class SensorDifference:
    r"""C and D of :math:`y = h(x, u)`, the values of all sensors that a control step leaves.

    As ``mj_step`` leaves them they belong to the state before the last physics step. The native
    engine differences them at accelerations that solve the equations of motion, whose own slope it
    knows; models and states that it does not cover are differenced by whole steps.

    Args:
        model: the model, with its solver converged; kept.
        spec: its state space.
        frame_skip: physics steps per control step.
        threads: engine threads.

    Attributes:
        fallbacks: reasons, and how many states fell back for each.
    """

    def __init__(self, model: mujoco.MjModel, spec: StateSpec, frame_skip: int, threads: int):
        self._model, self._frame_skip = model, frame_skip
        self.fallbacks: Counter[str] = Counter()
        try:
            ImplicitDifference.check(model)
            self._native = make_engine(model, threads)
        except ModelError:
            self._native = None
        pool = SimulationPool(model, spec, threads, ("sensordata",))

        def sensed(states: Array, ctrls: Array) -> Array:
            pool.advance(states, ctrls, frame_skip)
            return np.asarray(pool.field("sensordata", len(states)), dtype=np.float64)

        self._differences = ManifoldDifference(
            spec, sensed, lambda a, b: b - a, *bounds(model), _ROWS_PER_CALL
        )

    def __call__(self, state: Array, ctrl: Array) -> SensorLinearization:
        """Differentiate at states [B, nx] and controls [B, nu]."""
        if self._native is None:
            return SensorLinearization(*self._by_steps(state, ctrl))
        with quiet():
            c, d, status = self._native.sensors(state, ctrl, self._frame_skip, _NATIVE_EPS)
        if status.any():
            rows = fallen(status, self.fallbacks)
            c[rows], d[rows] = self._by_steps(state[rows], ctrl[rows])
        return SensorLinearization(c, d)

    def _by_steps(self, state: Array, ctrl: Array) -> tuple[Array, Array]:
        return self._differences(state, ctrl, eps=_STEP_EPS, centered=True)
