"""Gradients of rollouts, and of those only that have one."""

from dataclasses import replace

import pytest
import torch

from mbrl.errors import DivergenceError
from mbrl.planning import Scene, TorchModel
from mbrl.planning.gradients import finite_gradient
from tests.planning.gradient_problems import cliff, inside, linear_quadratic, states, unrolled


class Refusing(TorchModel):
    """A model that cannot linearise some rows of those that it is given, told by their state."""

    points = False  # whether errors name points of all steps, not rows

    def linearize(self, states, actions, scene):
        bad = (states[:, :, 0].abs() > 5).any(0).nonzero()[:, 0].tolist()
        if bad:
            shift = len(states[0]) * (len(states) - 1) if self.points else 0
            raise DivergenceError("cannot", [bad[0] + shift])
        return super().linearize(states, actions, scene)


def rollouts(problem, batch, seed=0):
    x0, actions = states(batch, seed=seed), inside(problem, batch, seed)
    visited, costs = problem.rollout(x0, actions[:, None])
    return x0, actions, visited[:, 0], costs[0]


def by_autograd(problem, x0, actions, weights):
    actions = actions.clone().requires_grad_()
    (weights[:, None] * unrolled(problem, x0, actions)).sum().backward()
    return actions.grad


def test_the_gradient_of_weighed_costs_is_autograds():
    goals = states(4, seed=7)
    problem = linear_quadratic(nu=2, context=goals)
    weights = torch.linspace(0.5, 2.0, 6, dtype=torch.float64)
    x0, actions, visited, costs = rollouts(problem, 4)
    found, good = finite_gradient(problem, visited, actions, costs, weights=weights)
    assert good.all()
    torch.testing.assert_close(found, by_autograd(problem, x0, actions, weights))


def test_costs_by_step_are_those_of_the_steps_with_the_terminal_one_in_the_last():
    problem = linear_quadratic(nu=2)
    x0, actions, visited, costs = rollouts(problem, 4)
    found = problem.costs_by_step(visited, actions)
    x = x0
    for t in range(6):
        x = x @ problem.model._dynamics.a.mT + actions[t] @ problem.model._dynamics.b.mT
        expected = 0.5 * torch.einsum("bi,ij,bj->b", x, problem.stage.q, x)
        expected = expected + 0.05 * actions[t].square().sum(-1)
        if t == 5:
            expected = expected + 0.35 * x.square().sum(-1)
        torch.testing.assert_close(found[t], expected)
    torch.testing.assert_close(found.sum(0), costs)


@pytest.mark.parametrize("points", [False, True])
def test_rows_that_cannot_be_linearised_are_left_out_one_after_the_other(points):
    goals = states(5, seed=3)
    problem = linear_quadratic(nu=2, context=goals)
    model = Refusing(problem.model._dynamics, 3)
    model.points = points
    problem = replace(problem, model=model)
    x0, actions = states(5), inside(problem, 5)
    x0[1], x0[3] = 6.0, -7.0
    visited, costs = problem.rollout(x0, actions[:, None])
    visited = visited[:, 0]
    large = (visited[:-1, :, 0].abs() > 5).any(0)
    assert large[1]
    assert large[3]
    assert not large.all()
    found, good = finite_gradient(problem, visited, actions, costs[0])
    assert torch.equal(good, ~large)
    expected = by_autograd(problem, x0, actions, torch.ones(6, dtype=torch.float64))
    torch.testing.assert_close(found[:, good], expected[:, good])
    assert (found[:, ~good] == 0).all()


def test_an_error_that_names_no_row_leaves_none():
    class Nameless(TorchModel):
        def linearize(self, states, actions, scene):
            raise DivergenceError("cannot say where")

    problem = linear_quadratic()
    problem = replace(problem, model=Nameless(problem.model._dynamics, 3))
    _, actions, visited, costs = rollouts(problem, 3)
    found, good = finite_gradient(problem, visited, actions, costs)
    assert not good.any()
    assert (found == 0).all()


def test_rows_that_diverged_are_left_out_with_their_context():
    problem = cliff()
    x0 = torch.tensor([[0.0], [1.4]], dtype=torch.float64)
    actions = torch.full((4, 2, 1), 0.2, dtype=torch.float64)
    problem = problem.at(context=torch.tensor([[0.3], [2.0]], dtype=torch.float64))
    visited, costs = problem.rollout(x0, actions[:, None])
    assert costs[0].isfinite().tolist() == [True, False]
    found, good = finite_gradient(problem, visited[:, 0], actions, costs[0])
    assert good.tolist() == [True, False]
    # x_k = 0.1 k, dx_k/du_t = 0.5 for k > t, goal 0.3: sum of 0.5 (x_k - 0.3) + 0.01 u
    expected = [0.5 * sum(0.1 * k - 0.3 for k in range(t + 1, 5)) + 0.01 * 0.2 for t in range(4)]
    torch.testing.assert_close(found[:, 0, 0], torch.tensor(expected, dtype=torch.float64))
    assert (found[:, 1] == 0).all()


def test_scenes_of_rows():
    context = torch.arange(6.0).reshape(3, 2)
    assert Scene(4).rows(torch.tensor([0])) == Scene(4)
    found = Scene(4, context).rows(torch.tensor([2, 0]))
    assert found.start == 4
    assert found.context.tolist() == [[4.0, 5.0], [0.0, 1.0]]
