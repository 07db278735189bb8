"""The control step as a function of state, control and parameters of the model."""

from __future__ import annotations

from collections import Counter
from typing import Protocol

import mujoco
import numpy as np
from mujoco.batch import Batch

from mbrl.errors import ArgumentError, DivergenceError
from mbrl.physics.differences import ManifoldDifference
from mbrl.physics.engine import SimulationPool, quiet
from mbrl.physics.forks import ForkedLock
from mbrl.physics.implicit import DEFAULT_EPS, fallen
from mbrl.physics.linearization import check_eps, converged
from mbrl.physics.native_engine import make_engine
from mbrl.physics.parameter_names import own_values
from mbrl.physics.parameters import ModelParameters
from mbrl.physics.simulator import Simulator
from mbrl.physics.state import StateSpec
from mbrl.physics.step_difference import bounds, default_eps
from mbrl.types import Array, Linearization, ParametricLinearization

# Simulations in one call: enough to keep every thread busy; each holds fields of its own.
_ROWS_PER_CALL = 2048
# Relative to a parameter's magnitude. Chosen by measurement: one-sided errors are rounding below
# 2^-24 and curvature above 2^-20; centred ones are flat from 2^-18 to 2^-14.
_FORWARD_EPS = 2.0**-22
_CENTERED_EPS = 2.0**-16


class ParametricJacobian(Protocol):
    """One way of differentiating the control step by state and control, at given parameters."""

    def __call__(
        self, state: Array, ctrl: Array, values: Array, *, eps: float | None, centered: bool
    ) -> Linearization:
        """Return A [B, ndx, ndx] and B [B, ndx, nu] at checked arguments and values [B, P]."""


class ParametricSimulator:
    r"""A model's control step with parameters of its own in every row, :math:`x' = F(x, u; p)`.

    At the model's own values it is the simulator's map, bit for bit. Like that one it is pure: what
    was computed before has no influence.

    Args:
        simulator: the simulator; its model is not modified.
        parameters: what varies.

    Attributes:
        simulator: the simulator.
        parameters: what varies.
        spec: the state space.
        jacobian: how A and B are computed: implicitly where that covers the model, else by
            differences of whole steps.

    Raises:
        ArgumentError: if the parameters are those of another model.
    """

    def __init__(self, simulator: Simulator, parameters: ModelParameters):
        if not isinstance(simulator, Simulator):
            raise ArgumentError(f"simulator must be a Simulator, got {type(simulator).__name__}")
        if not isinstance(parameters, ModelParameters):
            raise ArgumentError(
                f"parameters must be ModelParameters, got {type(parameters).__name__}"
            )
        if not parameters.fits(simulator.model):
            raise ArgumentError("parameters are those of another model than the simulator's")
        self.simulator, self.parameters, self.spec = simulator, parameters, simulator.spec
        self._pool = ParameterPool(simulator.model, self.spec, simulator.threads, parameters)
        self._lock = ForkedLock()
        self._differences = ParametricDifference(simulator, parameters)
        self._implicit = (
            ParametricImplicit(simulator, parameters, self._differences.jacobian)
            if simulator.linearization_method() == "implicit"
            else None
        )
        self.jacobian: ParametricJacobian = self._jacobian

    def step(self, state: Array, ctrl: Array, values: Array) -> Array:
        """Advance every row by one control step.

        Args:
            state: [B, nx].
            ctrl: [B, nu].
            values: parameters, [P] or [B, P].

        Returns:
            Next states, [B, nx].

        Raises:
            ArgumentError: on a wrong shape, a number that is not finite or out of bounds.
            DivergenceError: naming the rows whose simulation diverged.
        """
        state, ctrl = self.simulator.checked(state, ctrl)
        values = self.parameters.checked(values, len(state))
        with self._lock:
            return self._pool.advance_with(state, ctrl, values, self.simulator.frame_skip)

    def linearize(
        self,
        state: Array,
        ctrl: Array,
        values: Array,
        *,
        eps: float | None = None,
        centered: bool = False,
    ) -> ParametricLinearization:
        r"""Differentiate the control step in tangent space: dx' = A dx + B du + Theta dp.

        Args:
            state: [B, nx].
            ctrl: [B, nu].
            values: parameters, [P] or [B, P].
            eps: size of the differences, those of parameters relative to their magnitude; None:
                the measured best.
            centered: second-order differences, at twice the cost.

        Returns:
            A [B, ndx, ndx], B [B, ndx, nu] and Theta [B, ndx, P] of the step with its constraint
            solver converged.

        Raises:
            ArgumentError: on a wrong shape, value or eps.
            DivergenceError: naming the rows whose simulation diverged.
        """
        check_eps(eps)
        state, ctrl = self.simulator.checked(state, ctrl)
        values = self.parameters.checked(values, len(state))
        with self._lock:
            a, b = self.jacobian(state, ctrl, values, eps=eps, centered=centered)
            theta = self._differences.theta(state, ctrl, values, eps=eps, centered=centered)
        return ParametricLinearization(a, b, theta)

    def sensitivity(
        self,
        state: Array,
        ctrl: Array,
        values: Array,
        *,
        eps: float | None = None,
        centered: bool = False,
    ) -> Array:
        """Return Theta [B, ndx, P] alone; see :meth:`linearize`."""
        check_eps(eps)
        state, ctrl = self.simulator.checked(state, ctrl)
        values = self.parameters.checked(values, len(state))
        with self._lock:
            return self._differences.theta(state, ctrl, values, eps=eps, centered=centered)

    @property
    def linearization_fallbacks(self) -> dict[str, int]:
        """Why states fell back to differences of whole steps, and how many."""
        return {} if self._implicit is None else dict(self._implicit.fallbacks)

    def _jacobian(
        self, state: Array, ctrl: Array, values: Array, *, eps: float | None, centered: bool
    ) -> Linearization:
        if self._implicit is None:
            return self._differences.jacobian(state, ctrl, values, eps=eps, centered=centered)
        return self._implicit(state, ctrl, values, eps=eps, centered=centered)

    def __reduce__(self) -> tuple[object, ...]:
        """Copies and pickles are new simulators of the same model."""
        return ParametricSimulator, (self.simulator, self.parameters)


class ParametricImplicit:
    """A and B by the native engine, every row a model of its own; see ``ImplicitDifference``.

    Args:
        simulator: whose step is differentiated, with its constraint solver converged.
        parameters: what varies.
        fallback: differentiates the states that fail the engine's checks.
    """

    def __init__(
        self, simulator: Simulator, parameters: ModelParameters, fallback: ParametricJacobian
    ):
        self._model, self._parameters = converged(simulator.model), parameters
        self._frame_skip, self._fallback = simulator.frame_skip, fallback
        fields = [target.field for target in parameters.targets]
        self._engine = make_engine(self._model, simulator.threads, fields)
        self._own = [own_values(self._model, field) for field in fields]
        self.fallbacks: Counter[str] = Counter()

    def __call__(
        self, state: Array, ctrl: Array, values: Array, *, eps: float | None, centered: bool
    ) -> Linearization:
        """Return A [B, ndx, ndx] and B [B, ndx, nu]; differences are always centred."""
        fields = []
        for target, own in zip(self._parameters.targets, self._own, strict=True):
            field = np.tile(own, (len(state), 1))
            field[:, target.at] = values[:, target.column] * target.ratio
            fields.append(field)
        derive = bool(len(self._parameters.deriving))
        try:
            with quiet():
                a, b, status = self._engine.linearize(
                    state, ctrl, self._frame_skip, eps or DEFAULT_EPS, fields, derive
                )
        except RuntimeError:  # MuJoCo refuses parameters; differences name the rows
            return self._fallback(state, ctrl, values, eps=None, centered=True)
        if status.any():
            rows = fallen(status, self.fallbacks)
            try:
                a[rows], b[rows] = self._fallback(
                    state[rows], ctrl[rows], values[rows], eps=None, centered=True
                )
            except DivergenceError as error:
                at = rows[list(error.rows)]
                message = f"linearising states {at[:8].tolist()}: {error}"
                raise DivergenceError(message, at) from error
        return Linearization(a, b)


class ParametricDifference:
    """Differences of F by state, control and parameters, see :class:`ManifoldDifference`.

    Args:
        simulator: whose step is differenced, with its constraint solver converged.
        parameters: what varies.
    """

    def __init__(self, simulator: Simulator, parameters: ModelParameters):
        self._spec, self._parameters = simulator.spec, parameters
        model = converged(simulator.model)
        pool = ParameterPool(model, self._spec, simulator.threads, parameters)
        nu, skip = self._spec.nu, simulator.frame_skip
        low, high = bounds(model)
        self._differences = ManifoldDifference(
            self._spec,
            lambda states, inputs: pool.advance_with(states, inputs[:, :nu], inputs[:, nu:], skip),
            self._spec.difference,
            np.concatenate([low, parameters.lower]),
            np.concatenate([high, parameters.upper]),
            _ROWS_PER_CALL,
        )
        self._eps = {centered: default_eps(model, centered) for centered in (False, True)}

    def jacobian(
        self, state: Array, ctrl: Array, values: Array, *, eps: float | None, centered: bool
    ) -> Linearization:
        """Return A [B, ndx, ndx] and B [B, ndx, nu]."""
        return self._differences(
            state,
            np.concatenate([ctrl, values], axis=1),
            eps=eps or self._eps[centered],
            centered=centered,
            wanted=slice(0, self._spec.ndx + self._spec.nu),
        )

    def theta(
        self, state: Array, ctrl: Array, values: Array, *, eps: float | None, centered: bool
    ) -> Array:
        """Return Theta [B, ndx, P]."""
        others = self._spec.ndx + self._spec.nu
        sizes = np.zeros((len(state), others + self._parameters.size))
        sizes[:, others:] = (eps or (_CENTERED_EPS if centered else _FORWARD_EPS)) * (
            self._parameters.scale(values)
        )
        return self._differences(
            state,
            np.concatenate([ctrl, values], axis=1),
            eps=sizes,
            centered=centered,
            wanted=slice(others, None),
        ).B


class ParameterPool(SimulationPool):
    """A pool of simulations with model fields of their own.

    Args:
        model: the model to run; kept, not copied.
        spec: its state space.
        threads: engine threads.
        parameters: what varies.
    """

    def __init__(
        self, model: mujoco.MjModel, spec: StateSpec, threads: int, parameters: ModelParameters
    ):
        super().__init__(model, spec, threads)
        self._parameters = parameters

    def advance_with(self, state: Array, ctrl: Array, values: Array, substeps: int) -> Array:
        """Advance as ``advance`` does, row i under the parameters values[i], (n, P).

        Raises:
            DivergenceError: naming the rows that left the finite world or whose parameters MuJoCo
                refuses.
        """
        ids = self._load(state, ctrl)
        for target, field in zip(self._parameters.targets, self._fields, strict=True):
            field[: len(ids), target.at] = values[:, target.column] * target.ratio
        self._derive(values[:, self._parameters.deriving])
        self._run(ids, lambda: self._batch.step(ids, nstep=substeps))
        return np.array(self._x[: len(ids)])

    def _derive(self, values: Array) -> None:
        """Recompute derived constants of the rows where what they derive from has changed."""
        n = len(values)
        changed = np.flatnonzero((self._derived[:n] != values).any(axis=1)).astype(np.int32)
        if len(changed):
            self._derived[changed] = np.nan  # in case MuJoCo refuses them
            self._run(self._ids[:n], lambda: self._batch.set_const(changed))
            self._derived[changed] = values[changed]

    def _extend(self, batch: Batch, capacity: int) -> None:
        self._fields = [
            batch.expand(target.field).reshape(capacity, -1) for target in self._parameters.targets
        ]
        self._derived = np.full((capacity, len(self._parameters.deriving)), np.nan)
