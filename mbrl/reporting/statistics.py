"""Means of a few seeds, and how sure they are."""

from __future__ import annotations

import functools
import math

import numpy as np

from mbrl.errors import ArgumentError
from mbrl.types import Array

_LEVEL = 0.95
_POINTS = 200_001


def mean_interval(values: Array, level: float = _LEVEL) -> tuple[Array, Array, Array]:
    r"""Return the mean over independent runs, and the ends of its confidence interval.

    .. math:: \bar x \pm t_{n-1, (1 + level) / 2} \frac{s}{\sqrt n}

    which covers the expectation with the probability ``level`` where the values are normally
    distributed (Student 1908).

    Args:
        values: [n, ...], a row a run.
        level: the probability.

    Returns:
        Mean, lower and upper end, [...] each; all the same for one run, which tells of no spread.

    Raises:
        ArgumentError: if there is no run.
    """
    count = len(values)
    if not count:
        raise ArgumentError("values: there are none")
    mean: Array = values.mean(0)
    if count == 1:
        return mean, mean, mean
    error = values.std(0, ddof=1) / math.sqrt(count)
    half = student_quantile((1 + level) / 2, count - 1) * error
    return mean, mean - half, mean + half


@functools.lru_cache
def student_quantile(probability: float, freedom: int) -> float:
    r"""Return the quantile of Student's distribution with that many degrees of freedom.

    With :math:`t = \sqrt{\nu} \tan \theta` its density is proportional to
    :math:`\cos^{\nu - 1} \theta`, which is integrated numerically.

    Args:
        probability: in (0, 1).
        freedom: nu, at least 1.

    Raises:
        ArgumentError: if a number is out of its range.
    """
    if not 0 < probability < 1:
        raise ArgumentError(f"probability must lie in (0, 1), got {probability}")
    if freedom < 1:
        raise ArgumentError(f"freedom must be at least 1, got {freedom}")
    theta = np.linspace(-np.pi / 2, np.pi / 2, _POINTS)
    density = np.cos(theta).clip(min=0) ** (freedom - 1)
    below = np.concatenate([[0.0], np.cumsum(density[1:] + density[:-1])])
    return math.sqrt(freedom) * math.tan(np.interp(probability, below / below[-1], theta))
