"""The weights against the averages they stand for."""

import pytest
import torch

from mbrl.planning.gradients import finite_gradient
from mbrl.planning.weighting import weights_of
from tests.planning.gradient_problems import inside, linear_quadratic, states, unrolled


def derivatives(problem, x0, actions):
    """d l_k / d u_t of one row, [T (k), T (t), nu], the terminal cost in the last l."""

    def costs(u):
        return unrolled(problem, x0, u[:, None])[:, 0]

    return torch.autograd.functional.jacobian(costs, actions[:, 0])


@pytest.mark.parametrize("weighting", ["sum", "average", "prioritise"])
def test_every_gradient_is_the_weighted_average_of_the_derivatives_that_follow(weighting):
    problem = linear_quadratic(nu=2)
    horizon = problem.horizon
    x0, actions = states(1), inside(problem, 1)
    visited, costs = problem.rollout(x0, actions[:, None])
    weights = weights_of(weighting, horizon)
    g, _ = finite_gradient(problem, visited[:, 0], actions, costs[0], weights=weights.costs)
    found = weights.gains[:, None] * g[:, 0]
    each = derivatives(problem, x0, actions)
    for t in range(horizon):
        if weighting == "sum":
            expected = each[t:, t].sum(0)
        elif weighting == "average":
            expected = each[t:, t].mean(0)
        else:
            share = torch.tensor([float(horizon - k) for k in range(t, horizon)]).double()
            expected = (share[:, None] * each[t:, t]).sum(0) / share.sum()
        torch.testing.assert_close(found[t], expected)
