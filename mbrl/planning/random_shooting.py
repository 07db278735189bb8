"""Random shooting: the best of many random action sequences."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mbrl.errors import ArgumentError
from mbrl.planning.planner import NOTHING, Plan, Planner, Search
from mbrl.planning.problem import Problem


class RandomShooting(Planner):
    r"""The best of N action sequences drawn uniformly from the box of legal actions.

    .. math:: u^* = \arg\min_k J(x_0, u^k), \qquad u^k_t \sim U[\underline u, \overline u]

    The baseline of planning with learned models (Nagabandi et al. 2018, "Neural network dynamics
    for model-based deep reinforcement learning with model-free fine-tuning", section IV-C). Every
    iteration draws anew, and the best sequence of all is kept. An action without bounds is drawn
    from [-1, 1].

    Args:
        samples: N.
        iterations: how often N sequences are drawn.
        keep: whether the sequence that the search begins with competes; False: what was planned
            before is forgotten, as in the original.
    """

    def __init__(self, *, samples: int = 1000, iterations: int = 1, keep: bool = False):
        for name, value in (("samples", samples), ("iterations", iterations)):
            if value < 1:
                raise ArgumentError(f"{name} must be at least 1, got {value}")
        self.samples, self.iterations, self.keep = samples, iterations, keep

    def begin(
        self,
        problem: Problem,
        state: Tensor,
        actions: Tensor,
        generator: torch.Generator,
        memory: Mapping[str, Tensor] = NOTHING,
    ) -> Search:
        """See :class:`Planner`."""
        return _Search(self, problem, state, actions, generator)


class _Search(Search):
    kept = ("_actions", "_states", "_costs", "_best")

    def __init__(
        self,
        planner: RandomShooting,
        problem: Problem,
        state: Tensor,
        actions: Tensor,
        generator: torch.Generator,
    ):
        super().__init__(problem, state)
        self._planner, self._generator = planner, generator
        states, costs = problem.rollout(state, actions[:, None])
        self._actions, self._states, self._costs = actions, states[:, 0], costs[0]
        # What has to be beaten: a search that does not keep its first sequence accepts any other.
        self._best = self._costs if planner.keep else torch.full_like(self._costs, torch.inf)

    def iterate(self) -> None:
        """Draw N sequences for every row."""
        problem, batch = self.problem, len(self.state)
        shape = problem.horizon, self._planner.samples, batch, problem.action_size
        uniform = torch.rand(shape, generator=self._generator, dtype=torch.float64)
        low = torch.where(problem.low.isfinite(), problem.low, -problem.spread)
        high = torch.where(problem.high.isfinite(), problem.high, problem.spread)
        candidates = low + (high - low) * uniform
        states, costs = problem.rollout(self.state, candidates)
        lowest, winner = costs.min(dim=0)
        row, better = torch.arange(batch), lowest < self._best
        self._best = torch.where(better, lowest, self._best)
        self._costs = torch.where(better, lowest, self._costs)
        self._actions = torch.where(better[:, None], candidates[:, winner, row], self._actions)
        self._states = torch.where(better[:, None], states[:, winner, row], self._states)

    @property
    def plan(self) -> Plan:
        """See :class:`Search`."""
        return Plan(self._actions, self._states, self._costs)
