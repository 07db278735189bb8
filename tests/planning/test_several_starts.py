"""Gradient shooting from several starts: on two wells, on convex problems, interrupted."""

import math

import numpy as np
import pytest
import torch

from mbrl.errors import ArgumentError
from mbrl.planning import GradientShooting, Problem, StageCost, TorchModel
from tests.planning.gradient_problems import (
    box_optimum,
    dense,
    linear_quadratic,
    same,
    states,
    stored,
)
from tests.planning.problems import Linear


class Wells(StageCost):
    """(y^2 - 1)^2 + 0.3 y: a deep well near -1, a shallow one near 1."""

    def __call__(self, points):
        y = points.next_state[:, 0]
        return (y.square() - 1).square() + 0.3 * y

    def quadratic(self, points, a, b, model):
        raise NotImplementedError


def two_wells():
    """One step of y = x + u, from two states, and actions that lead into the shallow well."""
    one = torch.ones(1, 1, dtype=torch.float64)
    bound = 2 * one[0]
    problem = Problem(TorchModel(Linear(one, one), 1), Wells(), -bound, bound, 1)
    x0 = torch.tensor([[0.0], [0.2]], dtype=torch.float64)
    return problem, x0, torch.ones(1, 2, 1, dtype=torch.float64)


def lowest(x0):
    y = x0.numpy() + np.linspace(-2, 2, 400_001)
    return ((y**2 - 1) ** 2 + 0.3 * y).min(axis=1)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_it_leaves_a_shallow_well():
    problem, x0, start = two_wells()
    options = {"iterations": 200, "noise": 1.0, "optimizer": {"kind": "adam", "lr": 0.02}}
    alone = GradientShooting(**options).plan(problem, x0, start)
    assert (alone.costs > 0.2).all()  # in the shallow one
    found = GradientShooting(starts=16, **options).plan(problem, x0, start, generator=generator())
    assert found.actions.shape == (1, 2, 1)
    np.testing.assert_allclose(found.costs, lowest(x0), atol=1e-5)


def test_every_start_of_a_row_has_its_state_and_context():
    goals, x0 = states(3, seed=51), states(3)
    problem = linear_quadratic(context=goals)
    planner = GradientShooting(iterations=200, starts=4)
    search = planner.begin(problem, x0, problem.still(3), generator())
    for _ in range(200):
        search.iterate()
    found, low, high = search.plan, float(problem.low), float(problem.high)
    for row in range(3):
        u = box_optimum(*dense(problem, x0[row], goals[row]), low, high)
        np.testing.assert_allclose(found.actions[:, row, 0], u, atol=1e-6)
        # One optimum: all starts have it, not the best alone.
        np.testing.assert_allclose(search._costs[row::3], found.costs[row], atol=1e-9)


def test_the_first_start_is_the_one_that_was_given():
    problem, x0, start = two_wells()
    search = GradientShooting(starts=3).begin(problem, x0, start, generator())
    given = GradientShooting().begin(problem, x0, start, generator())
    assert torch.equal(search._here["knots"][:, :2], given._here["knots"])
    assert not (search._here["knots"][:, 2:].unflatten(1, (2, 2)) == given._here["knots"]).any()


def test_it_resumes_bit_by_bit_and_draws_from_its_generator_alone():
    problem, x0, start = two_wells()
    planner = GradientShooting(starts=5, noise=0.5)
    straight = planner.begin(problem, x0, start, generator(1))
    again = planner.begin(problem, x0, start, generator(1))
    other = planner.begin(problem, x0, start, generator(2))
    for _ in range(3):
        straight.iterate(), again.iterate(), other.iterate()
    assert torch.equal(straight._here["knots"], again._here["knots"])
    assert not torch.equal(straight._here["knots"], other._here["knots"])
    resumed = planner.begin(problem, x0, start, generator(3))
    resumed.load_state_dict(stored(straight))
    for _ in range(5):
        straight.iterate(), resumed.iterate()
        assert same(straight.plan, resumed.plan)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"starts": 0}, "starts must be at least 1, got 0"),
        ({"noise": 0.0}, "noise must be positive, got 0.0"),
        ({"noise": math.nan}, "noise must be positive, got nan"),
    ],
)
def test_bad_options_are_told_in_one_line(options, message):
    with pytest.raises(ArgumentError, match=message):
        GradientShooting(**options)
