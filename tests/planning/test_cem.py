"""The cross-entropy method: its update, recomputed one number at a time."""

import numpy as np
import pytest
import torch

from mbrl.errors import ArgumentError
from mbrl.planning import CEM
from tests.planning.problems import Recorded, linear_quadratic

STATES = torch.tensor([[1.0, 0.0], [2.0, -1.0], [-0.3, 0.4]], dtype=torch.float64)
SPREAD = np.array([0.5, 2.0])


def begin(planner, problem):
    return planner.begin(problem, STATES, problem.still(3), torch.Generator().manual_seed(0))


def refitted(actions, costs, old, elites, momentum, floor):
    """Mean and deviation, [T, B, nu] each, of the next population."""
    mean, deviation = np.empty_like(old[0]), np.empty_like(old[1])
    for t, b, j in np.ndindex(*mean.shape):
        ranked = sorted(range(len(costs)), key=lambda k: costs[k, b])
        values = [actions[t, k, b, j] for k in ranked[:elites] if costs[k, b] < np.inf]
        if not values:
            mean[t, b, j], deviation[t, b, j] = old[0][t, b, j], old[1][t, b, j]
            continue
        average = sum(values) / len(values)
        spread = (sum((v - average) ** 2 for v in values) / len(values)) ** 0.5
        mean[t, b, j] = momentum * old[0][t, b, j] + (1 - momentum) * average
        blend = momentum * old[1][t, b, j] + (1 - momentum) * spread
        deviation[t, b, j] = max(blend, floor * SPREAD[j])
    return mean, deviation


@pytest.mark.parametrize("wall", [None, 0.15, -0.25, -10.0])
@pytest.mark.parametrize(("momentum", "floor"), [(0.0, 0.0), (0.3, 0.2)])
def test_mean_and_deviation_are_those_of_the_elites(wall, momentum, floor):
    problem = Recorded.of(linear_quadratic(horizon=3).problem(wall))
    planner = CEM(samples=12, elites=5, noise=0.5, momentum=momentum, floor=floor)
    search = begin(planner, problem)
    mean = problem.still(3).numpy()
    deviation = np.broadcast_to(0.5 * SPREAD, mean.shape)
    for _ in range(4):
        search.iterate()
        actions, costs = (part.numpy() for part in problem.calls[-1])
        np.testing.assert_allclose(actions[:, -1], mean, atol=1e-14)  # it competes
        mean, deviation = refitted(
            actions[:, :-1], costs[:-1], (mean, deviation), 5, momentum, floor
        )
        expected = (deviation / SPREAD).mean()
        assert search.measured()["deviation"] == pytest.approx(expected, rel=1e-12)
        np.testing.assert_allclose(search.state_dict()["_deviation"], deviation, rtol=1e-12)


def test_the_walls_of_the_test_above_leave_some_and_too_few_and_no_elites():
    counts = set()
    for wall in (0.15, -0.25, -10.0):
        problem = Recorded.of(linear_quadratic(horizon=3).problem(wall))
        begin(CEM(samples=12, elites=5), problem).iterate()
        counts |= {min(5, int(n)) for n in problem.calls[-1][1][:-1].isfinite().sum(0)}
    assert 0 in counts
    assert 5 in counts
    assert counts & {1, 2, 3, 4}


def test_samples_are_normal_around_the_mean_with_the_deviation():
    problem = Recorded.of(linear_quadratic(bounded=False).problem())
    search = begin(CEM(samples=20_000, elites=2000, noise=0.5), problem)
    search.iterate()
    search.iterate()
    deviation = search.state_dict()["_deviation"]
    for (actions, _), scale in zip(problem.calls[1:], (0.5, None), strict=True):
        away = actions[:, :-1] - actions[:, -1:]
        spread = away.std(1)
        if scale is not None:
            torch.testing.assert_close(spread, torch.full_like(spread, scale), rtol=0.03, atol=0)
        fourth = (away**4).mean(1) / spread**4
        torch.testing.assert_close(fourth, torch.full_like(fourth, 3.0), rtol=0, atol=0.25)
    assert (deviation < spread).all()  # the elites lie closer


def test_the_mean_is_no_elite():
    # It would be the best, and would draw the next mean towards itself.
    system = linear_quadratic()
    best = torch.from_numpy(np.stack([system.optimum(x.numpy())[0] for x in STATES], axis=1))
    problem = Recorded.of(system.problem())
    search = CEM(samples=10, elites=1, momentum=0.0).begin(
        problem, STATES, best, torch.Generator().manual_seed(0)
    )
    search.iterate()
    search.iterate()
    actions, costs = problem.calls[1]
    winner = costs[:-1].argmin(0)
    mean = problem.calls[2][0][:, -1]
    torch.testing.assert_close(mean, actions[:, winner, torch.arange(3)])
    assert torch.equal(search.plan.actions, best)


def test_the_optimum_of_a_bounded_problem():
    system = linear_quadratic()
    planner = CEM(samples=400, elites=40, momentum=0.5, floor=0.0, iterations=80)
    plan = planner.plan(system.problem(), STATES)
    for row in range(3):
        actions, best = system.optimum(STATES[row].numpy())
        assert plan.costs[row].item() == pytest.approx(best, abs=1e-6)
        np.testing.assert_allclose(plan.actions[:, row], actions, atol=5e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"elites": 0}, "elites must be at least 1, got 0"),
        ({"samples": 10, "elites": 11}, "elites must be at most samples = 10, got 11"),
        ({"momentum": 1.0}, r"momentum must lie in \[0, 1\), got 1.0"),
        ({"momentum": -0.1}, r"momentum must lie in \[0, 1\), got -0.1"),
        ({"floor": -0.1}, "floor must not be negative, got -0.1"),
        ({"interpolation": "cubik", "knots": 2}, "interpolation: unknown value 'cubik'; .*"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ArgumentError, match=f"^{message}$"):
        CEM(**options).plan(linear_quadratic().problem(), STATES)
