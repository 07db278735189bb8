"""Means of a few seeds."""

import numpy as np
import pytest

from mbrl.errors import ArgumentError
from mbrl.reporting import mean_interval, student_quantile

# Student's t as it is tabulated in textbooks.
TABLE = {
    (0.975, 1): 12.706,
    (0.975, 2): 4.303,
    (0.975, 4): 2.776,
    (0.975, 9): 2.262,
    (0.975, 30): 2.042,
    (0.975, 1000): 1.962,
    (0.95, 5): 2.015,
    (0.995, 3): 5.841,
}


@pytest.mark.parametrize(("arguments", "expected"), TABLE.items())
def test_quantiles_are_those_of_the_tables(arguments, expected):
    assert student_quantile(*arguments) == pytest.approx(expected, abs=5e-4)
    probability, freedom = arguments
    assert student_quantile(1 - probability, freedom) == pytest.approx(-expected, abs=5e-4)


def test_an_interval_by_hand():
    """Deviation 1, three values: 4.3027 / sqrt(3) on either side."""
    values = np.array([[1.0, 5.0], [2.0, 5.0], [3.0, 5.0]])
    mean, low, high = mean_interval(values)
    np.testing.assert_array_equal(mean, [2, 5])
    np.testing.assert_allclose(low, [2 - 2.4841, 5], atol=1e-4)
    np.testing.assert_allclose(high, [2 + 2.4841, 5], atol=1e-4)


@pytest.mark.parametrize("count", [2, 5])
def test_it_covers_the_expectation_as_often_as_it_says(count):
    dice = np.random.default_rng(0)
    _, low, high = mean_interval(dice.normal(3.0, 2.0, size=(count, 40_000)))
    covered = ((low < 3.0) & (high > 3.0)).mean()
    assert covered == pytest.approx(0.95, abs=0.005)  # 4.6 deviations of the share


def test_one_run_tells_of_no_spread():
    values = np.array([[1.0, 2.0]])
    assert all((part == values[0]).all() for part in mean_interval(values))


def test_mistakes_are_named():
    with pytest.raises(ArgumentError, match="values: there are none"):
        mean_interval(np.zeros((0, 3)))
    with pytest.raises(ArgumentError, match="probability must lie in"):
        student_quantile(1.0, 3)
    with pytest.raises(ArgumentError, match="freedom must be at least 1"):
        student_quantile(0.9, 0)
