"""Planning in terms of observations: costs of what a model of observations predicts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from mbrl.errors import ArgumentError
from mbrl.planning.costs import DifferentiatedCost, StagePoints
from mbrl.planning.receding_horizon import RecedingHorizon
from mbrl.types import Array

ObservedCost = Callable[[Tensor, Tensor, Tensor], Tensor]


class ObservedStage(DifferentiatedCost):
    """A task's cost of observations, c(o, u, o'); see ``Task.observed_cost``.

    Args:
        cost: observations [N, n_obs], actions [N, nu], next observations [N, n_obs] -> [N].
        name: of the task.
    """

    def __init__(self, cost: ObservedCost, name: str):
        super().__init__(name)
        self._cost = cost

    def costs(self, x: Tensor, u: Tensor, y: Tensor, points: StagePoints) -> Tensor:
        """See :class:`DifferentiatedCost`."""
        return self._cost(x, u, y)


class PredictedReward(DifferentiatedCost):
    """The reward that a model predicts, negated: the last coordinate of its next states.

    Args:
        name: of the task.
    """

    def costs(self, x: Tensor, u: Tensor, y: Tensor, points: StagePoints) -> Tensor:
        """See :class:`DifferentiatedCost`."""
        return -y[:, -1]


class ObservingController:
    """A receding horizon whose states are observations: what acts where states are not measured.

    Args:
        controller: plans for a model of observations, or of them and the last reward.

    Attributes:
        controller: the same.
    """

    def __init__(self, controller: RecedingHorizon):
        self.controller = controller
        # The last reward is part of what is planned for, and of no influence on what follows.
        self._unseen = int(isinstance(controller.problem.stage, PredictedReward))
        self._t = 0

    def reset(self) -> None:
        """Begin new episodes."""
        self.controller.reset()
        self._t = 0

    def act(self, observation: Array) -> Array:
        """[B, n_obs] -> [B, nu], or [n_obs] -> [nu]; call once per control step.

        Raises:
            ArgumentError: on another shape.
        """
        seen = np.asarray(observation, dtype=np.float64)
        size = self.controller.problem.model.state_size - self._unseen
        if seen.ndim not in (1, 2) or seen.shape[-1] != size:
            raise ArgumentError(
                f"observation must have shape [{size}] or [B, {size}], got {list(seen.shape)}"
            )
        action = self.act_at(np.atleast_2d(seen), self._t)
        self._t += 1
        return action if seen.ndim == 2 else action[0]

    def act_at(self, observation: Array, t: int, running: NDArray[np.bool_] | None = None) -> Array:
        """[B, n_obs], step, which episodes have not ended [B] -> [B, nu]."""
        states = np.pad(observation, [(0, 0), (0, self._unseen)])
        return self.controller.act(states, t, None, running)

    def measured(self) -> dict[str, float]:
        """Return what planning has cost."""
        return self.controller.measured()
