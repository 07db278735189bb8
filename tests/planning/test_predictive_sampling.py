"""Predictive sampling: what it draws, and what becomes the nominal."""

import numpy as np
import pytest
import torch

from mbrl.planning import PredictiveSampling
from mbrl.planning.splines import Spline
from tests.planning.problems import Recorded, linear_quadratic

STATES = torch.tensor([[1.0, 0.0], [2.0, -1.0], [-0.3, 0.4]], dtype=torch.float64)


def test_the_nominal_is_the_best_of_all_before():
    problem = Recorded.of(linear_quadratic().problem())
    PredictiveSampling(samples=8, iterations=12).plan(problem, STATES)
    for row in range(3):
        best, nominal = np.inf, None
        for i, (actions, costs) in enumerate(problem.calls):
            if i > 0:
                assert torch.equal(actions[:, 0, row], nominal)
            for k in range(actions.shape[1]):
                if costs[k, row] < best:
                    best, nominal = costs[k, row], actions[:, k, row]


@pytest.mark.parametrize(("knots", "kind"), [(None, "linear"), (3, "cubic"), (2, "zero")])
def test_noise_is_relative_to_the_spread_and_on_the_knots(knots, kind):
    problem = Recorded.of(linear_quadratic().problem())
    planner = PredictiveSampling(samples=20_000, noise=0.1, knots=knots, interpolation=kind)
    planner.plan(problem, STATES, iterations=1)
    spline = Spline(6, knots, kind)
    theta = spline.fit(problem.calls[1][0])[:, 1:] / torch.tensor([0.5, 2.0])
    theta = theta.flatten(0, 2).numpy()
    np.testing.assert_allclose(theta.mean(0), 0, atol=5 * 0.1 / np.sqrt(len(theta)))
    np.testing.assert_allclose(theta.std(0), 0.1, rtol=0.02)


def test_without_bounds_the_spread_is_one():
    problem = Recorded.of(linear_quadratic(bounded=False).problem())
    PredictiveSampling(samples=20_000, noise=0.7).plan(problem, STATES, iterations=1)
    assert problem.calls[1][0][:, 1:].std().item() == pytest.approx(0.7, rel=0.01)


def test_the_optimum_of_a_bounded_problem():
    system = linear_quadratic()
    planner = PredictiveSampling(samples=200, noise=0.05, iterations=150)
    plan = planner.plan(system.problem(), STATES)
    for row in range(3):
        _, best = system.optimum(STATES[row].numpy())
        assert plan.costs[row].item() == pytest.approx(best, abs=2e-3)


def test_a_nominal_between_splines_is_kept_as_it_is():
    # Two knots cannot give these actions, and the fit of them costs more.
    system = linear_quadratic()
    best = np.stack([system.optimum(row.numpy())[0] for row in STATES], axis=1)
    problem = Recorded.of(system.problem())
    start = torch.from_numpy(best)
    plan = PredictiveSampling(samples=5, knots=2, iterations=2).plan(problem, STATES, start)
    assert torch.equal(plan.actions, start)
    assert (problem.calls[1][1][0] > problem.calls[0][1][0]).all()
