"""Method "step": finite differences of the whole control step, for every integrator."""

from __future__ import annotations

import mujoco
import numpy as np
from numpy.typing import NDArray

from mbrl.physics.differences import ManifoldDifference
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
    r"""Differences of F along the manifold, see :class:`ManifoldDifference`.

    Args:
        model: the model to difference, with its solver converged.
        spec: its state space.
        frame_skip: physics steps per control step.
        threads: engine threads.
    """

    def __init__(self, model: mujoco.MjModel, spec: StateSpec, frame_skip: int, threads: int):
        pool = SimulationPool(model, spec, threads)
        self._differences = ManifoldDifference(
            spec,
            lambda states, ctrls: pool.advance(states, ctrls, frame_skip),
            spec.difference,
            *bounds(model),
            _ROWS_PER_CALL,
        )
        self._eps = {centered: default_eps(model, centered) for centered in (False, True)}

    @staticmethod
    def default_eps(model: mujoco.MjModel, centered: bool) -> float:
        """Return the size of differences that measured best for models of this kind."""
        return default_eps(model, centered)

    @staticmethod
    def check(model: mujoco.MjModel) -> None:
        """Accept every model that a simulator accepts."""

    def __call__(
        self, state: Array, ctrl: Array, *, eps: float | None, centered: bool
    ) -> Linearization:
        """Linearise at states [B, nx] and controls [B, nu]."""
        return self._differences(state, ctrl, eps=eps or self._eps[centered], centered=centered)


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
    for actuator in range(model.nactuator):
        start, count = model.actuator_actadr[actuator], model.actuator_actnum[actuator]
        last = start + count - 1
        if model.actuator_actlimited[actuator] and count:
            # Only the last activation of an actuator is clamped.
            low[last], high[last] = model.actuator_actrange[actuator]
        first = model.na + model.actuator_ctrladr[actuator]
        for u in range(first, first + model.actuator_ctrlnum[actuator]):
            if model.actuator_ctrllimited[u - model.na] and clamped:
                low[u], high[u] = model.actuator_ctrlrange[u - model.na]
            if model.actuator_dyntype[actuator] == mujoco.mjtDyn.mjDYN_MUSCLE:
                # The dynamics of muscles clip their excitation whatever the range says, and so the
                # activation that their time constants depend on.
                for i in (u, last):
                    low[i], high[i] = max(low[i], 0.0), min(high[i], 1.0)
    return low, high
