"""Method "step": finite differences of the whole control step, for every integrator."""

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray

from mbrl.errors import DivergenceError
from mbrl.physics.engine import SimulationPool
from mbrl.physics.state import StateSpec
from mbrl.types import Array, Linearization

# Powers of two, so that x + h - x == h in most coordinates. Chosen by measurement: one-sided errors
# are curvature above 2^-27 where constraints (contacts, limits, equalities) are stiff, and rounding
# below 2^-23 where there can be none; centred ones are curvature above 2^-18.
_FORWARD_EPS = 2.0**-27
_SMOOTH_EPS = 2.0**-23
_CENTERED_EPS = 2.0**-20
# Simulations in one call: enough to keep every thread busy, small enough to stay in the cache.
_ROWS_PER_CALL = 8192


class StepDifference:
    r"""Differences of F along the manifold, all perturbations of all states in batched calls.

    .. math:: A_{:j} = (F(x \oplus h e_j, u) \ominus F(x, u)) / h, \qquad
              B_{:j} = (F(x, u + h e_j) \ominus F(x, u)) / h

    or, centred, the second-order quotient of two perturbations. At a control (or activation) bound
    differences point inward, so that an optimiser can leave the bound; beyond it the engine
    clamps, and the column is zero.

    Args:
        model: the model to difference, with its solver converged.
        spec: its state space.
        frame_skip: physics steps per control step.
        threads: engine threads.
    """

    def __init__(self, model: mujoco.MjModel, spec: StateSpec, frame_skip: int, threads: int):
        self._spec, self._frame_skip = spec, frame_skip
        self._pool = SimulationPool(model, spec, threads)
        self._low, self._high = bounds(model)
        self._eps = {centered: default_eps(model, centered) for centered in (False, True)}

    @staticmethod
    def check(model: mujoco.MjModel) -> None:
        """Accept every model that a simulator accepts."""

    def __call__(
        self, state: Array, ctrl: Array, *, eps: float | None, centered: bool
    ) -> Linearization:
        """Linearise at states [B, nx] and controls [B, nu]."""
        spec = self._spec
        eps = eps or self._eps[centered]
        rows = 1 + (spec.ndx + spec.nu) * (2 if centered else 1)
        chunk = max(1, _ROWS_PER_CALL // rows)
        jacobian = np.empty((len(state), spec.ndx, spec.ndx + spec.nu))
        for start in range(0, len(state), chunk):
            part = slice(start, start + chunk)
            try:
                jacobian[part] = self._differences(state[part], ctrl[part], eps, centered)
            except DivergenceError as error:
                at = sorted({start + row // rows for row in error.rows})
                raise DivergenceError(f"linearising states {at[:8]}: {error}", at) from error
        return Linearization(
            np.ascontiguousarray(jacobian[:, :, : spec.ndx]),
            np.ascontiguousarray(jacobian[:, :, spec.ndx :]),
        )

    def _differences(self, state: Array, ctrl: Array, eps: float, centered: bool) -> Array:
        """Return [A B] of one chunk, (b, ndx, ndx + nu)."""
        spec = self._spec
        steps = self._steps(state, ctrl, eps, centered)  # (s, b, ndx + nu)
        b, columns = len(state), spec.ndx + spec.nu
        # Row 0 is the centre, row 1 + k columns + j the k-th perturbation of coordinate j.
        states = np.repeat(state[:, None], 1 + len(steps) * columns, axis=1)
        ctrls = np.repeat(ctrl[:, None], 1 + len(steps) * columns, axis=1)
        taken = np.empty_like(steps)
        for k, h in enumerate(steps):
            first = 1 + k * columns
            taken[k] = self._perturb(
                states[:, first : first + spec.ndx], ctrls[:, first + spec.ndx : first + columns], h
            )
        following = self._pool.advance(
            states.reshape(-1, spec.nx),
            ctrls.reshape(b * ctrls.shape[1], spec.nu),  # nu may be 0
            self._frame_skip,
        ).reshape(b, -1, spec.nx)
        moved = spec.difference(following[:, :1], following[:, 1:])  # (b, s columns, ndx)
        moved = np.moveaxis(moved.reshape(b, len(steps), columns, spec.ndx), 1, 0)
        h = taken[..., None]
        if len(steps) == 1:
            quotient = moved[0] / h[0]
        else:
            # Derivative at 0 of the parabola through (0, 0), (h0, moved0), (h1, moved1).
            quotient = (moved[0] * (h[1] / h[0]) - moved[1] * (h[0] / h[1])) / (h[1] - h[0])
        return np.swapaxes(quotient, 1, 2)

    def _steps(self, state: Array, ctrl: Array, eps: float, centered: bool) -> Array:
        """Signed sizes of the perturbations of each coordinate, (1 or 2, b, ndx + nu)."""
        spec = self._spec
        bounded = spec.na + spec.nu  # activations and controls come last among the coordinates
        value = np.concatenate([state[:, spec.nx - spec.na :], ctrl], axis=1)
        reach = (2.0 if centered else 1.0) * eps
        above, below = value > self._high, value < self._low
        # Inward at a bound, outward beyond it: no difference ever straddles a bound.
        down = below | (~above & (value + reach > self._high))
        up = above | (~below & (value - reach < self._low))
        h = np.full((2 if centered else 1, len(state), spec.ndx + spec.nu), eps)
        tail = slice(spec.ndx + spec.nu - bounded, None)
        h[0, :, tail] = np.where(down, -eps, eps)
        if centered:
            h[1] = -eps
            h[1, :, tail] = np.where(down, -2.0 * eps, np.where(up, 2.0 * eps, -eps))
        return h

    def _perturb(self, states: Array, ctrls: Array, h: Array) -> Array:
        """Perturb state j along tangent j, control j along j, in place; return the exact sizes."""
        spec = self._spec
        taken = h.copy()
        j, i = spec.euclidean_dx, spec.euclidean_x
        before = states[:, j, i]
        states[:, j, i] += h[:, j]
        taken[:, j] = states[:, j, i] - before
        for q, v in zip(spec.quaternion_x, spec.quaternion_dx, strict=True):
            tangent = np.zeros((len(h), 3, spec.ndx))
            tangent[:, np.arange(3), v] = h[:, v]
            states[:, v[:, None], q] = spec.retract(states[:, v], tangent)[..., q]
        u = np.arange(spec.nu)
        before = ctrls[:, u, u]
        ctrls[:, u, u] += h[:, spec.ndx :]
        taken[:, spec.ndx :] = ctrls[:, u, u] - before
        return taken


def default_eps(model: mujoco.MjModel, centered: bool) -> float:
    """Return the size of differences that measured best for models of this kind."""
    if centered:
        return _CENTERED_EPS
    return _FORWARD_EPS if _may_constrain(model) else _SMOOTH_EPS


def _may_constrain(model: mujoco.MjModel) -> bool:
    """Whether a constraint can ever be active; otherwise the step is smooth."""
    disabled, bit = model.opt.disableflags, mujoco.mjtDisableBit
    if disabled & bit.mjDSBL_CONSTRAINT:
        return False
    return bool(
        model.neq
        or model.jnt_limited.any()
        or model.tendon_limited.any()
        or model.dof_frictionloss.any()
        or model.tendon_frictionloss.any()
        or (not disabled & bit.mjDSBL_CONTACT and _may_collide(model))
    )


def _may_collide(model: mujoco.MjModel) -> bool:
    """Whether MuJoCo's static filters let any pair of geoms through."""
    if model.npair or model.nflex:
        return True
    body = model.body_weldid[model.geom_bodyid]
    parent = model.body_weldid[model.body_parentid[body]]
    family = body[:, None] == body
    if not model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_FILTERPARENT:
        child = (body > 0)[:, None] & (body > 0) & (parent[:, None] == body)
        family |= child | child.T
    kind = model.geom_contype[:, None] & model.geom_conaffinity
    return bool((((kind | kind.T) != 0) & ~family).any())


def bounds(model: mujoco.MjModel) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the lower and upper bounds that the engine clamps [act, ctrl] to, (na + nu) each."""
    low, high = np.full(model.na + model.nu, -np.inf), np.full(model.na + model.nu, np.inf)
    clamped = not model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_CLAMPCTRL
    for actuator in range(model.nu):
        start, count = model.actuator_actadr[actuator], model.actuator_actnum[actuator]
        if model.actuator_actlimited[actuator] and count:
            # Only the last activation of an actuator is clamped.
            last = start + count - 1
            low[last], high[last] = model.actuator_actrange[actuator]
        u = model.na + actuator
        if model.actuator_ctrllimited[actuator] and clamped:
            low[u], high[u] = model.actuator_ctrlrange[actuator]
        if model.actuator_dyntype[actuator] == mujoco.mjtDyn.mjDYN_MUSCLE:
            # The dynamics of muscles clip their excitation whatever the range says.
            low[u], high[u] = max(low[u], 0.0), min(high[u], 1.0)
    return low, high
