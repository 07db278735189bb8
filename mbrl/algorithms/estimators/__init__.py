"""Estimators of the policy gradient, by name."""

from collections.abc import Callable

from mbrl.algorithms.estimators.estimator import Estimate, Estimator, Problem, Subject
from mbrl.algorithms.estimators.hybrid import Hybrid
from mbrl.algorithms.estimators.interpolated import Interpolated
from mbrl.algorithms.estimators.pathwise import Pathwise
from mbrl.algorithms.estimators.score_function import ScoreFunction
from mbrl.algorithms.estimators.sum import Sum

__all__ = ["ESTIMATORS", "Estimate", "Estimator", "Problem", "Subject"]

ESTIMATORS: dict[str, Callable[..., Estimator]] = {
    "pathwise": Pathwise,
    "score_function": ScoreFunction,
    "sum": Sum,
    "interpolated": Interpolated,
    "hybrid": Hybrid,
}
