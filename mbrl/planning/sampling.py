"""What planners that sample share: candidates rolled out together, the best of them kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor

from mbrl.planning.planner import NOTHING, Plan, Planner, Search
from mbrl.planning.problem import Problem
from mbrl.planning.splines import Interpolation, Spline

P = TypeVar("P", bound="SamplingPlanner")


class SamplingPlanner(Planner):
    """A planner that draws splines of actions.

    Attributes:
        interpolation: between the knots.
        search: what it begins.
    """

    interpolation: Interpolation = "linear"
    search: ClassVar[type[SamplingSearch[Any]]]

    def begin(
        self,
        problem: Problem,
        state: Tensor,
        actions: Tensor,
        generator: torch.Generator,
        memory: Mapping[str, Tensor] = NOTHING,
    ) -> Search:
        """See :class:`Planner`."""
        return self.search(self, problem, state, actions, generator, memory)


class SamplingSearch(Search, Generic[P]):
    """A search over the knots of a spline that keeps the best sequence it has evaluated.

    It begins with the initial actions as they are, not as the knots fit them: the plan is never
    worse than what the search began with. A candidate that diverges costs infinity, and so never
    wins. Noise is drawn for all rows of a batch together: a row depends on the generator and the
    size of the batch, and not on the other rows' states and costs (as far as the model's rows do
    not depend on each other, to the last bit).

    Args:
        planner: the options.
        problem: what to solve.
        state: initial states, [B, nx].
        actions: where to begin, [T, B, nu].
        generator: of what is drawn.
        memory: of an earlier plan; for those that remember any.
    """

    kept: ClassVar[Sequence[str]] = ("_actions", "_states", "_costs", "_theta")

    def __init__(
        self,
        planner: P,
        problem: Problem,
        state: Tensor,
        actions: Tensor,
        generator: torch.Generator,
        memory: Mapping[str, Tensor],
    ):
        super().__init__(problem, state)
        self._planner, self._generator = planner, generator
        self._spline = Spline(problem.horizon, planner.knots, planner.interpolation)
        self._theta = problem.clip(self._spline.fit(actions))  # (P, B, nu), the nominal
        states, costs = problem.rollout(state, actions[:, None])
        self._actions, self._states, self._costs = actions, states[:, 0], costs[0]
        self._begin(memory)

    def _begin(self, memory: Mapping[str, Tensor]) -> None:
        """Prepare what is kept beside plan and nominal."""

    @property
    def plan(self) -> Plan:
        """See :class:`Search`."""
        return Plan(self._actions, self._states, self._costs)

    def _noise(self, samples: int) -> Tensor:
        """Draw standard normal knots, [P, N, B, nu]."""
        knots, batch, nu = self._theta.shape
        shape = knots, samples, batch, nu
        return torch.randn(shape, generator=self._generator, dtype=torch.float64)

    def _acted(self, theta: Tensor) -> Tensor:
        """Knots [P, ..., nu] -> actions [T, ..., nu] inside the bounds."""
        return self.problem.clip(self._spline(theta))

    def _try(
        self, theta: Tensor, bar: Tensor | None = None, finalists: int | None = None
    ) -> Tensor:
        """Let knots [P, K, B, nu] compete, and return their costs [K, B].

        Args:
            theta: the knots.
            bar: what the best has to beat to become the plan, [B]; None: the plan.
            finalists: see :meth:`Problem.compete`.
        """
        actions = self._acted(theta)
        costs, winner, states = self.problem.compete(self.state, actions, finalists)
        row = torch.arange(len(winner))
        lowest = costs[winner, row]
        better = lowest < (self._costs if bar is None else bar)
        self._adopt(better, actions[:, winner, row], states, lowest)
        return costs

    def _adopt(self, where: Tensor, actions: Tensor, states: Tensor, costs: Tensor) -> None:
        """Make actions [T, B, nu] the plan of the rows ``where`` [B]."""
        self._actions = torch.where(where[:, None], actions, self._actions)
        self._states = torch.where(where[:, None], states, self._states)
        self._costs = torch.where(where, costs, self._costs)
