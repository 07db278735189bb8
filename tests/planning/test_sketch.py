"""Candidates that a sketch of the model leaves out: who is rolled out in full, and who wins."""

import pytest
import torch

from mbrl.errors import ArgumentError
from mbrl.nn import MLPDynamics
from mbrl.planning import LearnedMLP, RandomShooting, Scene
from mbrl.planning import problem as planning_problem
from tests.planning.problems import linear_quadratic

STATES = torch.tensor([[1.0, 0.0], [2.0, -1.0], [0.3, 0.3]], dtype=torch.float64)


class Sketched:
    """A model with a sketch: its rollouts, from states elsewhere; what went where is counted."""

    def __init__(self, model, offset=0.0):
        self._model, self._offset = model, offset
        self.sketched = self.full = 0

    def __getattr__(self, name):
        return getattr(self._model, name)

    def sketch(self, state, actions, scene):
        self.sketched += len(state)
        return self._model.rollout(state + self._offset, actions, scene)

    def futures(self, state, actions, scene):
        self.full += len(state)
        return self._model.futures(state, actions, scene)


def made(offset=0.0):
    problem = linear_quadratic().problem()
    object.__setattr__(problem, "model", Sketched(problem.model, offset))
    return problem


def candidates(problem, count=100):
    shape = problem.horizon, count, len(STATES), problem.action_size
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_an_exact_sketch_finds_the_same_winner():
    problem = made()
    actions = candidates(problem)
    expected = problem.compete(STATES, actions)
    assert (problem.model.sketched, problem.model.full) == (0, 300)
    costs, winner, states = problem.compete(STATES, actions, 7)
    assert (problem.model.sketched, problem.model.full) == (300, 300 + 21)
    assert torch.equal(winner, expected[1])
    torch.testing.assert_close(states, expected[2], rtol=1e-12, atol=1e-12)
    finalists = costs.isfinite()
    assert finalists.sum(0).tolist() == [7, 7, 7]
    torch.testing.assert_close(costs[finalists], expected[0][finalists], rtol=1e-12, atol=1e-12)
    worst = torch.where(finalists, expected[0], -torch.inf).amax(0)
    assert (torch.where(finalists, torch.inf, expected[0]).amin(0) >= worst).all()


def test_the_sketch_proposes_and_the_model_decides():
    problem = made(offset=3.0)
    actions = candidates(problem)
    exact = problem.compete(STATES, actions)[0]
    sketched = made().rollout(STATES + 3.0, actions)[1]
    costs, winner, states = problem.compete(STATES, actions, 10)
    for row in range(len(STATES)):
        proposed = sketched[:, row].argsort()[:10]
        best = proposed[exact[proposed, row].argmin()]
        assert winner[row] == best
        assert costs[best, row] == pytest.approx(exact[best, row].item(), rel=1e-12)
        there = problem.rollout(STATES, actions[:, best, None])[0][:, 0, row]
        torch.testing.assert_close(states[:, row], there, rtol=1e-12, atol=1e-12)
    assert not torch.equal(winner, exact.argmin(0)), "this sketch misleads"


@pytest.mark.parametrize("finalists", [None, 100, 1000])
def test_nothing_is_sketched_where_all_may_win(finalists):
    problem = made()
    problem.compete(STATES, candidates(problem), finalists)
    assert (problem.model.sketched, problem.model.full) == (0, 300)


def test_a_model_without_a_sketch_rolls_out_all():
    problem = linear_quadratic().problem()
    actions = candidates(problem)
    costs, winner, _ = problem.compete(STATES, actions, 3)
    assert costs.isfinite().all()
    assert torch.equal(winner, costs.argmin(0))


def test_every_part_has_finalists_of_its_own(monkeypatch):
    monkeypatch.setattr(planning_problem, "MOST_NUMBERS", 1)
    problem = made()
    actions = candidates(problem)
    costs, winner, _ = problem.compete(STATES, actions, 2)
    assert costs.isfinite().sum(0).tolist() == [2 * 3 + 2] * 3  # parts of 32, 32, 32 and 4
    assert torch.equal(winner, problem.compete(STATES, actions)[1])


def test_random_shooting_takes_the_best_of_the_finalists():
    full = RandomShooting(samples=200).plan(made(), STATES)
    screened = RandomShooting(samples=200, finalists=5).plan(made(), STATES)
    assert torch.equal(full.actions, screened.actions)
    misled = made(offset=3.0)
    rough = RandomShooting(samples=200, finalists=5).plan(misled, STATES)
    assert misled.model.sketched == 600
    assert (rough.costs >= full.costs).all()
    with pytest.raises(ArgumentError, match="finalists must be at least 1, got 0"):
        RandomShooting(finalists=0)


@pytest.mark.parametrize("reward", [False, True])
def test_a_perceptron_is_sketched_in_eight_bits(reward):
    dynamics = MLPDynamics(3, 2, torch.Generator().manual_seed(0), hidden=(80, 80), reward=reward)
    model, scene = LearnedMLP(dynamics), Scene()
    generator = torch.Generator().manual_seed(1)
    state = torch.randn(500, 3 + reward, generator=generator, dtype=torch.float64)
    actions = torch.rand(4, 500, 2, generator=generator, dtype=torch.float64)
    exact, rough = model.rollout(state, actions, scene), model.sketch(state, actions, scene)
    assert model.control_steps == 2 * 4 * 500
    assert rough.dtype == torch.float64
    assert torch.equal(rough[0], state)
    gap = (rough - exact)[1:].std((0, 1)) / (exact[1:] - exact[0]).std((0, 1))
    assert 1e-4 < gap.max() < 0.15
    again = model.sketch(state, actions, scene)
    assert torch.equal(again, rough)


def test_other_perceptrons_have_no_sketch():
    dynamics = MLPDynamics(3, 2, torch.Generator().manual_seed(0), activation="tanh")
    state = torch.zeros(4, 3, dtype=torch.float64)
    actions = torch.zeros(2, 4, 2, dtype=torch.float64)
    assert LearnedMLP(dynamics).sketch(state, actions, Scene()) is None
