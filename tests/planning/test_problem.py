"""What candidates cost where their futures are uncertain, by hand and in closed form."""

import numpy as np
import pytest
import torch

from mbrl.nn import EnsembleDynamics
from mbrl.planning import CEM, LearnedEnsemble, Problem, PropagationOptions, RewardCost, Scene
from mbrl.planning import problem as planning_problem
from mbrl.planning.costs import StageCost, TerminalCost
from tests.nn.systems import linear_gaussian
from tests.planning.problems import Recorded


def tensor(values):
    return torch.tensor(values, dtype=torch.float64)


LIMIT = tensor([1.0])
PARTICLES = 8


class Away(StageCost):
    """(1 + t) |x' - goal| + u^2 / 2: no function of the average of x'."""

    def __call__(self, points):
        goal = points.scene.flattened(points.steps)
        away = (points.next_state - goal).abs().sum(-1)
        return (1 + points.times) * away + 0.5 * points.action.square().sum(-1)

    def quadratic(self, points, a, b, model):
        raise NotImplementedError


class Last(TerminalCost):
    """10 x^4."""

    def __call__(self, state, scene, steps):
        return 10 * state[:, 0] ** 4

    def quadratic(self, state, scene, steps, model):
        raise NotImplementedError


def uncertain(mode="ts1", **options):
    """Four scalar systems with noise, that differ in how they grow."""
    how = PropagationOptions(mode, particles=PARTICLES)
    return LearnedEnsemble(linear_gaussian(), propagation=how, **options)


def problem(model, horizon=3, start=0):
    goal = tensor([[1.0], [-2.0]])
    return Problem(model, Away(), -LIMIT, LIMIT, horizon, Last(), Scene(start, goal))


def candidates(count, horizon=3):
    generator = torch.Generator().manual_seed(3)
    draw = torch.rand(horizon, count, 2, 1, generator=generator, dtype=torch.float64)
    return tensor([[0.5], [-1.0]]), 2 * draw - 1


def cost_by_hand(states, actions, goal, start):
    """Of one particle: states [T+1], actions [T]."""
    total = 10 * states[-1] ** 4
    for t, action in enumerate(actions):
        total += (1 + start + t) * abs(states[t + 1] - goal) + 0.5 * action**2
    return total


@pytest.mark.parametrize("mode", ["ts1", "tsinf"])
def test_costs_are_means_over_particles(mode):
    model, (state, actions) = uncertain(mode), candidates(5)
    asked = problem(model, start=2)
    states, costs = asked.rollout(state, actions)
    assert states.shape == (4, 5, 2, 1)
    assert costs.shape == (5, 2)
    for k in range(5):
        futures = model.futures(state, actions[:, k], Scene(2)).numpy()
        for row, goal in enumerate((1.0, -2.0)):
            done = actions[:, k, row, 0].numpy()
            each = [cost_by_hand(x[:, row, 0], done, goal, 2) for x in futures]
            assert np.std(each) > 0.1
            assert costs[k, row].item() == pytest.approx(np.mean(each), rel=1e-12)
            mean = futures[:, :, row].mean(0)
            np.testing.assert_allclose(states[:, k, row], mean, rtol=1e-12, atol=1e-13)


def opposed():
    """x' = x + u and x' = x - u, without noise: on average nothing happens."""
    made = EnsembleDynamics(1, 1, torch.Generator(), hidden=(), members=2, dtype="float64")
    with torch.no_grad():
        made.network.layers[0].weight.zero_()
        made.network.layers[0].weight[:, 1, 0] = torch.tensor([1.0, -1.0])
        made.highest_log_variance.fill_(-60.0)
        made.lowest_log_variance.fill_(-61.0)
    return made


class Squared(StageCost):
    def __call__(self, points):
        return points.next_state[:, 0] ** 2

    def quadratic(self, points, a, b, model):
        raise NotImplementedError


def of_opposed(mode, horizon):
    made = LearnedEnsemble(opposed(), propagation=PropagationOptions(mode, particles=2))
    return Problem(made, Squared(), -LIMIT, LIMIT, horizon)


def test_what_a_model_does_not_know_costs():
    start, done = tensor([[0.5]]), tensor([0.3, -0.2])
    costs = {}
    for mode in ("expectation", "ts1", "tsinf"):
        found = of_opposed(mode, 2).rollout(start, done[:, None, None, None])
        costs[mode] = found[1].item()
        assert found[0][:, 0, 0, 0].tolist() == pytest.approx([0.5, 0.5, 0.5], abs=1e-12)
    # E (0.5 +- 0.3)^2 = 0.5^2 + 0.3^2; then -+ 0.2 with the same sign for good, or one of its own.
    assert costs["expectation"] == pytest.approx(2 * 0.25, abs=1e-9)
    assert costs["tsinf"] == pytest.approx(0.25 + 0.09 + 0.25 + 0.1**2, abs=1e-9)
    either = [0.25 + 0.09 + 0.25 + change**2 for change in (0.1, 0.5)]
    assert min(abs(costs["ts1"] - cost) for cost in either) < 1e-9


def test_a_planner_keeps_off_what_its_model_does_not_know():
    nothing, planner = tensor([[0.0]]), CEM(samples=50, elites=5, iterations=8)
    pushed = tensor([[[0.9]], [[0.9]]])
    careful = planner.plan(of_opposed("tsinf", 2), nothing, pushed)
    assert careful.actions.abs().max() < 0.1
    assert of_opposed("expectation", 2).rollout(nothing, pushed[:, None])[1].item() < 1e-12


class Falls:
    """A task in name only: every step earns x', and an episode ends above 1."""

    name, uses_time, context_size = "falls", False, 0

    def reward(self, x, u, y, *, t=0, context=None):
        return y[:, 0]

    def terminated(self, y, *, t=0, context=None):
        return y[:, 0] > 1


def test_each_particle_earns_until_its_own_end():
    made = LearnedEnsemble(opposed(), propagation=PropagationOptions("tsinf", particles=2))
    asked = Problem(made, RewardCost(Falls()), -LIMIT, LIMIT, 3)
    pushes = tensor([[[[0.4]]]]).repeat(3, 1, 1, 1)
    _, costs = asked.rollout(tensor([[0.5]]), pushes)
    earned = [0.9 + 1.3, 0.1 - 0.3 - 0.7]  # the first ends at 1.3, and earns no 1.7
    assert costs.item() == pytest.approx(-sum(earned) / 2, abs=1e-9)


def test_a_candidate_of_which_one_particle_diverges_costs_infinity():
    generator = torch.Generator().manual_seed(0)
    dynamics = EnsembleDynamics(
        1, 1, generator, hidden=(2,), activation="relu", members=2, dtype="float64"
    )
    first, last = dynamics.network.layers
    with torch.no_grad():  # the second member overflows where u < -0.5
        first.weight[1, :, 0] = tensor([0.0, -1e200])
        first.bias[1, 0, 0] = -0.5e200
        last.weight[1, 0, 0] = 1e200
    made = LearnedEnsemble(dynamics, propagation=PropagationOptions("tsinf", particles=4))
    asked, zero = Problem(made, Squared(), -LIMIT, LIMIT, 2), tensor([[0.0]])
    actions = tensor([[[[0.2]], [[-0.9]]], [[[0.1]], [[0.1]]]])
    states, costs = asked.rollout(zero, actions)
    futures = made.futures(zero, actions[:, 1], Scene())
    assert futures[:, :, 0, 0].isfinite().all(1).tolist() == [True, True, False, False]
    assert costs[0, 0].isfinite()
    assert costs[1, 0].item() == torch.inf
    assert states[:, 0].isfinite().all()
    assert states[1:, 1].isnan().all()
    found, winner, best = asked.compete(zero, actions)
    assert winner.tolist() == [0]
    assert torch.equal(found, costs)
    assert torch.equal(best, states[:, 0])


@pytest.mark.parametrize("most", [1, 4096])
def test_memory_bounds_particles_and_changes_no_result(most, monkeypatch):
    state, actions = candidates(200)
    expected, states = Recorded.of(problem(uncertain())), Recorded.of(problem(uncertain()))
    whole = expected.compete(state, actions)
    monkeypatch.setattr(planning_problem, "MOST_NUMBERS", most)
    parts = states.compete(state, actions)
    assert len(expected.calls) == 1
    # Numbers of a candidate: 4 states of 2 rows in 8 particles; at least 32 rows go together.
    each = max(most // (4 * 2 * PARTICLES), 16)
    sizes = [found.shape[1] for found, _ in states.calls]
    assert sizes == [each] * (200 // each) + ([200 % each] if 200 % each else [])
    torch.testing.assert_close(parts[0], whole[0], rtol=1e-12, atol=1e-12)
    assert torch.equal(parts[1], whole[1])
    torch.testing.assert_close(parts[2], whole[2], rtol=1e-12, atol=1e-12)
    assert torch.equal(whole[1], whole[0].argmin(0))
