"""The sum of the pathwise and the score-function gradient."""

from __future__ import annotations

from mbrl.algorithms.estimators.estimator import Estimate, Estimator, Problem, Subject
from mbrl.algorithms.estimators.pathwise import pathwise_loss
from mbrl.algorithms.estimators.score_function import Baseline, Scores
from mbrl.errors import ArgumentError
from mbrl.types import Draw


class Sum(Estimator):
    r"""Pathwise plus a share of the score function, of the same rollouts.

    .. math:: \hat g = \hat g_{pathwise} + \lambda \, \hat g_{score}

    Bias: both estimate the same gradient, so that the expectation is (1 + lambda) times it, where
    both are unbiased; Adam does not mind the factor. Where the pathwise part is blind
    (terminations, discontinuities), the score function sees lambda times what it misses.

    Source: method "PR" of Model-Based-RL.

    Args:
        subject: what is trained.
        score_weight: lambda.
        baseline: see :class:`ScoreFunction`.
        standardize: see :class:`ScoreFunction`; its bias then comes on top.

    Raises:
        ArgumentError: if lambda is negative, or see :class:`ScoreFunction`.
    """

    def __init__(
        self,
        subject: Subject,
        *,
        score_weight: float = 1.0,
        baseline: Baseline = "leave_one_out",
        standardize: bool = False,
    ):
        super().__init__(subject)
        if score_weight < 0:
            raise ArgumentError(
                f"algorithm.estimator.score_weight must not be negative, got {score_weight}"
            )
        self._weight = score_weight
        self._scores = Scores(subject, baseline, standardize)

    def estimate(self, problem: Problem) -> Estimate:
        """Roll out once, differentiate both."""
        objective, draws = problem.objective, list[Draw]()
        gain = None if objective.gains is None else objective.gain
        trajectory = problem.unroll(self._subject.graph, gain=gain, draws=draws)
        pathwise = pathwise_loss(self._subject, problem, trajectory)
        score = self._scores.loss(problem, trajectory, draws)
        return self._result(problem, trajectory, pathwise + self._weight * score)
