"""Smooth variants of the two inverted pendulums: same physics, a reward with a gradient.

Model-Based-RL's cost with the tip's coordinates as they are meant (its source takes the cosine for
both). An episode never terminates; it is cut after 1000 steps like the stock environments'.
"""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.envs.mujoco.inverted_double_pendulum_v5 import InvertedDoublePendulumEnv
from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv
from numpy.typing import NDArray
from torch import Tensor

from mbrl.resources import resource_path


class SmoothInvertedPendulumEnv(InvertedPendulumEnv):
    r"""Pole on a cart, its tip at (x, y).

    .. math:: r = -(0.01 x^2 + (y - 1)^2) - 10^{-3} \dot\theta^2.
    """

    def __init__(self, **kwargs: Any):
        kwargs.setdefault("xml_file", str(resource_path("assets", "inverted_pendulum.xml")))
        super().__init__(**kwargs)
        self._length = float(self.model.site("tip").pos[2])

    def tensor_reward(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        """[B, 4], [B, 1], [B, 4] -> [B]."""
        cart, angle, _, spin = next_state.unbind(-1)
        x, y = cart + self._length * angle.sin(), self._length * angle.cos()
        return -(0.01 * x**2 + (y - 1) ** 2) - 1e-3 * spin**2

    def tensor_terminated(self, next_state: Tensor) -> Tensor:
        """Never."""
        return torch.zeros(len(next_state), dtype=torch.bool)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step as the stock environment does, with this variant's reward."""
        before = self.state_vector()
        observation, _, _, truncated, _ = super().step(action)
        return observation, _reward(self, before, action), False, truncated, {}


class SmoothInvertedDoublePendulumEnv(InvertedDoublePendulumEnv):
    r"""Two poles on a cart, the tip of the upper one at (x, y), hinge velocities w.

    .. math:: r = 10 - (0.01 x^2 + (y - 2)^2) - 10^{-3} w_1^2 - 5 \cdot 10^{-3} w_2^2.
    """

    def __init__(self, **kwargs: Any):
        kwargs.setdefault("xml_file", str(resource_path("assets", "inverted_double_pendulum.xml")))
        super().__init__(**kwargs)
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

    def tensor_terminated(self, next_state: Tensor) -> Tensor:
        """Never."""
        return torch.zeros(len(next_state), dtype=torch.bool)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step as the stock environment does, with this variant's reward."""
        before = self.state_vector()
        observation, _, _, truncated, _ = super().step(action)
        return observation, _reward(self, before, action), False, truncated, {}


def _reward(env: Any, before: NDArray[np.float64], action: Any) -> float:
    """The reward of the step just taken: ``tensor_reward``, the only place where it is written."""
    rows = (before, np.asarray(action, dtype=np.float64), env.state_vector())
    return float(env.tensor_reward(*(torch.from_numpy(row)[None] for row in rows)))


def register_pendulums() -> None:
    """Register both with Gymnasium, once."""
    for name, entry in (
        ("mbrl/SmoothInvertedPendulum-v0", SmoothInvertedPendulumEnv),
        ("mbrl/SmoothInvertedDoublePendulum-v0", SmoothInvertedDoublePendulumEnv),
    ):
        if name not in gymnasium.registry:
            gymnasium.register(name, entry_point=entry, max_episode_steps=1000)
