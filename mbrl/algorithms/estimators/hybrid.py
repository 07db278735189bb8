"""Hill climbing from the best sequence of actions found so far."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mbrl.algorithms.estimators.estimator import Estimate, Estimator, Problem, Subject
from mbrl.algorithms.estimators.pathwise import pathwise_loss
from mbrl.algorithms.estimators.score_function import Baseline, Scores
from mbrl.errors import ArgumentError
from mbrl.nn import OpenLoop
from mbrl.types import Draw


class Hybrid(Estimator):
    r"""The mean goes to the best row and on along its gradient; the score moves deviations.

    .. math:: M \leftarrow z^{n^*}, \quad \hat g_M = \nabla_z J(z^{n^*}), \quad
              n^* = \arg\max_n J(z^n), \qquad \hat g_\Sigma = \nabla_\Sigma \hat J_{score}

    over rows of which row 0 repeats the best sequence of samples z found so far (at first: the
    mean), so that the best return of an update is never below that of the update before. All rows
    begin in one state: returns from different ones would compare luck.

    Bias: of the mean's gradient, deliberately: it is the gradient of the return of the best of N
    sequences, not of the expected one. That of the deviations is the score function's, without row
    0, which was not drawn.

    Source: method "H" of Model-Based-RL, which counts row 0 among the draws, and leaves the mean
    where it is: a gradient that belongs to another sequence then drives it on without end.

    Args:
        subject: what is trained: one open-loop policy with deviations.
        baseline: see :class:`ScoreFunction`, over the other rows.
        standardize: see :class:`ScoreFunction`.

    Raises:
        ArgumentError: if the policy is another, or see :class:`ScoreFunction`.
    """

    def __init__(
        self,
        subject: Subject,
        *,
        baseline: Baseline = "leave_one_out",
        standardize: bool = False,
    ):
        super().__init__(subject)
        policy = next(iter(subject.policies.values()), None)
        alone = len(subject.policies) == 1 and not subject.others
        if not alone or not isinstance(policy, OpenLoop) or policy.log_sd is None:
            raise ArgumentError(
                "algorithm.estimator.kind: hybrid trains one policy, of kind open_loop with an "
                f"initial_sd; the graph has {', '.join([*subject.policies, *subject.others])}"
            )
        if len(policy.mean) < subject.horizon:
            raise ArgumentError(
                f"algorithm.estimator.kind: hybrid moves every action of a rollout, and the policy "
                f"has {len(policy.mean)} steps for a horizon of {subject.horizon}; give it as many"
            )
        if subject.batch < 2:
            raise ArgumentError(
                f"algorithm.batch must be at least 2 with hybrid, got {subject.batch}: row 0 "
                "repeats the best sequence"
            )
        self._policy, self._deviation = policy, policy.log_sd
        self._scores = Scores(subject, baseline, standardize, subject.batch - 1)
        with torch.no_grad():
            nothing = torch.zeros(1, 0)
            steps = range(subject.horizon)
            self._best = torch.cat([policy.moments(nothing, t)[0] for t in steps])  # (H, nu)

    def estimate(self, problem: Problem) -> Estimate:
        """Roll out, differentiate mean and deviations apart, move the mean to the best row."""
        objective = problem.objective
        for name, part in zip(("start states", "contexts"), problem.start, strict=True):
            rows = problem.ranks.gathered(part, problem.size)
            if not torch.equal(rows, rows[:1].expand_as(rows)):
                raise ArgumentError(
                    "algorithm.estimator.kind: hybrid compares sequences of actions from one "
                    f"state, and {name} differ; take the noise out of the reset, e.g. by "
                    "task_args: {reset_noise_scale: 0}"
                )
        draws: list[Draw] = []
        gain = None if objective.gains is None else objective.gain
        trajectory = problem.unroll(self._subject.graph, gain=gain, draws=draws, replay=self._best)
        whole = problem.whole(trajectory)
        returns = problem.returns(whole)
        best = int(returns.argmax())
        pathwise = pathwise_loss(self._subject, problem, trajectory, best)
        score = self._scores.loss(problem, trajectory, draws, first=1)
        gradients = self._gradients(problem, pathwise, score)
        # An update that diverges leaves everything as it was.
        if all(g is None or bool(g.isfinite().all()) for g in gradients.values()):
            samples = _row(problem, torch.stack([draw.sample for draw in draws]), best)
            self._move([draw.t for draw in draws], samples)
        measured = {"best_return": float(returns[best]), "best_is_new": float(best > 0)}
        return Estimate(gradients, whole, returns, measured)

    def state_dict(self) -> dict[str, Any]:
        """Return the best sequence."""
        return {"best": self._best}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._best = state["best"].clone()

    @torch.no_grad()
    def _move(self, steps: list[int], samples: torch.Tensor) -> None:
        """Take samples [n, nu] of these steps for the best; a held policy draws in a few only."""
        self._best = self._best.clone()
        self._best[steps] = samples.to(self._best.dtype)
        self._policy.mean[steps] = samples

    def _gradients(
        self, problem: Problem, pathwise: torch.Tensor, score: torch.Tensor
    ) -> dict[str, torch.Tensor | None]:
        found: dict[str, torch.Tensor | None] = {}
        for name, parameter in self._subject.parameters.items():
            loss = score if parameter is self._deviation else pathwise
            found |= problem.gradients(loss, {name: parameter}, keep=True)
        return found


def _row(problem: Problem, samples: torch.Tensor, row: int) -> torch.Tensor:
    """Return a row of the whole batch of samples [T, B, nu], whichever rank has it."""
    mine = row in problem.rows
    found = samples[:, problem.rows.index(row)] if mine else torch.zeros_like(samples[:, 0])
    return problem.ranks.total(found)
