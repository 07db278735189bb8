"""Method "implicit": the native engine, which differentiates the solved equations of motion."""

from __future__ import annotations

from collections import Counter

import mujoco
import numpy as np
from numpy.typing import NDArray

from mbrl.errors import DivergenceError, ModelError
from mbrl.physics.engine import quiet
from mbrl.physics.native_engine import make_engine, native_engine
from mbrl.physics.state import StateSpec
from mbrl.physics.step_difference import StepDifference
from mbrl.types import Array, Linearization

# Size of the differences of geometry, centred: the closed forms leave nothing stiff to difference.
DEFAULT_EPS = 2.0**-20

# What became of a row, as native/acceleration.h numbers it.
_DIVERGED, _MEMORY = 1, 2
_FALLBACKS = {
    3: "the solved acceleration does not balance the forces",
    4: "the contacts change within a difference of geometry",
    5: "a constraint appears or vanishes within a difference of geometry",
    6: "the integrator's update is not the one that is differentiated",
    7: "MuJoCo raised an error",
    8: "the engine's equations of motion are not the ones that are differentiated",
    9: "the force or rate of an actuator has a kink at its control or activation",
}


class ImplicitDifference:
    r"""A and B by implicit differentiation of forward dynamics.

    The acceleration of MuJoCo is the root of inverse dynamics,

    .. math:: F(q, v, a, u) = M a + c - \tau_{passive} - J^\top f(J a - a_{ref})
              - \tau_{actuator} = 0, \qquad
              da = -(M + J^\top H J)^{-1} (F_q dq + F_v dv + F_u du),

    so that no iterative solver is perturbed and no stiff force is differenced: rigid bodies,
    springs, dampers, the law of constraint forces and the integrators are differentiated in closed
    form. Centred differences of size ``eps`` remain where MuJoCo has no formula to offer: the
    narrow phase of collisions, tendons, muscles, ellipsoid fluid forces.

    At every state the equations of motion have to balance (an acceleration that does not solve
    them is polished by Newton's method first) and the integrator's update has to be the engine's.
    A state that fails is differenced with the whole step; ``fallbacks`` counts why.

    Args:
        model: the model, with its solver converged; kept.
        spec: its state space.
        frame_skip: physics steps per control step.
        threads: engine threads.

    Attributes:
        fallbacks: reasons, and how many states fell back for each.
    """

    def __init__(self, model: mujoco.MjModel, spec: StateSpec, frame_skip: int, threads: int):
        self.check(model)
        self._model, self._frame_skip = model, frame_skip
        self._engine = make_engine(model, threads)
        self._step = StepDifference(model, spec, frame_skip, threads)
        self.fallbacks: Counter[str] = Counter()

    @staticmethod
    def check(model: mujoco.MjModel) -> None:
        """Refuse models with a feature that has no implicit derivative here.

        Raises:
            ModelError: naming the feature, or why there is no native engine.
        """
        engine, why_not = native_engine()
        if engine is None:
            raise ModelError(f"method 'implicit' needs the native engine: {why_not}")
        if feature := engine.unsupported(model._address):
            raise ModelError(f"method 'implicit' does not cover {feature}; use method 'step'")

    @staticmethod
    def default_eps(model: mujoco.MjModel, centered: bool) -> float:
        """Return the size of the differences of geometry, which are always centred."""
        return DEFAULT_EPS

    def __call__(
        self, state: Array, ctrl: Array, *, eps: float | None, centered: bool
    ) -> Linearization:
        """Linearise at states [B, nx] and controls [B, nu]; differences are always centred."""
        with quiet():
            a, b, status = self._engine.linearize(
                state, ctrl, self._frame_skip, eps or DEFAULT_EPS, [], False
            )
        if status.any():
            self._complete(state, ctrl, status, a, b)
        return Linearization(a, b)

    def adjoint(
        self,
        states: Array,
        ctrls: Array,
        state_gradients: Array,
        ctrl_gradients: Array,
        gains: Array | None,
        *,
        eps: float | None,
        centered: bool,
        points: int,
    ) -> tuple[Array, Array]:
        """Sweep backward through T steps, see :func:`mbrl.physics.adjoint.adjoint`.

        Args:
            states: [T, B, nx].
            ctrls: [T, B, nu].
            state_gradients: [T+1, B, ndx].
            ctrl_gradients: [T, B, nu].
            gains: [T, B, nu, ndx]; None: none.
            eps: size of the differences of geometry.
            centered: whether those of states that fall back are.
            points: how many of the T B points are linearised at once.

        Returns:
            Derivatives by the initial state [B, ndx] and by the controls [T, B, nu].

        Raises:
            DivergenceError: naming points of the T B ones, whose simulation diverged.
        """
        batch = ctrls.shape[1]

        def repair(first: int, status: Array, a: Array, b: Array) -> None:
            steps = slice(first // batch, (first + len(status)) // batch)
            state, ctrl = (x[steps].reshape(len(status), x.shape[2]) for x in (states, ctrls))
            try:
                self._complete(state, ctrl, status, a, b)
            except DivergenceError as error:
                raise error.shifted(first) from error

        with quiet():
            costate, gradients = self._engine.adjoint(
                states,
                ctrls,
                state_gradients,
                ctrl_gradients,
                gains,
                self._frame_skip,
                eps or DEFAULT_EPS,
                points,
                repair,
            )
        return costate, gradients

    def _complete(self, state: Array, ctrl: Array, status: Array, a: Array, b: Array) -> None:
        """Difference the whole step at the rows that fell back, into ``a`` and ``b``."""
        rows = fallen(status, self.fallbacks)
        try:
            a[rows], b[rows] = self._step(state[rows], ctrl[rows], eps=None, centered=True)
        except DivergenceError as error:
            at = rows[list(error.rows)]
            raise DivergenceError(f"linearising states {at[:8].tolist()}: {error}", at) from error


def fallen(status: Array, fallbacks: Counter[str]) -> NDArray[np.intp]:
    """Return the rows to difference with the whole step instead, and count why.

    Raises:
        DivergenceError: naming the rows that MuJoCo cannot make sense of.
    """
    bad = np.flatnonzero((status == _DIVERGED) | (status == _MEMORY))
    if len(bad):
        why = (
            "MuJoCo ran out of memory for contacts or constraints"
            if (status[bad] == _MEMORY).any()
            else "the simulation diverged"
        )
        raise DivergenceError(f"linearising states {bad[:8].tolist()}: {why}", bad)
    rows = np.flatnonzero(status)
    for code in status[rows].tolist():
        fallbacks[_FALLBACKS[code]] += 1
    return rows
