"""MPPI: its weights by loops, and its average against the tilted Gaussian's."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from mbrl.errors import ArgumentError
from mbrl.planning import MPPI, Model, Problem, StageCost, TorchModel
from mbrl.planning.costs import Quadratic, StagePoints
from tests.planning.problems import Linear, Recorded, linear_quadratic

STATES = torch.tensor([[1.0, 0.0], [2.0, -1.0], [-0.3, 0.4]], dtype=torch.float64)


def averaged(actions, costs, nominal, planner, spread):
    """The next nominal of one row: actions [T, K, nu], costs [K], nominal [T, nu]."""
    finite = [float(c) for c in costs if c < np.inf]
    mean = sum(finite) / len(finite)
    scale = planner.temperature
    if planner.scale_costs:
        scale *= math.sqrt(sum((c - mean) ** 2 for c in finite) / len(finite))
    total, weighted = 0.0, np.zeros_like(nominal)
    for k, cost in enumerate(costs):
        if cost == np.inf:
            continue
        exponent = -(cost - min(finite)) / scale
        if planner.control_cost:
            for t, j in np.ndindex(*nominal.shape):
                variance = (planner.noise * spread[j]) ** 2
                exponent -= nominal[t, j] * (actions[t, k, j] - nominal[t, j]) / variance
        total += math.exp(exponent)
        weighted += math.exp(exponent) * actions[:, k]
    return weighted / total


@pytest.mark.parametrize("scale_costs", [True, False])
@pytest.mark.parametrize("control_cost", [True, False])
@pytest.mark.parametrize("wall", [None, 0.1])
def test_the_nominal_is_the_weighted_average(scale_costs, control_cost, wall):
    problem = Recorded.of(linear_quadratic().problem(wall))
    planner = MPPI(
        samples=16, noise=0.3, temperature=0.5, scale_costs=scale_costs, control_cost=control_cost
    )
    search = planner.begin(problem, STATES, problem.still(3), torch.Generator().manual_seed(0))
    for _ in range(4):
        nominal = search.plan.actions.numpy()
        search.iterate()
        actions, costs = (part.numpy() for part in problem.calls[-2])
        np.testing.assert_allclose(actions[:, 0], nominal, atol=1e-14)
        for b in range(3):
            expected = averaged(actions[:, :, b], costs[:, b], nominal[:, b], planner, [0.5, 2.0])
            np.testing.assert_allclose(search.plan.actions[:, b], expected, atol=1e-12)
    diverged = torch.cat([costs for _, costs in problem.calls]).isinf()
    assert diverged.any() == (wall is not None)


class LinearCost(StageCost):
    """g . u"""

    def __init__(self, g: torch.Tensor):
        self.g = g

    def __call__(self, points: StagePoints) -> torch.Tensor:
        return points.action @ self.g

    def quadratic(self, points: StagePoints, a, b, model: Model) -> Quadratic:
        raise NotImplementedError


@pytest.mark.parametrize("control_cost", [True, False])
def test_of_a_linear_cost_the_average_is_that_of_the_tilted_gaussian(control_cost):
    # exp(-g.u / lambda) N(theta, Sigma) has the mean theta - Sigma g / lambda; with the control
    # cost the same holds of N(0, Sigma).
    noise, temperature, n = 0.5, 2.0, 200_000
    g = torch.tensor([0.8, -1.2], dtype=torch.float64)
    eye, far = torch.eye(2, dtype=torch.float64), torch.full((2,), torch.inf, dtype=torch.float64)
    problem = Problem(TorchModel(Linear(eye, eye), 2), LinearCost(g), -far, far, horizon=2)
    start = torch.tensor([[[0.3, -0.2]], [[0.1, 0.4]]], dtype=torch.float64)
    planner = MPPI(
        samples=n,
        noise=noise,
        temperature=temperature,
        scale_costs=False,
        control_cost=control_cost,
        iterations=1,
    )
    plan = planner.plan(problem, STATES[:1], start)
    mean = torch.zeros_like(start) if control_cost else start
    expected = mean - noise**2 * g / temperature
    error = 5 * noise * 2 / n**0.5  # five standard errors, weights less even than 1 / n
    torch.testing.assert_close(plan.actions, expected, rtol=0, atol=error)


def test_costs_that_are_all_the_same_weigh_the_same():
    weights = MPPI().weights(torch.full((5, 2), 3.7e9, dtype=torch.float64), torch.zeros(5, 2))
    torch.testing.assert_close(weights, torch.full_like(weights, 0.2))


def test_scaled_costs_have_no_unit():
    costs = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    none = torch.zeros_like(costs)
    weights = MPPI().weights(costs, none)
    torch.testing.assert_close(MPPI().weights(1e6 * costs - 3e4, none), weights)
    torch.testing.assert_close(MPPI().weights(1e-9 * costs, none), weights)
    assert not torch.allclose(
        MPPI(scale_costs=False).weights(1e-3 * costs, none), weights, rtol=0.1
    )


@pytest.mark.parametrize(
    ("temperature", "few", "many"), [(1e-3, 1.0, 1.5), (1.0, 10.0, 60.0), (1e3, 63.9, 64.0)]
)
def test_the_temperature_sets_how_many_samples_count(temperature, few, many):
    problem = linear_quadratic().problem()
    planner = MPPI(samples=64, temperature=temperature)
    search = planner.begin(problem, STATES, problem.still(3), torch.Generator().manual_seed(0))
    search.iterate()
    assert few <= search.measured()["effective_samples"] <= many


def test_annealing():
    # Of 4 iterations and 6 knots: exp(-n / (0.5 * 4) - (6 - h) / (0.8 * 6)).
    problem = Recorded.of(linear_quadratic(bounded=False).problem())
    planner = MPPI(
        samples=20_000, noise=0.5, anneal_iterations=0.5, anneal_horizon=0.8, iterations=4
    )
    search = planner.begin(problem, STATES[:1], problem.still(1), torch.Generator().manual_seed(0))
    for n in range(5):
        search.iterate()
        actions = problem.calls[-2][0]
        found = (actions[:, 1:] - actions[:, :1]).std(1)[:, 0]
        last = min(n, 3)  # further iterations keep the noise of the last
        expected = [0.5 * math.exp(-last / 2.0 - (6 - h) / 4.8) for h in range(1, 7)]
        torch.testing.assert_close(
            found, torch.tensor([[s, s] for s in expected], dtype=torch.float64), rtol=0.03, atol=0
        )


def test_annealing_is_over_the_iterations_that_are_asked_for():
    problem = Recorded.of(linear_quadratic(bounded=False).problem())
    planner = MPPI(samples=20_000, noise=0.5, anneal_iterations=0.5, iterations=10)
    planner.plan(problem, STATES[:1], iterations=2)
    for n, call in enumerate((1, 3)):  # after the start, and the average of the first
        actions = problem.calls[call][0]
        found = (actions[:, 1:] - actions[:, :1]).std(1)[:, 0]
        wanted = torch.full_like(found, 0.5 * math.exp(-n / (0.5 * 2)))
        torch.testing.assert_close(found, wanted, rtol=0.03, atol=0)


def test_the_average_becomes_the_plan_even_where_it_costs_more():
    system = linear_quadratic()
    best = torch.from_numpy(np.stack([system.optimum(x.numpy())[0] for x in STATES], axis=1))
    problem = Recorded.of(system.problem())
    plan = MPPI(samples=16, temperature=1e3).plan(problem, STATES, best, iterations=1)
    assert (plan.costs > problem.calls[0][1][0]).all()


def test_an_average_that_diverges_is_not_taken():
    class Ring(torch.nn.Module):  # diverges near u = 0, where the average of both sides lies
        def forward(self, state, action):
            inside = (action.abs() < 0.4).all(-1, keepdim=True)
            return torch.where(inside, torch.nan, 0.9 * state + 0 * action)

    one = torch.ones(1, dtype=torch.float64)
    problem = dataclasses.replace(
        linear_quadratic(horizon=1).problem(), model=TorchModel(Ring(), 1), low=-one, high=one
    )
    problem = dataclasses.replace(problem, stage=LinearCost(0 * one))
    start = torch.full((1, 1, 1), 0.41, dtype=torch.float64)
    recorded = Recorded.of(problem)
    planner = MPPI(samples=2000, noise=1.0, temperature=1e3, iterations=1)
    plan = planner.plan(recorded, one[None], start)
    assert recorded.calls[-2][1].isfinite().any()
    assert recorded.calls[-1][1].isinf().all()
    assert torch.equal(plan.actions, start)
    assert plan.costs.isfinite().all()


def test_the_optimum_of_a_bounded_problem():
    system = linear_quadratic()
    planner = MPPI(samples=256, temperature=0.02, anneal_iterations=0.2, iterations=60)
    plan = planner.plan(system.problem(), STATES)
    for row in range(3):
        _, best = system.optimum(STATES[row].numpy())
        assert plan.costs[row].item() == pytest.approx(best, abs=5e-4)


@pytest.mark.parametrize("option", ["temperature", "anneal_iterations", "anneal_horizon"])
def test_options_that_are_not_positive(option):
    with pytest.raises(ArgumentError, match=rf"^{option} must be positive, got 0.0$"):
        MPPI(**{option: 0.0})
