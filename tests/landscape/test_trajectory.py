"""The loss of action sequences, on linear-quadratic problems."""

import mujoco
import numpy as np
import pytest
import torch

from mbrl.errors import DivergenceError
from mbrl.landscape import TrajectoryLoss
from mbrl.physics import Simulator
from mbrl.planning import Problem, Scene
from mbrl.planning.model import SimulatorModel
from tests.landscape.common import START, bowl, hessian
from tests.planning.problems import GOAL, PARTICLE, SquaredCost, linear_quadratic, particle


def points_near(loss, count, size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, len(loss.solution), generator=generator, dtype=torch.float64)
    return loss.solution + size * noise


def test_the_surface_is_the_quadratic_of_the_hessian():
    system = linear_quadratic(bounded=False)
    loss, points = bowl(system), points_near(bowl(system), 50, 1.0)
    away = (points - loss.solution).numpy()
    _, lowest = system.optimum(START)
    expected = lowest + 0.5 * np.einsum("ki,ij,kj->k", away, hessian(system), away)
    np.testing.assert_allclose(loss.values(points).numpy(), expected, rtol=1e-12)
    slopes = away @ hessian(system)
    np.testing.assert_allclose(loss.gradients(points).numpy(), slopes, atol=1e-11)


def test_actions_are_clipped_into_their_bounds():
    system = linear_quadratic()
    loss, points = bowl(system), points_near(bowl(system), 20, 2.0)
    low, high = system.low.numpy(), system.high.numpy()
    sequences = points.numpy().reshape(20, system.horizon, 2)
    assert ((sequences < low) | (sequences > high)).any(axis=(1, 2)).all()
    expected = [system.cost(START, u) for u in np.clip(sequences, low, high)]
    np.testing.assert_allclose(loss.values(points).numpy(), expected, rtol=1e-12)
    gradients = loss.gradients(points).numpy().reshape(sequences.shape)
    beyond = (sequences < low) | (sequences > high)
    assert (gradients[beyond] == 0).all()
    assert (gradients[~beyond] != 0).all()


def test_the_gradient_is_that_of_the_values():
    loss = bowl(linear_quadratic())
    point = points_near(loss, 1, 0.7)
    eye, step = torch.eye(point.shape[1], dtype=torch.float64), 1e-6
    differences = (loss.values(point + step * eye) - loss.values(point - step * eye)) / (2 * step)
    torch.testing.assert_close(loss.gradients(point)[0], differences, rtol=1e-6, atol=1e-7)


def test_diverged_points_are_infinite_and_have_no_gradient():
    system, wall = linear_quadratic(bounded=False), 0.7
    loss, points = bowl(system, wall), points_near(bowl(system), 60, 0.3)
    diverges = (points.reshape(60, system.horizon, 2)[:, :, 0] > wall).any(1)
    assert 5 < diverges.sum() < 55
    values, whole = loss.values(points), bowl(system).values(points)
    assert torch.equal(values.isinf(), diverges)
    torch.testing.assert_close(values[~diverges], whole[~diverges], rtol=1e-14, atol=0)
    assert torch.equal(loss.gradients(points).isnan().all(1), diverges)
    assert loss.gradients(points[diverges]).isnan().all()


def test_points_that_cannot_be_linearised_have_no_gradient(monkeypatch):
    system, wall = linear_quadratic(bounded=False), 0.7
    loss, points = bowl(system), points_near(bowl(system), 20, 0.3)
    refused = (points.reshape(20, system.horizon, 2)[:, :, 0] > wall).any(1)
    assert 0 < refused.sum() < 20
    whole, model = loss.gradients(points), loss._problem.model
    linearize = model.linearize

    def refusing(states, actions, scene):
        bad = (actions[:, :, 0] > wall).any(0).nonzero()[:, 0].tolist()
        if bad:
            raise DivergenceError("cannot", bad)
        return linearize(states, actions, scene)

    monkeypatch.setattr(model, "linearize", refusing)
    found = loss.gradients(points)
    assert torch.equal(found.isnan().all(1), refused)
    torch.testing.assert_close(found[~refused], whole[~refused])


def test_the_loss_is_the_mean_over_the_starts():
    """Each start with actions of its own, as rows of a plan are."""
    problem = particle(6)
    generator = torch.Generator().manual_seed(0)
    state = torch.randn(3, 4, generator=generator, dtype=torch.float64)
    actions = 0.3 * torch.randn(6, 3, 2, generator=generator, dtype=torch.float64)
    loss = TrajectoryLoss(problem, state, actions)
    single = [
        float(problem.rollout(state[b : b + 1], actions[:, None, b : b + 1])[1]) for b in range(3)
    ]
    assert float(loss.values(loss.solution[None])) == pytest.approx(np.mean(single), rel=1e-14)
    assert loss.layout == {"actions": (6, 3, 2)}


def test_contexts_belong_to_their_starts():
    class Goals(SquaredCost):
        def __call__(self, points):
            away = points.next_state[:, :2] - points.scene.flattened(3)
            return (away**2).sum(-1)

    simulator = Simulator(mujoco.MjModel.from_xml_string(PARTICLE), threads=1)
    one = torch.ones(2, dtype=torch.float64)
    goals = torch.stack([GOAL, 2 * GOAL])
    problem = Problem(
        SimulatorModel(simulator), Goals(one, one, one), -one, one, 3, scene=Scene(0, goals)
    )
    still = torch.zeros(3, 2, 2, dtype=torch.float64)
    loss = TrajectoryLoss(problem, torch.zeros(2, 4, dtype=torch.float64), still)
    expected = 3 * (float(GOAL @ GOAL) + 4 * float(GOAL @ GOAL)) / 2
    torch.testing.assert_close(
        loss.values(loss.solution.expand(5, -1)),
        torch.full((5,), expected, dtype=torch.float64),
        rtol=1e-14,
        atol=0,
    )


def test_directions_are_scaled_by_half_the_ranges():
    loss = bowl(linear_quadratic(horizon=3))
    ones = torch.ones(6, dtype=torch.float64)
    assert loss.filtered(ones).tolist() == [0.5, 2.0] * 3
    assert bowl(linear_quadratic(bounded=False, horizon=3)).filtered(ones).tolist() == [1.0] * 6
