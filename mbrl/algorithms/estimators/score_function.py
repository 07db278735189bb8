"""The score-function gradient (REINFORCE), which differentiates the policy's density alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from mbrl.algorithms.estimators.estimator import Estimate, Estimator, Problem, Subject
from mbrl.errors import ArgumentError
from mbrl.nn import GaussianPolicy, OpenLoop
from mbrl.ranks import Ranks
from mbrl.types import Draw, Trajectory

Baseline = Literal["none", "mean", "leave_one_out"]
Factor = Callable[[Any, int], Tensor | float]  # of a policy's density at a step, (nu) or a number

_TINY_DEVIATION = float(torch.finfo(torch.float32).eps)
_ROUNDING = 1e-12  # relative, of returns in double precision


class ScoreFunction(Estimator):
    r"""The density of what was sampled, weighed by the rewards that followed.

    .. math:: \hat g = \frac{1}{N} \sum_{n=1}^{N} \sum_{t=0}^{H-1}
              \nabla_\theta \log p_\theta(z_t^n \mid o_t^n) \left(R_t^n - b_t^n\right),
              \qquad R_t = \sum_{k=t}^{H-1} \gamma^k r_k

    with z the samples of all Gaussian policies of the graph before they are squashed, and rows that
    ended left out. Neither rewards nor physics need be differentiable; terminations are accounted
    for.

    Bias, by baseline b: *none* (b = 0) has none; *leave_one_out* (the mean of R_t over the other
    rows that run at t) has none; *mean* (over all rows that run at t, the row itself included)
    shrinks the contribution of step t to 1 - 1/N_t of it, N_t rows running. ``standardize`` divides
    R_t - b_t by its deviation over the rows that run at t: steps are then scaled differently, and
    the scale depends on the samples, so that the direction is biased too; a step at which a single
    row runs, or all have the same return, has no scale and does not count.

    Source: Williams 1992; returns-to-go and baselines as in Greensmith et al. 2004; method
    "REINFORCE" of Model-Based-RL, whose returns gamma^{k-t} r_k do not belong to the gradient of
    its discounted objective: here they are gamma^k r_k.

    Args:
        subject: what is trained.
        baseline: b, see above.
        standardize: see above.

    Raises:
        ArgumentError: if a policy is not Gaussian, or the batch too small for the baseline.
    """

    def __init__(
        self,
        subject: Subject,
        *,
        baseline: Baseline = "leave_one_out",
        standardize: bool = False,
    ):
        super().__init__(subject)
        self._scores = Scores(subject, baseline, standardize)

    def estimate(self, problem: Problem) -> Estimate:
        """Roll out without derivatives; differentiate the density."""
        draws: list[Draw] = []
        with torch.no_grad():
            trajectory = problem.unroll(self._subject.graph, draws=draws)
        loss = self._scores.loss(problem, trajectory, draws)
        return self._result(problem, trajectory, loss)


class Scores:
    """The score-function terms of rollouts, for every estimator that has such.

    Args:
        subject: what is trained.
        baseline: see :class:`ScoreFunction`.
        standardize: see :class:`ScoreFunction`.
        rows: rollouts of an update that count.

    Raises:
        ArgumentError: see :class:`ScoreFunction`.
    """

    def __init__(
        self, subject: Subject, baseline: Baseline, standardize: bool, rows: int | None = None
    ):
        self._baseline, self._standardize = baseline, standardize
        self._policies = set(gaussian_policies(subject).values())
        rows = subject.batch if rows is None else rows
        for name, value in (("baseline", baseline), ("standardize", str(standardize).lower())):
            if value not in ("none", "false") and rows < 2:
                raise ArgumentError(
                    f"algorithm.estimator.{name}: {value} compares rows of a batch, and "
                    f"algorithm.batch {subject.batch} leaves {rows}; enlarge it"
                )

    def loss(
        self,
        problem: Problem,
        trajectory: Trajectory,
        draws: Sequence[Draw],
        *,
        factor: Factor | None = None,
        first: int = 0,
    ) -> Tensor:
        """Return a loss whose gradient, summed over ranks, is the score-function one of -J.

        Args:
            problem: what is to be ascended.
            trajectory: rollouts.
            draws: what policies drew in them.
            factor: of each entry of the density; None: the gains of ``objective``.
            first: rows of the whole batch before this one do not count.
        """
        objective, count = problem.objective, problem.size - first
        first = sum(row < first for row in problem.rows)
        factor = factor or objective.gain
        alive = trajectory.alive[:, first:]
        rewards = trajectory.rewards.detach()[:, first:]
        following = to_go(objective.weights[:, None] * rewards)
        advantages = self._advantages(following, alive, problem.ranks)
        total = advantages.new_zeros(alive.shape[1])
        for draw in draws:
            if draw.policy in self._policies:
                density = draw.policy.log_prob(
                    draw.observation[first:], draw.sample[first:], draw.t
                )
                terms = (factor(draw.policy, draw.t) * density).sum(-1)
                total = total + advantages[draw.t] * terms
        return -total.sum() / count

    def _advantages(self, returns: Tensor, alive: Tensor, ranks: Ranks) -> Tensor:
        """Return R - b of [T, B], perhaps over its deviation; rows that ended have none."""
        mask = alive.to(returns.dtype)
        count = ranks.total(mask.sum(1, keepdim=True))
        total = ranks.total((mask * returns).sum(1, keepdim=True))
        mean = total / count.clamp(min=1)
        if self._baseline == "mean":
            centred = returns - mean
        elif self._baseline == "leave_one_out":
            # A row that runs alone has no others: their total is 0, and so is its baseline.
            centred = returns - (total - returns) / (count - 1).clamp(min=1)
        else:
            centred = returns
        if self._standardize:
            squares = ranks.total((mask * (returns - mean).square()).sum(1, keepdim=True))
            variance = squares / count.clamp(min=1)
            deviation = variance.sqrt()
            # A row that runs alone, and rows whose returns are all the same, have no scale.
            tell = (count > 1) & (deviation > _ROUNDING * mean.abs())
            centred = torch.where(tell, centred / (deviation + _TINY_DEVIATION), 0.0)
        return mask * centred


def to_go(rewards: Tensor) -> Tensor:
    """Return the sums over this and all later steps of [T, B]."""
    return rewards.flip(0).cumsum(0).flip(0)


def gaussian_policies(subject: Subject) -> dict[str, GaussianPolicy]:
    """Return the policies that are trained, by node.

    Raises:
        ArgumentError: naming a node that has parameters, but no density.
    """
    for name in subject.others:
        raise ArgumentError(
            f"graph.nodes.{name} has parameters and is no Gaussian policy: a score function does "
            "not see them; legal estimator: pathwise"
        )
    found = {}
    for name, policy in subject.policies.items():
        without = isinstance(policy, OpenLoop) and policy.log_sd is None
        if not isinstance(policy, GaussianPolicy) or without:
            raise ArgumentError(
                f"graph.nodes.{name} has no noise: a score function needs Gaussian policies; "
                "legal kinds: gaussian_mlp, open_loop with an initial_sd"
            )
        found[name] = policy
    return found
