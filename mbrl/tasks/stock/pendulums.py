"""Poles on a cart: InvertedPendulum, InvertedDoublePendulum."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mbrl.ops import MujocoFields
from mbrl.physics import Simulator
from mbrl.tasks.kinematics import PointKinematics


class InvertedPendulumFormulas:
    r"""Stay within 0.2 rad of upright: a reward without a pathwise gradient.

    .. math:: r = [|\theta'| \le 0.2].
    """

    def __init__(self, env: Any, simulator: Simulator):
        self._end = simulator.spec.nq + simulator.spec.nv  # activations are not observed

    def observation(self, state: Tensor) -> Tensor:
        """Positions and velocities."""
        return state[..., : self._end]

    def reward(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        """1 while upright."""
        return (~self.terminated(next_state)).to(next_state.dtype)

    def terminated(self, next_state: Tensor) -> Tensor:
        """Pole beyond 0.2 rad, or anything observed not finite."""
        seen = self.observation(next_state)
        return ~seen.isfinite().all(-1) | (seen[..., 1].abs() > 0.2)


class InvertedDoublePendulumFormulas:
    r"""Keep the tip (x, y) of the second pole high and over the middle of the rail.

    .. math:: r = w_h [y > 1] - 0.01 x^2 - (y - 2)^2 - 10^{-3} \dot\theta_1^2
              - 5 \cdot 10^{-3} \dot\theta_2^2.

    The environment reads the tip from ``site_xpos``, which after ``mj_step`` belongs to the state
    before the last physics step; here it is the tip at the next state. Over 10,000 random steps the
    two rewards differ by 4e-6 (median) and by 3e-2 at most, where the cart hits the rail's end.
    """

    def __init__(self, env: Any, simulator: Simulator):
        self._nq, self._end = simulator.spec.nq, simulator.spec.nq + simulator.spec.nv
        self._healthy_reward = env._healthy_reward
        model = simulator.model
        self._points = PointKinematics(model, [(int(model.site_bodyid[0]), model.site_pos[0])])
        self._forces = MujocoFields(simulator, ["qfrc_constraint"])

    def observation(self, state: Tensor) -> Tensor:
        """Cart, sines and cosines, clipped velocities and the clipped force of the rail's end.

        The force carries no gradient: clipped almost everywhere, it rises within a third of a
        millimetre, and one state in there would drown the gradient of all others.
        """
        angles, velocity = state[..., 1 : self._nq], state[..., self._nq : self._end]
        force = self._forces(state.detach())[..., :1]
        return torch.cat(
            [
                state[..., :1],
                angles.sin(),
                angles.cos(),
                velocity.clamp(-10, 10),
                force.clamp(-10, 10),
            ],
            dim=-1,
        )

    def reward(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        """Bonus while up, less squared distance of the tip and squared hinge velocities."""
        x, y = self._tip(next_state)
        v1, v2 = next_state[..., self._nq + 1], next_state[..., self._nq + 2]
        bonus = self._healthy_reward * (y > 1).to(next_state.dtype)
        return bonus - (0.01 * x**2 + (y - 2) ** 2) - (1e-3 * v1**2 + 5e-3 * v2**2)

    def terminated(self, next_state: Tensor) -> Tensor:
        """Tip at or below one metre."""
        return self._tip(next_state)[1] <= 1

    def _tip(self, state: Tensor) -> tuple[Tensor, Tensor]:
        x, _, y = self._points(state[..., : self._nq])[..., 0, :].unbind(-1)
        return x, y
