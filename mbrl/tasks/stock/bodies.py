"""Free bodies on the ground: Ant, Humanoid, HumanoidStandup.

Their rewards charge for the contact forces ``cfrc_ext`` of the running step, which are no function
of (state, action, next state): there is no formula of them here, but of an Ant's that is not
charged (``contact_cost_weight=0``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mujoco
import torch
from torch import Tensor

from mbrl.ops import MujocoFields
from mbrl.physics import Simulator
from mbrl.tasks.stock.formulas import inside, never


class _Body:
    reward: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None

    def __init__(self, env: Any, simulator: Simulator):
        self._nq, self._end = simulator.spec.nq, simulator.spec.nq + simulator.spec.nv
        self._hidden = 2 if env._exclude_current_positions_from_observation else 0

    def _coordinates(self, state: Tensor) -> Tensor:
        """Positions, without the first two if so configured, and velocities."""
        return state[..., self._hidden : self._end]


class AntFormulas(_Body):
    r"""A four-legged body that walks along x; healthy while finite and at a healthy height.

    Where contacts cost nothing and the main body is the one that the free joint moves,

    .. math:: r = w_f (x' - x) / \Delta t + r_h [\text{healthy}] - w_c |u|^2.

    The environment reads both positions from ``xpos``, which after ``mj_step`` belongs to the state
    before the last physics step: its velocity is that of an interval one physics step earlier, and
    shorter by as much in a step from a set state. Over 10,000 random steps from set states the two
    rewards differ by 5e-4 (median) and by 0.11 at most.
    """

    def __init__(self, env: Any, simulator: Simulator):
        super().__init__(env, simulator)
        self._terminates = env._terminate_when_unhealthy
        self._height_range = env._healthy_z_range
        self._force_range = env._contact_force_range
        included = env._include_cfrc_ext_in_observation
        self._forces = _AtRest(simulator, ["cfrc_ext"]) if included else None
        self._weights = env._forward_reward_weight, env._ctrl_cost_weight, env._healthy_reward
        self._dt = simulator.dt
        if env._contact_cost_weight == 0 and _moved_by_free_joint(env):
            self.reward = self._uncharged

    def observation(self, state: Tensor) -> Tensor:
        """Coordinates and, if so configured, clipped contact forces."""
        seen = self._coordinates(state)
        if self._forces is None:
            return seen
        (forces,) = self._forces(state)
        return torch.cat([seen, forces[..., 6:].clamp(*self._force_range)], dim=-1)

    def terminated(self, next_state: Tensor) -> Tensor:
        """When unhealthy, unless configured otherwise."""
        return never(next_state) if not self._terminates else ~self._healthy(next_state)

    def _healthy(self, state: Tensor) -> Tensor:
        low, high = self._height_range
        height = state[..., 2]
        finite = state[..., : self._end].isfinite().all(-1)
        return finite & (low <= height) & (height <= high)

    def _uncharged(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        """Forward and healthy reward less control cost."""
        forward, control, healthy = self._weights
        velocity = (next_state[..., 0] - state[..., 0]) / self._dt
        bonus = healthy * self._healthy(next_state).to(next_state.dtype)
        return forward * velocity + bonus - control * action.square().sum(-1)


class _AnyHumanoid(_Body):
    # Field, how many leading numbers belong to the world or the free joint, and its flag.
    _fields = (
        ("cinert", 10, "_include_cinert_in_observation"),
        ("cvel", 6, "_include_cvel_in_observation"),
        ("qfrc_actuator", 6, "_include_qfrc_actuator_in_observation"),
        ("cfrc_ext", 6, "_include_cfrc_ext_in_observation"),
    )

    def __init__(self, env: Any, simulator: Simulator):
        super().__init__(env, simulator)
        chosen = [entry for entry in self._fields if getattr(env, entry[2]) is True]
        self._skipped = [skipped for _, skipped, _ in chosen]
        self._derived = _AtRest(simulator, [name for name, _, _ in chosen])

    def observation(self, state: Tensor) -> Tensor:
        """Coordinates and what is configured of inertias, velocities and forces of the bodies."""
        derived = zip(self._derived(state), self._skipped, strict=True)
        parts = [values[..., skipped:] for values, skipped in derived]
        return torch.cat([self._coordinates(state), *parts], dim=-1)


class HumanoidFormulas(_AnyHumanoid):
    """A humanoid that walks along x; healthy while its torso is at a healthy height."""

    def __init__(self, env: Any, simulator: Simulator):
        super().__init__(env, simulator)
        self._terminates = env._terminate_when_unhealthy
        self._height_range = env._healthy_z_range

    def terminated(self, next_state: Tensor) -> Tensor:
        """When unhealthy, unless configured otherwise."""
        if not self._terminates:
            return never(next_state)
        return ~inside(next_state[..., 2], self._height_range)


class HumanoidStandupFormulas(_AnyHumanoid):
    """A humanoid that lies on its back and is to stand up; it never terminates."""

    def terminated(self, next_state: Tensor) -> Tensor:
        """Never."""
        return never(next_state)


def _moved_by_free_joint(env: Any) -> bool:
    """Whether the main body's position is the state's first three numbers."""
    body, joint = env.model.body(env._main_body).id, env.model.joint(0)
    return bool(joint.type[0] == mujoco.mjtJoint.mjJNT_FREE and joint.bodyid[0] == body)


class _AtRest:
    """MjData fields as a reset to a state leaves them.

    ``mj_forward`` fills ``cfrc_ext`` only where a sensor asks for accelerations; elsewhere it is
    zero at reset and needs no evaluation.
    """

    def __init__(self, simulator: Simulator, names: list[str]):
        model = simulator.model
        filled = bool((model.sensor_needstage == mujoco.mjtStage.mjSTAGE_ACC).any())
        evaluated = [name for name in names if filled or name != "cfrc_ext"]
        self._zeros = 0 if len(evaluated) == len(names) else 6 * int(model.nbody)
        self._fields = MujocoFields(simulator, evaluated) if evaluated else None

    def __call__(self, state: Tensor) -> list[Tensor]:
        """Values [..., m] of each field, ``cfrc_ext`` last."""
        parts: list[Tensor] = []
        if self._fields is not None:
            parts += self._fields(state).split(self._fields.sizes, dim=-1)
        if self._zeros:
            parts.append(state.new_zeros(*state.shape[:-1], self._zeros))
        return parts
