"""What planners that sample share: candidates rolled out together, the best of them kept."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from mbrl.errors import ArgumentError
from mbrl.planning.planner import Plan, Search
from mbrl.planning.problem import Problem
from mbrl.planning.splines import Spline


class SamplingSearch(Search):
    """A search over the knots of a spline that keeps the best sequence it has evaluated.

    It begins with the initial actions as they are, not as the knots fit them: the plan is never
    worse than what the search began with. A candidate that diverges costs infinity, and so never
    wins. Noise is drawn for all rows of a batch together: a row depends on the generator and the
    size of the batch, and not on the other rows' states and costs (as far as the model's rows do
    not depend on each other, to the last bit).

    Args:
        problem: what to solve.
        state: initial states, [B, nx].
        actions: where to begin, [T, B, nu].
        spline: from knots to actions.
    """

    kept: ClassVar[Sequence[str]] = ("_actions", "_states", "_costs")

    def __init__(self, problem: Problem, state: Tensor, actions: Tensor, spline: Spline):
        super().__init__(problem, state)
        self._spline = spline
        states, costs = problem.rollout(state, actions[:, None])
        self._actions, self._states, self._costs = actions, states[:, 0], costs[0]

    @property
    def plan(self) -> Plan:
        """See :class:`Search`."""
        return Plan(self._actions, self._states, self._costs)

    def _evaluate(self, theta: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Knots [P, K, B, nu] -> actions [T, K, B, nu], their states, and costs [K, B]."""
        actions = self.problem.clip(self._spline(theta))
        return actions, *self.problem.rollout(self.state, actions)

    def _try(self, theta: Tensor) -> Tensor:
        """Let knots [P, K, B, nu] compete with the plan; return their costs [K, B]."""
        actions, states, costs = self._evaluate(theta)
        lowest, winner = costs.min(dim=0)
        row = torch.arange(len(winner))
        better = lowest < self._costs
        self._adopt(better, actions[:, winner, row], states[:, winner, row], lowest)
        return costs

    def _adopt(self, where: Tensor, actions: Tensor, states: Tensor, costs: Tensor) -> None:
        """Make actions [T, B, nu] the plan of the rows ``where`` [B]."""
        self._actions = torch.where(where[:, None], actions, self._actions)
        self._states = torch.where(where[:, None], states, self._states)
        self._costs = torch.where(where, costs, self._costs)


def check_counts(**counts: int) -> None:
    """Raise ArgumentError for a count below 1, by its name."""
    for name, value in counts.items():
        if value < 1:
            raise ArgumentError(f"{name} must be at least 1, got {value}")


def check_positive(**values: float | None) -> None:
    """Raise ArgumentError for a number that is not positive, by its name; None passes."""
    for name, value in values.items():
        if value is not None and not value > 0:
            raise ArgumentError(f"{name} must be positive, got {value}")
