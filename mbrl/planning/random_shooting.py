"""Random shooting: the best of many random action sequences."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mbrl.planning.checks import check_counts
from mbrl.planning.problem import Problem
from mbrl.planning.sampling import SamplingPlanner, SamplingSearch


class _Search(SamplingSearch["RandomShooting"]):
    kept = (*SamplingSearch.kept, "_bar")

    def _begin(self, memory: Mapping[str, Tensor]) -> None:
        # What has to be beaten: a search that does not keep its first sequence accepts any other.
        self._bar = self._costs if self._planner.keep else torch.full_like(self._costs, torch.inf)

    def iterate(self) -> None:
        """Draw N sequences for every row."""
        problem, (steps, batch, nu) = self.problem, self._theta.shape
        shape = steps, self._planner.samples, batch, nu
        uniform = torch.rand(shape, generator=self._generator, dtype=torch.float64)
        low, high = _box(problem)
        costs = self._try(low + (high - low) * uniform, self._bar, self._planner.finalists)
        self._bar = torch.minimum(self._bar, costs.amin(0))


def _box(problem: Problem) -> tuple[Tensor, Tensor]:
    """Return where actions are drawn from, [nu] each: the bounds, as far as there are any."""
    low, high, spread = problem.low, problem.high, problem.spread
    above = torch.where(low.isfinite(), low + 2 * spread, spread)
    below = torch.where(high.isfinite(), high - 2 * spread, -spread)
    return torch.where(low.isfinite(), low, below), torch.where(high.isfinite(), high, above)


class RandomShooting(SamplingPlanner):
    r"""The best of N action sequences drawn uniformly from the box of legal actions.

    .. math:: u^* = \arg\min_k J(x_0, u^k), \qquad u^k_t \sim U[\underline u, \overline u]

    The baseline of planning with learned models (Nagabandi et al. 2018, "Neural network dynamics
    for model-based deep reinforcement learning with model-free fine-tuning", section IV-C). Every
    iteration draws anew, and the best sequence of all is kept. An action without bounds is drawn
    from [-1, 1], one with a single bound from the two units next to it.

    Args:
        samples: N.
        iterations: how often N sequences are drawn.
        keep: whether the sequence that the search begins with competes; False: what was planned
            before is forgotten, as in the original.
        finalists: how many of the N are rolled out in full: the best by a sketch that the model
            makes of all of them (a ReLU perceptron in eight bits, some three times as fast; models
            without one roll out all). None: all.

    Raises:
        ArgumentError: if a count is not at least 1.
    """

    search = _Search

    def __init__(
        self,
        *,
        samples: int = 1000,
        iterations: int = 1,
        keep: bool = False,
        finalists: int | None = None,
    ):
        check_counts(samples=samples, iterations=iterations)
        if finalists is not None:
            check_counts(finalists=finalists)
        self.samples, self.iterations, self.keep = samples, iterations, keep
        self.finalists = finalists
