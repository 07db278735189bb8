"""Planar bodies that run along x: HalfCheetah, Swimmer, Hopper, Walker2d."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mbrl.physics import Simulator
from mbrl.tasks.stock.formulas import inside, never


class _Runner:
    r"""Run along x, cheaply, with weights w of the environment.

    .. math:: r = w_f \frac{x'_0 - x_0}{\Delta t} - w_c |u|^2.
    """

    _positions = 1  # leading coordinates that the observation may leave out

    def __init__(self, env: Any, simulator: Simulator):
        self._dt = simulator.dt
        self._positions_end = simulator.spec.nq
        self._end = simulator.spec.nq + simulator.spec.nv  # activations are not observed
        self._forward_weight = env._forward_reward_weight
        self._control_weight = env._ctrl_cost_weight
        self._hidden = self._positions if env._exclude_current_positions_from_observation else 0

    def observation(self, state: Tensor) -> Tensor:
        """Positions, without the leading ones if so configured, and velocities."""
        return state[..., self._hidden : self._end]

    def reward(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        """Forward reward less control cost."""
        velocity = (next_state[..., 0] - state[..., 0]) / self._dt
        return self._forward_weight * velocity - self._control_weight * action.square().sum(-1)

    def terminated(self, next_state: Tensor) -> Tensor:
        """Never."""
        return never(next_state)


class HalfCheetahFormulas(_Runner):
    """A planar cheetah that runs forward."""


class SwimmerFormulas(_Runner):
    """A planar three-link swimmer that swims forward."""

    _positions = 2


class _Balancing(_Runner):
    r"""A runner that is paid for staying healthy, and usually ends when it is not.

    .. math:: r = w_f \frac{x'_0 - x_0}{\Delta t} + w_h [x' \text{ healthy}] - w_c |u|^2.

    The healthy reward is constant wherever it has a derivative.
    """

    def __init__(self, env: Any, simulator: Simulator):
        super().__init__(env, simulator)
        self._healthy_reward = env._healthy_reward
        self._terminates = env._terminate_when_unhealthy
        self._height_range = env._healthy_z_range
        self._angle_range = env._healthy_angle_range

    def observation(self, state: Tensor) -> Tensor:
        """Positions, without the first if so configured, and velocities clipped to +-10."""
        position = state[..., self._hidden : self._positions_end]
        velocity = state[..., self._positions_end : self._end].clamp(-10, 10)
        return torch.cat([position, velocity], dim=-1)

    def reward(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        """Forward and healthy reward less control cost."""
        bonus = self._healthy_reward * self._healthy(next_state).to(next_state.dtype)
        return super().reward(state, action, next_state) + bonus

    def terminated(self, next_state: Tensor) -> Tensor:
        """When unhealthy, unless configured otherwise."""
        return ~self._healthy(next_state) if self._terminates else never(next_state)

    def _healthy(self, state: Tensor) -> Tensor:
        upright = inside(state[..., 2], self._angle_range)
        return inside(state[..., 1], self._height_range) & upright


class HopperFormulas(_Balancing):
    """A planar one-legged hopper; unhealthy also beyond ``healthy_state_range``."""

    def __init__(self, env: Any, simulator: Simulator):
        super().__init__(env, simulator)
        self._state_range = env._healthy_state_range

    def _healthy(self, state: Tensor) -> Tensor:
        return super()._healthy(state) & inside(state[..., 2 : self._end], self._state_range).all(
            -1
        )


class Walker2dFormulas(_Balancing):
    """A planar biped that walks forward."""
