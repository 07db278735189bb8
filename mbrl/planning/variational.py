"""Variational optimisation: gradient search with a Gaussian over open-loop plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import get_args

import torch
from torch import Tensor

from mbrl.errors import ArgumentError, suggestion
from mbrl.planning.checks import check_counts, check_not_negative, check_positive
from mbrl.planning.descent.adam import adapted, checked_betas, no_moments
from mbrl.planning.gradients import finite_gradient
from mbrl.planning.planner import NOTHING, Plan, Planner, Search
from mbrl.planning.problem import Problem
from mbrl.planning.strategies import (
    Gradients,
    Strategy,
    combined,
    pathwise,
    score_function,
    score_share,
)
from mbrl.planning.weighting import Weighting, weights_of


class Variational(Planner):
    r"""Gradient search with an independent Gaussian over every action of a plan.

    .. math:: \min_{M, \Sigma} E_\xi \, J(x_0, \mathrm{clip}(M + \Sigma \xi)), \qquad
              \xi_{ti} \sim N(0, 1), \quad M, \Sigma \in R^{T \times n_u}

    by Adam on M and Sigma, all lengths in half-ranges of the actions; after each step M is clipped
    into the bounds and Sigma to at least ``min_sd``. The strategies of Model-Based-RL, of N samples
    that are rolled out in one batch:

    * pathwise (R): the gradient of the samples' costs, the noise held fixed.
    * score_function (REINFORCE): their costs alone; see :func:`score_function`.
    * sum (PR): pathwise + ``score_weight`` score.
    * interpolated (IR): (1 - m) pathwise + m score, m from the mean of Sigma; see
      :func:`score_share`.
    * interpolated_elementwise (SIR): the same with an m of its own for every entry of M and Sigma:
      what reaches that entry is mixed. (The original weighs the costs of whole steps.)
    * hybrid (H): sample 0 repeats the best plan found so far. M goes to the best sample and on
      along its pathwise gradient; Sigma follows the score function of the other samples. (The
      original counts sample 0 among the draws, and leaves M where it is.)

    Samples are clipped into the bounds. The pathwise gradient passes through the clipping where its
    descent leads inward, and is zero where it leads outward: what is past a bound can come back,
    and is not driven further. (The derivative of clip itself is zero both ways, and would leave a
    mean at a bound with half of its samples.) The score function is that of the Gaussian before it
    is clipped, and needs no such rule. Samples that diverge, or cannot be linearised, do not count.

    With ``samples: 1, initial_sd: 0`` and pathwise this is deterministic gradient descent on the
    actions, mode "Grad" of the original. The mean is rolled out after every step, and does not
    count in the gradient; the plan is the best that was rolled out.

    Args:
        iterations: updates of a plan made from nothing.
        strategy: see above.
        samples: N.
        initial_sd: Sigma at first, as a share of half the range of an action; 0: none at all.
        min_sd: its floor.
        lr: of the mean, likewise.
        sd_lr_factor: multiplies the rate of Sigma.
        betas: Adam's decay rates.
        weighting: how the costs that follow an action count: sum, average or prioritise; see
            :func:`weights_of`. Adam divides every entry by its own size, so that average, which
            scales whole entries, differs little from sum here.
        score_weight: lambda of "sum".
        min_share: m_min of an interpolation.
        standardize: whether advantages are divided by their deviation.

    Raises:
        ArgumentError: if a number is out of its range, or does not fit the strategy.
    """

    def __init__(
        self,
        *,
        iterations: int = 100,
        strategy: Strategy = "pathwise",
        samples: int = 8,
        initial_sd: float = 0.3,
        min_sd: float = 1e-4,
        lr: float = 0.05,
        sd_lr_factor: float = 1.0,
        betas: Sequence[float] = (0.9, 0.999),
        weighting: Weighting = "sum",
        score_weight: float = 1.0,
        min_share: float = 0.0,
        standardize: bool = True,
    ):
        for name, choice, kind in (
            ("strategy", strategy, Strategy),
            ("weighting", weighting, Weighting),
        ):
            if choice not in get_args(kind):
                raise ArgumentError(
                    f"{name}: unknown value {choice!r}; {suggestion(choice, get_args(kind))}"
                )
        check_counts(iterations=iterations, samples=samples)
        check_positive(lr=lr, min_sd=min_sd)
        check_not_negative(sd_lr_factor=sd_lr_factor, score_weight=score_weight)
        if not 0 <= min_share <= 1:
            raise ArgumentError(f"min_share must lie between 0 and 1, got {min_share}")
        if initial_sd != 0 and not initial_sd > min_sd:
            raise ArgumentError(f"initial_sd must be 0 or above min_sd {min_sd}, got {initial_sd}")
        if initial_sd == 0 and (strategy != "pathwise" or samples > 1):
            raise ArgumentError(
                f"initial_sd is 0, which is for strategy pathwise with samples 1 alone, got "
                f"{strategy} with {samples}"
            )
        least = {"pathwise": 1, "hybrid": 3}.get(strategy, 2)
        if samples < least:
            raise ArgumentError(
                f"samples must be at least {least} with strategy {strategy}, got {samples}"
            )
        self.iterations, self.strategy, self.samples = iterations, strategy, samples
        self.initial_sd, self.min_sd = initial_sd, min_sd
        self.lr, self.sd_lr, self.betas = lr, lr * sd_lr_factor, checked_betas(betas)
        self.weighting, self.score_weight = weighting, score_weight
        self.min_share, self.standardize = min_share, standardize

    def begin(
        self,
        problem: Problem,
        state: Tensor,
        actions: Tensor,
        generator: torch.Generator,
        memory: Mapping[str, Tensor] = NOTHING,
    ) -> Search:
        """See :class:`Planner`; the mean begins at the actions."""
        return _Search(self, problem, state, actions, generator)


class _Search(Search):
    kept = ("_mean", "_sd", "_by_mean", "_by_sd", "_actions", "_states", "_costs", "_share")

    def __init__(
        self,
        planner: Variational,
        problem: Problem,
        state: Tensor,
        actions: Tensor,
        generator: torch.Generator,
    ):
        super().__init__(problem, state)
        self._planner, self._generator = planner, generator
        self._weights = weights_of(planner.weighting, problem.horizon)
        self._mean = actions / problem.spread  # in half-ranges, as the deviations
        self._sd = torch.full_like(actions, planner.initial_sd)
        self._by_mean, self._by_sd = no_moments(actions), no_moments(actions)
        states, costs = problem.rollout(state, actions[:, None])
        self._actions, self._states, self._costs = actions, states[:, 0], costs[0]
        self._share = 0.0

    def iterate(self) -> None:
        """Draw, roll out, differentiate, step."""
        planner, problem = self._planner, self.problem
        noise = self._noise()  # (T, N, B, nu)
        raw = (self._mean[:, None] + self._sd[:, None] * noise) * problem.spread
        if planner.strategy == "hybrid":
            raw = torch.cat([self._actions[:, None], raw[:, 1:]], dim=1)
        actions = problem.clip(raw)
        states, costs = problem.rollout(self.state, actions)
        self._visit(actions, states, costs)
        parts: dict[str, Gradients] = {}
        if planner.strategy == "hybrid":
            parts["pathwise"] = self._of_best()
            self._mean = self._actions / problem.spread
        elif planner.strategy != "score_function":
            parts["pathwise"] = self._pathwise(raw, actions, states, costs, noise)
        if planner.strategy != "pathwise":
            first = int(planner.strategy == "hybrid")  # sample 0 was not drawn
            drawn = slice(first, planner.samples)
            parts["score_function"] = self._score(
                actions[:, drawn], states[:, drawn], costs[drawn], noise[:, first:]
            )
        share = self._shares()
        self._share = float(share.mean())
        self._update(combined(planner.strategy, parts, share, planner.score_weight))
        moved = problem.clip(self._mean * problem.spread)[:, None]
        self._visit(moved, *problem.rollout(self.state, moved))

    @property
    def plan(self) -> Plan:
        """See :class:`Search`."""
        return Plan(self._actions, self._states, self._costs)

    def measured(self) -> dict[str, float]:
        """Return the mean deviation, in half-ranges, and the score function's share m."""
        return {"sd": float(self._sd.mean()), "score_share": self._share}

    def _noise(self) -> Tensor:
        shape = (len(self._mean), self._planner.samples, *self._mean.shape[1:])
        if not self._planner.initial_sd:
            return torch.zeros(shape, dtype=torch.float64)
        return torch.randn(shape, generator=self._generator, dtype=torch.float64)

    def _visit(self, actions: Tensor, states: Tensor, costs: Tensor) -> None:
        """Keep the best of candidates [T, K, B, nu] and the plan of every row."""
        lowest, winner = costs.min(dim=0)
        row, better = torch.arange(len(winner)), lowest < self._costs
        self._costs = torch.where(better, lowest, self._costs)
        self._actions = torch.where(better[:, None], actions[:, winner, row], self._actions)
        self._states = torch.where(better[:, None], states[:, winner, row], self._states)

    def _pathwise(
        self, raw: Tensor, actions: Tensor, states: Tensor, costs: Tensor, noise: Tensor
    ) -> Gradients:
        """Of the N samples among the candidates."""
        n, batch = noise.shape[1:3]
        gradient, good = finite_gradient(
            self.problem,
            states[:, :n].flatten(1, 2),
            actions[:, :n].flatten(1, 2),
            costs[:n].flatten(),
            scene=self.problem.scene.repeated(n),
            weights=self._weights.costs,
        )
        kept = self._kept(gradient.unflatten(1, (n, batch)), raw[:, :n])
        return pathwise(kept, good.unflatten(0, (n, batch)), noise)

    def _of_best(self) -> Gradients:
        """Of the best plan, as a sample without noise."""
        gradient, good = finite_gradient(
            self.problem, self._states, self._actions, self._costs, weights=self._weights.costs
        )
        kept = self._kept(gradient[:, None], self._actions[:, None])
        return pathwise(kept, good[None], torch.zeros_like(kept))

    def _kept(self, gradient: Tensor, raw: Tensor) -> Tensor:
        """Return g by what was drawn [T, K, B, nu], in half-ranges, passed through the clipping."""
        problem = self.problem
        outward = torch.where(gradient > 0, raw <= problem.low, raw >= problem.high)
        gains = self._weights.gains[:, None, None, None]
        return gains * torch.where(outward, 0.0, gradient * problem.spread)

    def _score(self, actions: Tensor, states: Tensor, costs: Tensor, noise: Tensor) -> Gradients:
        n, batch = costs.shape
        steps = self.problem.costs_by_step(
            states.flatten(1, 2), actions.flatten(1, 2), self.problem.scene.repeated(n)
        )
        return score_function(
            steps.unflatten(1, (n, batch)),
            costs.isfinite(),
            noise,
            self._sd,
            self._weights,
            self._planner.standardize,
        )

    def _shares(self) -> Tensor:
        """Return m; zero or one where one part is alone or nothing is shared."""
        planner = self._planner
        if not planner.strategy.startswith("interpolated"):
            return self._sd.new_full((), float(planner.strategy == "score_function"))
        each = planner.strategy == "interpolated_elementwise"
        sd = self._sd if each else self._sd.mean((0, 2))[:, None]
        return score_share(sd, planner.initial_sd, planner.min_sd, planner.min_share)

    def _update(self, found: Gradients) -> None:
        planner, problem = self._planner, self.problem
        step, self._by_mean = adapted(found.mean, found.rows, self._by_mean, planner.betas)
        mean = self._mean - planner.lr * step
        self._mean = problem.clip(mean * problem.spread) / problem.spread
        if planner.initial_sd:
            step, self._by_sd = adapted(found.sd, found.rows, self._by_sd, planner.betas)
            self._sd = (self._sd - planner.sd_lr * step).clamp(min=planner.min_sd)
