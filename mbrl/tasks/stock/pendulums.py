"""Poles on a cart: InvertedPendulum, InvertedDoublePendulum."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbrl.physics import Simulator


class InvertedPendulumSemantics:
    """Stay within 0.2 rad of upright: a reward of 1 per step, without a pathwise gradient."""

    def __init__(self, env: Any, simulator: Simulator):
        pass

    def observation(self, state: Tensor) -> Tensor:
        """The whole state."""
        return state

    def reward(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        """1 while upright."""
        return (~self.terminated(next_state)).to(next_state.dtype)

    def terminated(self, next_state: Tensor) -> Tensor:
        """Pole beyond 0.2 rad."""
        return ~next_state.isfinite().all(-1) | (next_state[:, 1].abs() > 0.2)


class InvertedDoublePendulumSemantics:
    """Keep the tip of the second pole high and over the middle of the rail.

    The environment reads the tip from ``site_xpos``, which after ``mj_step`` belongs to the state
    before the last physics step; here it is the tip at ``next_state``.
    """

    def __init__(self, env: Any, simulator: Simulator):
        self._simulator = simulator
        self._healthy_reward = env._healthy_reward
        self._lower = float(simulator.model.body_pos[-1, 2])
        self._upper = float(simulator.model.site_pos[0, 2])

    def observation(self, state: Tensor) -> Tensor:
        """Cart, sines and cosines, clipped velocities and the clipped force of the rail's end.

        The force is a contact-like quantity of the constraint solver: it carries no gradient.
        """
        q, v = state[:, :3], state[:, 3:]
        force = self._simulator.fields(state.detach().numpy(), ["qfrc_constraint"])
        slider = torch.from_numpy(np.asarray(force["qfrc_constraint"])[:, :1].copy())
        return torch.cat(
            [q[:, :1], q[:, 1:].sin(), q[:, 1:].cos(), v.clamp(-10, 10), slider.clamp(-10, 10)],
            dim=-1,
        )

    def reward(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        """Bonus while up, less squared distance of the tip and squared hinge velocities."""
        x, y = self._tip(next_state)
        v1, v2 = next_state[:, 4], next_state[:, 5]
        bonus = self._healthy_reward * (~self.terminated(next_state)).to(next_state.dtype)
        return bonus - (0.01 * x**2 + (y - 2) ** 2) - (1e-3 * v1**2 + 5e-3 * v2**2)

    def terminated(self, next_state: Tensor) -> Tensor:
        """Tip at or below one metre."""
        return self._tip(next_state)[1] <= 1

    def _tip(self, state: Tensor) -> tuple[Tensor, Tensor]:
        first, second = state[:, 1], state[:, 1] + state[:, 2]
        x = state[:, 0] + self._lower * first.sin() + self._upper * second.sin()
        return x, self._lower * first.cos() + self._upper * second.cos()
