"""Smooth variants of stock environments: same physics, a reward with a gradient.

Model-Based-RL's rewards as they are meant: its source takes the cosine for both coordinates of the
pendulums' tips, and turns the walker's uprightness into a constant. As they stand no episode
terminates; it is cut after 1000 steps like the stock environments'.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from gymnasium.envs.mujoco.inverted_double_pendulum_v5 import InvertedDoublePendulumEnv
from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv
from gymnasium.envs.mujoco.walker2d_v5 import Walker2dEnv
from gymnasium.utils import EzPickle
from torch import Tensor

from mbrl.resources import resource_path
from mbrl.tasks.stock.formulas import inside, never


class _Smooth(MujocoEnv):
    """Give an environment the reward of its ``tensor_reward``."""

    def tensor_reward(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        """[B, nx], [B, nu], [B, nx] -> [B]: the only place where the reward is written."""
        raise NotImplementedError

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step as the stock environment does, with this variant's reward."""
        before = self.state_vector()
        observation, _, terminated, truncated, _ = super().step(action)
        rows = (before, np.asarray(action, dtype=np.float64), self.state_vector())
        reward = self.tensor_reward(*(torch.from_numpy(row)[None] for row in rows))
        return observation, float(reward), terminated, truncated, {}


class _Endless(_Smooth):
    """Whose episodes never terminate."""

    def tensor_terminated(self, next_state: Tensor) -> Tensor:
        """Never: [B, nx] -> [B] bool."""
        return never(next_state)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step as the stock environment does, and go on."""
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, False, truncated, info


class _Balancing(_Smooth, EzPickle):
    """A runner that is to keep its posture, and may end when it is unhealthy."""

    _healthy_state_range = -math.inf, math.inf  # the hopper's own shadows it
    _healthy_z_range: tuple[float, float]
    _healthy_angle_range: tuple[float, float]
    _terminate_when_unhealthy: bool

    def __init__(
        self,
        *,
        posture_weight: float = 1.0,
        terminate_when_unhealthy: bool = False,
        **kwargs: Any,
    ):
        kwargs["terminate_when_unhealthy"] = terminate_when_unhealthy
        super().__init__(**kwargs)
        EzPickle.__init__(self, posture_weight=posture_weight, **kwargs)
        self._posture_weight = posture_weight

    def tensor_terminated(self, next_state: Tensor) -> Tensor:
        """[B, nx] -> [B] bool."""
        if not self._terminate_when_unhealthy:
            return never(next_state)
        posture = inside(next_state[:, 1], self._healthy_z_range)
        posture &= inside(next_state[:, 2], self._healthy_angle_range)
        return ~(posture & inside(next_state[:, 2:], self._healthy_state_range).all(-1))


class SmoothInvertedPendulumEnv(_Endless, InvertedPendulumEnv):
    r"""Pole on a cart, its tip at (x, y).

    .. math:: r = -(0.01 x^2 + (y - 1)^2) - 10^{-3} \dot\theta^2.
    """

    def __init__(self, xml_file: str | None = None, *args: Any, **kwargs: Any):
        own = str(resource_path("assets", "inverted_pendulum.xml"))
        super().__init__(xml_file or own, *args, **kwargs)
        self._length = float(self.model.site("tip").pos[2])

    def tensor_reward(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        """[B, 4], [B, 1], [B, 4] -> [B]."""
        cart, angle, _, spin = next_state.unbind(-1)
        x, y = cart + self._length * angle.sin(), self._length * angle.cos()
        return -(0.01 * x**2 + (y - 1) ** 2) - 1e-3 * spin**2


class SmoothInvertedDoublePendulumEnv(_Endless, InvertedDoublePendulumEnv):
    r"""Two poles on a cart, the tip of the upper one at (x, y), hinge velocities w.

    .. math:: r = 10 - (0.01 x^2 + (y - 2)^2) - 10^{-3} w_1^2 - 5 \cdot 10^{-3} w_2^2.
    """

    def __init__(self, xml_file: str | None = None, *args: Any, **kwargs: Any):
        own = str(resource_path("assets", "inverted_double_pendulum.xml"))
        super().__init__(xml_file or own, *args, **kwargs)
        tip = float(self.model.site("tip").pos[2])
        self._lengths = float(self.model.body_pos[-1, 2]), tip

    def tensor_reward(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        """[B, 6], [B, 1], [B, 6] -> [B]."""
        cart, first, bend, _, w1, w2 = next_state.unbind(-1)
        second = first + bend
        lower, upper = self._lengths
        x = cart + lower * first.sin() + upper * second.sin()
        y = lower * first.cos() + upper * second.cos()
        return 10.0 - (0.01 * x**2 + (y - 2) ** 2) - 1e-3 * w1**2 - 5e-3 * w2**2


class SmoothHopperEnv(_Balancing, HopperEnv):
    r"""Hop along x, torso high and upright: height h, pitch folded to phi in [0, pi].

    .. math:: r = w_f \frac{x' - x}{\Delta t} + w_p \left(c\!\left(\frac{h'}{1.25}\right)
              + c\!\left(\frac{\pi - \phi'}{\pi}\right)\right) - w_c |u|^2,
              \qquad c(z) = \frac{1}{1 + 200^{0.5 - z}}.

    Args:
        posture_weight: w_p.
        terminate_when_unhealthy: end where the stock environment does.
        **kwargs: of the stock environment; w_f is its ``forward_reward_weight``, w_c its
            ``ctrl_cost_weight``. Its ``healthy_reward`` means nothing here.
    """

    def tensor_reward(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        """[B, 12], [B, 3], [B, 12] -> [B]."""
        upright = _step_like(next_state[:, 1] / 1.25) + _step_like(_uprightness(next_state[:, 2]))
        return _advance(self, state, action, next_state) + self._posture_weight * upright


class SmoothWalker2dEnv(_Balancing, Walker2dEnv):
    r"""Walk along x, torso high and upright: height h, pitch folded to phi in [0, pi].

    .. math:: r = w_f \frac{x' - x}{\Delta t} + \frac{w_p}{2} \left(\min(\max(h' / 0.8, 0), 1)
              + \frac{\pi - \phi'}{\pi}\right) - w_c |u|^2.

    Args:
        posture_weight: w_p.
        terminate_when_unhealthy: end where the stock environment does.
        **kwargs: of the stock environment; w_f is its ``forward_reward_weight``, w_c its
            ``ctrl_cost_weight``. Its ``healthy_reward`` means nothing here.
    """

    def tensor_reward(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        """[B, 18], [B, 6], [B, 18] -> [B]."""
        height = (next_state[:, 1] / 0.8).clamp(0, 1)
        upright = 0.5 * height + 0.5 * _uprightness(next_state[:, 2])
        return _advance(self, state, action, next_state) + self._posture_weight * upright


def _advance(env: Any, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
    """Weighted mean forward velocity over the step, less control cost."""
    velocity = (next_state[:, 0] - state[:, 0]) / env.dt
    cost = env._ctrl_cost_weight * action.square().sum(-1)
    return env._forward_reward_weight * velocity - cost


def _uprightness(pitch: Tensor) -> Tensor:
    """(pi - phi) / pi with phi the angle to upright in [0, pi], also after full turns."""
    return 1 - torch.atan2(pitch.sin(), pitch.cos()).abs() / math.pi


def _step_like(z: Tensor) -> Tensor:
    """1 / (1 + 200^(0.5 - z))."""
    return torch.sigmoid(math.log(200.0) * (z - 0.5))


def register_smooth() -> None:
    """Register all four with Gymnasium, once."""
    for name, entry in (
        ("mbrl/SmoothInvertedPendulum-v0", SmoothInvertedPendulumEnv),
        ("mbrl/SmoothInvertedDoublePendulum-v0", SmoothInvertedDoublePendulumEnv),
        ("mbrl/SmoothHopper-v0", SmoothHopperEnv),
        ("mbrl/SmoothWalker2d-v0", SmoothWalker2dEnv),
    ):
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point=entry, max_episode_steps=1000)
