"""Jacobians of the control step: the methods, by name, and the choice among them."""

from __future__ import annotations

import copy
from collections import Counter
from typing import TYPE_CHECKING, Protocol

import mujoco

from mbrl.errors import ArgumentError, ModelError, suggestion
from mbrl.physics.implicit import ImplicitDifference
from mbrl.physics.native_engine import NOTICE, native_engine
from mbrl.physics.state import StateSpec
from mbrl.physics.step_difference import StepDifference
from mbrl.physics.transition import TransitionDifference
from mbrl.types import Array, Linearization

if TYPE_CHECKING:
    from mbrl.physics.smoothing import Smoothing

_KEPT = 8  # differentiations: a continuation that anneals its smoothing goes through many
# Newton at this tolerance stops where rounding does: as good as tolerance 0, at none of its cost.
# With elliptic cones 1e-14 leaves errors of 1e-2 in the Jacobian and 1e-20 of 1e-3; 1e-30 costs.
_TOLERANCE = 1e-25
_ITERATIONS = 100


class JacobianMethod(Protocol):
    """One way of differentiating the control step."""

    def __call__(
        self, state: Array, ctrl: Array, *, eps: float | None, centered: bool
    ) -> Linearization:
        """Return A [B, ndx, ndx] and B [B, ndx, nu] at checked arguments."""


class Linearizer:
    r"""A(x, u) and B(x, u) of one control step in tangent space.

    .. math:: A = \partial (F(x \oplus d, u) \ominus F(x, u)) / \partial d, \qquad
              B = \partial (F(x, u + d) \ominus F(x, u)) / \partial d \quad \text{at } d = 0.

    What is differentiated is the step with its constraint solver converged (Newton): the map that
    the engine approximates, without the noise of stopping early. The optimum is the same for every
    solver, so a model that ships PGS or loose tolerances keeps them for simulation.

    Args:
        model: the simulator's private model; not modified.
        spec: its state space.
        frame_skip: physics steps per control step.
        threads: engine threads.

    Attributes:
        fallbacks: why states were differenced with the whole step instead, and how many.
    """

    def __init__(self, model: mujoco.MjModel, spec: StateSpec, frame_skip: int, threads: int):
        self._model, self._spec = model, spec
        self._frame_skip, self._threads = frame_skip, threads
        self.fallbacks: Counter[str] = Counter()
        self._built: dict[tuple[str, Smoothing | None], JacobianMethod] = {}

    def __call__(
        self,
        state: Array,
        ctrl: Array,
        *,
        method: str,
        eps: float | None,
        centered: bool,
        smoothing: Smoothing | None = None,
    ) -> Linearization:
        """Linearise at checked arguments; see ``Simulator.linearize``."""
        check_eps(eps)
        return self.differentiation(method, smoothing)(state, ctrl, eps=eps, centered=centered)

    def differentiation(self, method: str, smoothing: Smoothing | None = None) -> JacobianMethod:
        """Return what differentiates the step by a method; raises as :meth:`resolve` does."""
        key = self.resolve(method), smoothing
        differentiate = self._built.pop(key, None) or self._build(*key)
        self._built[key] = differentiate  # most recently used last
        if len(self._built) > _KEPT:
            del self._built[next(iter(self._built))]
        return differentiate

    def _build(self, name: str, smoothing: Smoothing | None) -> JacobianMethod:
        def build(model: mujoco.MjModel) -> JacobianMethod:
            made = METHODS[name](model, self._spec, self._frame_skip, self._threads)
            if isinstance(made, ImplicitDifference):
                made.fallbacks = self.fallbacks
            return made

        model = converged(self._model)
        if smoothing is None:
            return build(model)
        return smoothing.differentiated(model, build, self._spec)

    def resolve(self, method: str) -> str:
        """Return the name of the method to use.

        Raises:
            ArgumentError: if there is no such method.
            ModelError: if it cannot differentiate this model.
        """
        if method == "auto":
            return self._chosen()
        if not isinstance(method, str) or method not in METHODS:
            raise ArgumentError(
                f"unknown method {method!r}; {suggestion(method, ['auto', *METHODS])}"
            )
        METHODS[method].check(self._model)
        return method

    def _chosen(self) -> str:
        """Return "implicit" if it covers the model, else "step".

        By the model alone: a choice by the clock would make runs differ from one another.
        """
        if native_engine()[0] is None:
            NOTICE.give()
            return "step"
        try:
            ImplicitDifference.check(self._model)
        except ModelError:
            return "step"
        return "implicit"


def check_eps(eps: float | None) -> None:
    """Refuse sizes of differences that cannot be meant.

    Raises:
        ArgumentError: unless ``eps`` lies between 0 and 1, or is None.
    """
    if eps is not None and not (isinstance(eps, float) and 0.0 < eps < 1.0):
        raise ArgumentError(f"eps must lie between 0 and 1, or be None, got {eps!r}")


def converged(model: mujoco.MjModel) -> mujoco.MjModel:
    """Return a copy of ``model`` whose constraint solver runs to convergence."""
    own = copy.copy(model)
    converge(own)
    return own


def converge(model: mujoco.MjModel) -> None:
    """Make the constraint solver of ``model`` run to convergence."""
    model.opt.solver = mujoco.mjtSolver.mjSOL_NEWTON
    model.opt.tolerance = _TOLERANCE
    model.opt.iterations = max(model.opt.iterations, _ITERATIONS)
    model.opt.noslip_tolerance = 0.0


METHODS: dict[str, type[ImplicitDifference] | type[StepDifference] | type[TransitionDifference]] = {
    "implicit": ImplicitDifference,
    "step": StepDifference,
    "transition": TransitionDifference,
}
