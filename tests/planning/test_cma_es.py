"""CMA-ES: what it promises of the strategy, and what it keeps of the package to itself."""

import math
import os
import random
import warnings

import numpy as np
import pytest
import torch

from mbrl.errors import ArgumentError
from mbrl.planning import CMAES, Problem, TorchModel
from tests.planning.problems import Recorded, SquaredCost, linear_quadratic, particle

STATES = torch.tensor([[1.0, 0.0], [2.0, -1.0], [-0.3, 0.4]], dtype=torch.float64)


class Cubed(SquaredCost):
    """A monotone function of the squared cost, where there is one step."""

    def __call__(self, points):
        return 1e6 * super().__call__(points) ** 3 - 7


def test_the_world_outside_is_left_alone(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    before = np.random.get_state(), random.getstate(), torch.get_rng_state()  # noqa: NPY002
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        filters = list(warnings.filters)
        CMAES(iterations=30).plan(linear_quadratic().problem(wall=0.2), STATES)
        assert warnings.filters == filters
    assert [str(warning.message) for warning in caught] == []
    assert capfd.readouterr() == ("", "")
    assert os.listdir() == []
    after = np.random.get_state(), random.getstate(), torch.get_rng_state()  # noqa: NPY002
    assert all(np.array_equal(a, b) for a, b in zip(before[0], after[0], strict=True))
    assert before[1] == after[1]
    assert torch.equal(before[2], after[2])


def test_the_plan_does_not_depend_on_the_global_generator():
    problem = linear_quadratic().problem()
    plans = []
    for seed in (0, 1):
        np.random.seed(seed)  # noqa: NPY002
        plans.append(CMAES().plan(problem, STATES))
    assert torch.equal(plans[0].actions, plans[1].actions)


def test_a_row_of_a_batch_is_the_row_alone():
    problem = particle(horizon=5)
    states = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    together = CMAES(iterations=10).plan(problem, states)
    alone = CMAES(iterations=10).plan(problem, states[:1])
    assert torch.equal(together.actions[:, :1], alone.actions)


def test_only_the_order_of_costs_matters():
    system = linear_quadratic(horizon=1)
    problem = system.problem()
    cubed = Recorded.of(problem)
    object.__setattr__(cubed, "stage", Cubed(system.q, system.r, torch.zeros_like(system.q)))
    plans = [CMAES(iterations=15).plan(p, STATES) for p in (problem, cubed)]
    assert torch.equal(plans[0].actions, plans[1].actions)


def test_where_all_samples_diverge_the_strategy_stays():
    problem = linear_quadratic().problem(wall=-10.0)
    search = CMAES(noise=0.2).begin(
        problem, STATES, problem.still(3), torch.Generator().manual_seed(0)
    )
    for _ in range(3):
        search.iterate()
        assert search.measured()["step_size"] == pytest.approx(0.2)


@pytest.mark.parametrize(("knots", "numbers"), [(None, 12), (3, 6)])
def test_the_default_population(knots, numbers):
    problem = Recorded.of(linear_quadratic().problem())
    CMAES(knots=knots).plan(problem, STATES, iterations=1)
    expected = 4 + int(3 * math.log(numbers))
    assert len(problem.calls[1][1]) == expected + 1  # and the mean
    torch.testing.assert_close(problem.calls[1][0][:, -1], problem.still(3))


def test_the_first_population_has_the_deviation_asked_for():
    problem = Recorded.of(linear_quadratic(bounded=False).problem())
    CMAES(samples=5000, noise=0.4, iterations=1).plan(problem, STATES)
    spread = problem.calls[1][0][:, :-1].std(1)
    torch.testing.assert_close(spread, torch.full_like(spread, 0.4), rtol=0.06, atol=0)


@pytest.mark.parametrize("bounded", [True, False])
@pytest.mark.parametrize("diagonal", [True, False])
def test_the_optimum(bounded, diagonal):
    system = linear_quadratic(bounded=bounded)
    plan = CMAES(iterations=400, diagonal=diagonal).plan(system.problem(), STATES)
    for row in range(3):
        actions, best = system.optimum(STATES[row].numpy())
        assert plan.costs[row].item() == pytest.approx(best, abs=1e-8)
        np.testing.assert_allclose(plan.actions[:, row], actions, atol=1e-3)


def test_iterations_far_beyond_convergence_do_no_harm():
    system = linear_quadratic(horizon=2)
    plan = CMAES(iterations=800).plan(system.problem(), STATES[:1])
    _, best = system.optimum(STATES[0].numpy())
    assert plan.costs.item() == pytest.approx(best, rel=1e-12)


def one_number(noise):
    """Plan the single push that brings x' = x + u from 0 to 0.3, |u| <= 1."""
    one = torch.ones(1, dtype=torch.float64)
    cost = SquaredCost(one, 0 * one, 0.3 * one)

    class Push(torch.nn.Module):
        def forward(self, state, action):
            return state + action

    problem = Recorded.of(Problem(TorchModel(Push(), 1), cost, -one, one, 1))
    return problem, CMAES(noise=noise, iterations=60).plan(problem, torch.zeros(1, 1).double())


@pytest.mark.parametrize("noise", [0.3, 0.8, 2.0])
def test_one_number_alone(noise):
    _, plan = one_number(noise)
    assert plan.actions.item() == pytest.approx(0.3, abs=1e-3)


def test_a_first_step_larger_than_the_box_is_not_cut_short():
    first = [one_number(noise)[0].calls[1][0] for noise in (0.7, 3.0)]
    assert not torch.equal(*first)


def test_a_start_on_the_bounds():
    problem = linear_quadratic().problem()
    start = problem.high.expand(6, 3, 2)
    plan = CMAES(iterations=60).plan(problem, STATES, start)
    assert (plan.costs < problem.rollout(STATES, start[:, None])[1][0]).all()


def test_a_population_that_is_too_small():
    with pytest.raises(ArgumentError, match=r"^samples must be at least 4, got 3$"):
        CMAES(samples=3)
