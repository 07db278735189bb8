"""A pure, batched simulator of an unmodified MuJoCo model."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from mbrl.errors import ArgumentError, ModelError
from mbrl.physics.adjoint import Adjoint, adjoint
from mbrl.physics.arguments import check_fields, finite, loaded, real_array, shaped
from mbrl.physics.engine import SimulationPool, private_copy, thread_count
from mbrl.physics.linearization import Linearizer, check_eps, converged
from mbrl.physics.sensing import Probe, Sensing
from mbrl.physics.sensors import SensorDifference
from mbrl.physics.smoothing import Smoothing, smoothing_of
from mbrl.physics.state import StateSpec
from mbrl.physics.timed_lock import TimedLock
from mbrl.types import Array, Linearization, SensorLinearization

_KEPT_POOLS = 4


class Simulator:
    r"""The control-step map of a model, :math:`x' = F(x, u)`, over a batch.

    One control step is ``frame_skip`` calls of ``mj_step`` under constant control. The map is pure:
    the same (state, ctrl) gives the same next state bit for bit, whatever was computed before and
    however many threads run. The caller's model is copied and stays byte-identical; its integrator,
    solver and options are kept, except that a diverging row raises instead of resetting itself.

    Args:
        model: a compiled model, or a path to MJCF.
        frame_skip: physics steps per control step.
        threads: engine threads; None: all cores.

    Attributes:
        model: the private copy.
        spec: the state space.
        frame_skip: physics steps per control step.
        dt: seconds per control step.

    Raises:
        ModelError: if the model cannot be loaded, or keeps state outside [qpos, qvel, act].
        ArgumentError: if ``frame_skip`` or ``threads`` is not a positive integer.
    """

    def __init__(
        self,
        model: mujoco.MjModel | str | os.PathLike[str],
        *,
        frame_skip: int = 1,
        threads: int | None = None,
    ):
        if isinstance(frame_skip, bool) or not isinstance(frame_skip, int) or frame_skip < 1:
            raise ArgumentError(f"frame_skip must be a positive integer, got {frame_skip!r}")
        self.model = private_copy(loaded(model))
        self.spec = StateSpec(self.model)
        self.frame_skip = frame_skip
        self.threads = thread_count(threads)
        self.dt = float(self.model.opt.timestep * frame_skip)
        # The pools' buffers are shared by all calls: one Python thread at a time.
        self._lock = TimedLock()
        self._pools: dict[tuple[str, ...], SimulationPool] = {}
        self._sensors: SensorDifference | None = None
        self._sensing: Sensing | None = None
        self._linearizer = Linearizer(self.model, self.spec, frame_skip, self.threads)

    def step(self, state: Array, ctrl: Array) -> Array:
        """Advance every row by one control step.

        Args:
            state: [B, nx].
            ctrl: [B, nu]; MuJoCo clamps it to the model's control range.

        Returns:
            Next states, [B, nx].

        Raises:
            ArgumentError: on a wrong shape or a number that is not finite.
            DivergenceError: naming the rows whose simulation diverged.
        """
        state, ctrl = self.checked(state, ctrl)
        with self._lock:
            return self._pool().advance(state, ctrl, self.frame_skip)

    def step_with_fields(
        self, state: Array, ctrl: Array, fields: Sequence[str]
    ) -> tuple[Array, dict[str, NDArray[np.generic]]]:
        """Advance every row and read MjData fields as ``mj_step`` leaves them.

        Like after ``mj_step``, derived fields (``xpos``, ``site_xpos``, ``qfrc_constraint`` ...)
        belong to the state before the last physics step.

        Args:
            state: [B, nx].
            ctrl: [B, nu].
            fields: names of MjData fields.

        Returns:
            Next states [B, nx], and a dict of arrays [B, ...].
        """
        state, ctrl = self.checked(state, ctrl)
        with self._lock:
            pool = self._pool(fields)
            following = pool.advance(state, ctrl, self.frame_skip)
            return following, {name: pool.field(name, len(state)) for name in fields}

    def fields(
        self, state: Array, fields: Sequence[str], ctrl: Array | None = None
    ) -> dict[str, NDArray[np.generic]]:
        """Return MjData fields [B, ...] computed by ``mj_forward`` at ``state`` [B, nx].

        Args:
            state: [B, nx].
            fields: names of MjData fields.
            ctrl: [B, nu]; zero when None.
        """
        state = real_array(state, "state")
        if ctrl is None:
            ctrl = np.zeros((len(state) if state.ndim else 0, self.spec.nu))
        state, ctrl = self.checked(state, ctrl)
        with self._lock:
            pool = self._pool(fields)
            pool.forward(state, ctrl)
            return {name: pool.field(name, len(state)) for name in fields}

    def rollout(self, state: Array, ctrls: Array, *, mark_diverged: bool = False) -> Array:
        """Apply a sequence of controls.

        Args:
            state: initial states, [B, nx].
            ctrls: [T, B, nu].
            mark_diverged: a row that diverges becomes NaN from that state on, instead of an error;
                the other rows are what they are without it.

        Returns:
            States including the initial ones, [T+1, B, nx]; equal to repeated :meth:`step`.

        Raises:
            ArgumentError: on a wrong shape or a number that is not finite.
            DivergenceError: naming the rows whose simulation diverged.
        """
        ctrls, state = real_array(ctrls, "ctrls"), real_array(state, "state")
        if ctrls.ndim != 3:
            raise ArgumentError(f"ctrls must have shape [T, B, nu], got {list(ctrls.shape)}")
        state, _ = self.checked(state, ctrls[0] if len(ctrls) else np.zeros(ctrls.shape[1:]))
        finite(ctrls, "ctrls")
        return self.closed_loop(state, lambda t, _: ctrls[t], len(ctrls), mark_diverged)[0]

    def closed_loop(
        self,
        state: Array,
        law: Callable[[int, Array], Array],
        steps: int,
        mark_diverged: bool = False,
    ) -> tuple[Array, Array]:
        """Apply a feedback law.

        Args:
            state: initial states, [B, nx].
            law: (t, states [B, nx]) -> controls [B, nu]; it must not change the states. A row
                that was marked as diverged stands in for itself with harmless states.
            steps: T.
            mark_diverged: see :meth:`rollout`.

        Returns:
            States including the initial ones, [T+1, B, nx], and the controls that were given,
            [T, B, nu].
        """
        state, _ = self.checked(state, np.zeros((len(state), self.spec.nu)))
        with self._lock:
            return self._pool().roll(state, law, steps, self.frame_skip, mark=mark_diverged)

    def linearize(
        self,
        state: Array,
        ctrl: Array,
        *,
        method: str = "auto",
        eps: float | None = None,
        centered: bool = False,
        smoothing: Smoothing | Mapping[str, Any] | None = None,
    ) -> Linearization:
        r"""Differentiate the control step in tangent space: dx' = A dx + B du.

        Args:
            state: [B, nx].
            ctrl: [B, nu].
            method: "implicit" differentiates the solved equations of motion (native, most
                accurate and fastest, see :class:`ImplicitDifference`); "step" differences the
                whole control step (any model); "transition" chains ``mjd_transitionFD`` over the
                physics steps (not RK4); "auto" takes "implicit" where it covers the model, else
                "step".
            eps: size of the differences; None: the measured best, one-sided 2^-27 (2^-23 if the
                model can have no constraint), centred 2^-20.
            centered: second-order differences, at twice the cost ("implicit" always has them).
            smoothing: whose A and B stand in, ``{"kind": "impedance" or "randomized", ...}`` or an
                object of ``mbrl.physics.smoothing``; None: those of the step itself.

        Returns:
            A [B, ndx, ndx] and B [B, ndx, nu] of the step with its constraint solver converged.

        Raises:
            ArgumentError: on a wrong shape, method, eps or smoothing.
            ConfigError: on an unknown kind or option of a smoothing.
            ModelError: if the method cannot differentiate this model.
            DivergenceError: naming the rows whose simulation diverged.
        """
        state, ctrl = self.checked(state, ctrl)
        found = smoothing_of(smoothing)
        with self._lock:
            return self._linearizer(
                state, ctrl, method=method, eps=eps, centered=centered, smoothing=found
            )

    def adjoint(
        self,
        states: Array,
        ctrls: Array,
        state_gradients: Array,
        ctrl_gradients: Array | None = None,
        *,
        gains: Array | None = None,
        method: str = "auto",
        eps: float | None = None,
        centered: bool = False,
        smoothing: Smoothing | Mapping[str, Any] | None = None,
    ) -> Adjoint:
        r"""Differentiate a function of a whole rollout, backward through its steps.

        With A, B of :meth:`linearize` along the rollout and controls that answer to the state by
        :math:`du_t = d\bar u_t + K_t dx_t`,

        .. math:: g_t = \ell_{u_t} + B_t^\top \lambda_{t+1}, \qquad
                  \lambda_t = \ell_{x_t} + A_t^\top \lambda_{t+1} + K_t^\top g_t, \qquad
                  \lambda_T = \ell_{x_T}.

        Args:
            states: as :meth:`rollout` returns them, [T+1, B, nx].
            ctrls: [T, B, nu].
            state_gradients: the function's partial derivatives by the states, in tangent space,
                [T+1, B, ndx].
            ctrl_gradients: by the controls, [T, B, nu]; None: zero.
            gains: K, [T, B, nu, ndx]; None: zero, open loop.
            method: see :meth:`linearize`.
            eps: see :meth:`linearize`.
            centered: see :meth:`linearize`.
            smoothing: see :meth:`linearize`.

        Returns:
            Total derivatives by the initial state, :math:`\lambda_0` [B, ndx], and by the open-loop
            part of the controls, g [T, B, nu].

        Raises:
            ArgumentError: on a wrong shape, method, eps or smoothing, or a state or control that is
                not finite.
            ConfigError: on an unknown kind or option of a smoothing.
            ModelError: if the method cannot differentiate this model.
            DivergenceError: naming a step, and its rows whose simulation diverged.
        """
        states, ctrls = real_array(states, "states"), real_array(ctrls, "ctrls")
        if ctrls.ndim != 3 or ctrls.shape[2] != self.spec.nu or not ctrls.shape[1]:
            raise ArgumentError(
                f"ctrls must have shape [T, B, {self.spec.nu}], got {list(ctrls.shape)}"
            )
        steps, batch, nu = ctrls.shape
        shaped(states, "states", (steps + 1, batch, self.spec.nx))
        state_gradients = real_array(state_gradients, "state_gradients")
        shaped(state_gradients, "state_gradients", (steps + 1, batch, self.spec.ndx))
        if ctrl_gradients is None:
            ctrl_gradients = np.zeros_like(ctrls)
        ctrl_gradients = real_array(ctrl_gradients, "ctrl_gradients")
        shaped(ctrl_gradients, "ctrl_gradients", ctrls.shape)
        if gains is not None:
            gains = real_array(gains, "gains")
            shaped(gains, "gains", (steps, batch, nu, self.spec.ndx))
        for name, values in (("states", states), ("ctrls", ctrls)):
            if not np.isfinite(values).all():
                for t, value in enumerate(values):
                    finite(value, f"{name}[{t}]")
        check_eps(eps)
        found = smoothing_of(smoothing)
        with self._lock:
            return adjoint(
                self._linearizer.differentiation(method, found),
                states[:-1],
                ctrls,
                state_gradients,
                ctrl_gradients,
                gains,
                eps=eps,
                centered=centered,
            )

    def linearize_sensors(self, state: Array, ctrl: Array) -> SensorLinearization:
        """Differentiate the sensor values that a control step leaves: dy = C dx + D du.

        See :class:`SensorDifference`; :meth:`step_with_fields` returns the values themselves, as
        the field "sensordata".

        Args:
            state: [B, nx].
            ctrl: [B, nu].

        Returns:
            C [B, nsensordata, ndx] and D [B, nsensordata, nu], with the constraint solver
            converged.

        Raises:
            ArgumentError: on a wrong shape or a number that is not finite.
            ModelError: if the model has no sensors.
            DivergenceError: naming the rows whose simulation diverged.
        """
        state, ctrl = self.checked(state, ctrl)
        if not self.model.nsensordata:
            raise ModelError("the model has no sensors; add a <sensor> section to it")
        with self._lock:
            if self._sensors is None:
                self._sensors = SensorDifference(
                    converged(self.model), self.spec, self.frame_skip, self.threads
                )
                self._sensors.fallbacks = self._linearizer.fallbacks
            return self._sensors(state, ctrl)

    def sensors(self, state: Array, ctrl: Array) -> Array:
        """Return the sensor values [B, nsensordata] that ``mj_forward`` computes at a state.

        Only the stages that the model's sensors need are run, see :class:`Sensing`.

        Args:
            state: [B, nx].
            ctrl: [B, nu].

        Raises:
            ArgumentError: on a wrong shape or a number that is not finite.
            ModelError: if the model has no sensors.
            DivergenceError: naming the rows that MuJoCo cannot make sense of.
        """
        return self._all_sensors().values(*self.checked(state, ctrl))

    def linearize_sensors_at(self, state: Array, ctrl: Array) -> SensorLinearization:
        """Differentiate the sensor values of :meth:`sensors`: dy = C dx + D du.

        Arguments and errors are those of :meth:`sensors`, C and D those of
        :meth:`linearize_sensors`.
        """
        return self._all_sensors().linearize(*self.checked(state, ctrl))[1]

    def sensing(self, probes: Sequence[Probe]) -> Sensing:
        """Return measurements of the model, of more than it has sensors for."""
        return Sensing(self.model, self.spec, probes, self.threads)

    def _all_sensors(self) -> Sensing:
        if not self.model.nsensordata:
            raise ModelError("the model has no sensors; add a <sensor> section to it")
        with self._lock:
            if self._sensing is None:
                every = range(self.model.nsensor)
                self._sensing = self.sensing([Probe.sensor(self.model, i) for i in every])
            return self._sensing

    def linearization_method(self, method: str = "auto") -> str:
        """Return what ``method`` stands for with this model; raises as :meth:`linearize` does."""
        return self._linearizer.resolve(method)

    @property
    def linearization_fallbacks(self) -> dict[str, int]:
        """Why states fell back to differences of the step, in Jacobians or sensors, how many."""
        return dict(self._linearizer.fallbacks)

    @property
    def engine_seconds(self) -> float:
        """Wall time spent on steps and Jacobians so far; a feedback law's own is among it."""
        return self._lock.seconds

    def check_linearization(self, method: str, eps: float | None) -> None:
        """Raise what :meth:`linearize` would, before anything is computed."""
        check_eps(eps)
        self._linearizer.resolve(method)

    def __reduce__(self) -> tuple[object, ...]:
        """Copies and pickles are new simulators of the same model."""
        return _rebuilt, (self.model, self.frame_skip, self.threads)

    def _pool(self, fields: Sequence[str] = ()) -> SimulationPool:
        key = tuple(sorted(set(fields)))
        pool = self._pools.pop(key, None)
        if pool is None:
            check_fields(key)
            pool = SimulationPool(self.model, self.spec, self.threads, key)
        self._pools[key] = pool  # most recently used last
        if len(self._pools) > _KEPT_POOLS:
            del self._pools[next(iter(self._pools))]
        return pool

    def checked(self, state: Array, ctrl: Array) -> tuple[Array, Array]:
        """Return ``state`` [B, nx] and ``ctrl`` [B, nu] as finite numbers in float64.

        Raises:
            ArgumentError: on a wrong shape or a number that is not finite.
        """
        state, ctrl = real_array(state, "state"), real_array(ctrl, "ctrl")
        if state.ndim != 2 or state.shape[1] != self.spec.nx or not len(state):
            raise ArgumentError(
                f"state must have shape [B, {self.spec.nx}], got {list(state.shape)}"
            )
        if ctrl.shape != (len(state), self.spec.nu):
            raise ArgumentError(
                f"ctrl must have shape [{len(state)}, {self.spec.nu}], got {list(ctrl.shape)}"
            )
        return finite(state, "state"), finite(ctrl, "ctrl")


def _rebuilt(model: mujoco.MjModel, frame_skip: int, threads: int) -> Simulator:
    return Simulator(model, frame_skip=frame_skip, threads=threads)
