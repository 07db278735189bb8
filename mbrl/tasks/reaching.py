"""Reach a goal that every episode draws anew."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.utils import EzPickle
from numpy.typing import NDArray
from torch import Tensor

from mbrl.tasks.arm import ArmEnv


class ReachEnv(ArmEnv, EzPickle):
    r"""Bring the fingertip of the arm to a goal g, and hold it there.

    The goal is drawn uniformly from the points that the fingertip can reach, a spherical shell
    around the shoulder p,

    .. math:: |l_1 - l_2| \le |g - p| \le l_1 + l_2

    with l_1, l_2 the lengths of upper arm and forearm. It is the context, [3]. For the reward see
    :class:`ArmEnv`; an agent observes :meth:`joints` and g - f(q).

    Args:
        **kwargs: of :class:`ArmEnv`.
    """

    def __init__(self, **kwargs: Any):
        EzPickle.__init__(self, **kwargs)
        super().__init__(9 + 3, **kwargs)

    def tensor_reward(
        self, state: Tensor, action: Tensor, next_state: Tensor, context: Tensor
    ) -> Tensor:
        """[B, 6], [B, 3], [B, 6], [B, 3] -> [B]."""
        return self.reward(action, next_state, context)

    def tensor_observation(self, state: Tensor, context: Tensor) -> Tensor:
        """[B, 6], [B, 3] -> [B, 12]."""
        return torch.cat([self.joints(state), context - self.tip(state)], dim=-1)

    def _drawn_context(self) -> NDArray[np.float64]:
        upper = np.linalg.norm(self.model.body("forearm").pos)
        lower = np.linalg.norm(self.model.site("fingertip").pos)
        direction = self.np_random.standard_normal(3)
        # Uniform in volume: the cube of the radius is uniform.
        cube = self.np_random.uniform(abs(upper - lower) ** 3, (upper + lower) ** 3)
        offset = np.cbrt(cube) * direction / np.linalg.norm(direction)
        return self.model.body("shoulder").pos + offset

    def _reference(self) -> NDArray[np.float64]:
        return self.context


def register_reaching() -> None:
    """Register it with Gymnasium, once."""
    if "mbrl/Reach-v0" not in gymnasium.registry:
        gymnasium.register("mbrl/Reach-v0", entry_point=ReachEnv, max_episode_steps=100)
