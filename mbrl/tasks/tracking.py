"""Follow a curve in time."""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.utils import EzPickle
from numpy.typing import NDArray
from torch import Tensor

from mbrl.tasks.arm import ArmEnv

_PERIOD = 4.0  # seconds
_WIDTHS = 0.1, 0.2  # metres
_AHEAD = 4  # steps
_CENTRE = 0.3, 0.0, 0.5


class TrackEnv(ArmEnv, EzPickle):
    r"""Follow a figure eight in front of the arm (a lemniscate of Gerono) with its fingertip.

    .. math:: g(t) = c + a \, (0, \sin \varphi, \tfrac12 \sin 2 \varphi), \qquad
              \varphi = 2 \pi t / T + \varphi_0, \quad T = 4\,\text{s}.

    The context, [2], is the half width a, uniform in [0.1, 0.2] m, and the phase, uniform in
    [0, 2 pi). The reward of :class:`ArmEnv` holds the fingertip after a step against the curve at
    the end of that step. An agent observes :meth:`joints` and the way to the curve, now and four
    steps ahead: g(t) - f(q) and g(t + 4 dt) - f(q).

    Args:
        **kwargs: of :class:`ArmEnv`.
    """

    def __init__(self, **kwargs: Any):
        EzPickle.__init__(self, **kwargs)
        super().__init__(9 + 6, **kwargs)

    def curve(self, t: int, context: Tensor) -> Tensor:
        """Where the fingertip should be before step t: [B, 2] -> [B, 3]."""
        width, phase = context.unbind(-1)
        angle = 2 * math.pi * t * self.dt / _PERIOD + phase
        shape = torch.stack([torch.zeros_like(angle), angle.sin(), (2 * angle).sin() / 2], dim=-1)
        return width[..., None] * shape + context.new_tensor(_CENTRE)

    def tensor_reward(
        self, state: Tensor, action: Tensor, next_state: Tensor, t: int, context: Tensor
    ) -> Tensor:
        """[B, 6], [B, 3], [B, 6], step, [B, 2] -> [B]."""
        return self.reward(action, next_state, self.curve(t + 1, context))

    def tensor_observation(self, state: Tensor, t: int, context: Tensor) -> Tensor:
        """[B, 6], step, [B, 2] -> [B, 15]."""
        tip = self.tip(state)
        now, ahead = (self.curve(t + steps, context) - tip for steps in (0, _AHEAD))
        return torch.cat([self.joints(state), now, ahead], dim=-1)

    def _drawn_context(self) -> NDArray[np.float64]:
        return np.array([self.np_random.uniform(*_WIDTHS), self.np_random.uniform(0, 2 * math.pi)])

    def _reference(self) -> NDArray[np.float64]:
        return self.curve(self._index(), torch.from_numpy(self.context)).numpy()


def register_tracking() -> None:
    """Register it with Gymnasium, once."""
    if "mbrl/Track-v0" not in gymnasium.registry:
        gymnasium.register("mbrl/Track-v0", entry_point=TrackEnv, max_episode_steps=100)
