"""OMD, MLE and VEP on the cart-pole: which tasks, whether they learn; see test_seedwise, too."""

import numpy as np
import pytest
import torch

import mbrl
from mbrl.algorithms import DiscreteOMD, Setting
from mbrl.errors import ArgumentError
from tests.algorithms.omd.runs import made


def decided(**options):
    """An algorithm whose Q-functions prefer one action to the other, and what they see."""
    algorithm = made("omd", seeds=1, alpha=0.5, **options)
    learner = algorithm._learner
    learner.w.biases[2][..., 1] += 0.5
    observation = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 1, 4)))
    values = learner.q.network.forward(learner.w, observation).output.mean(0)[0]
    probability = float(torch.softmax(values / 0.5, 0)[1])
    assert min(abs(probability - p) for p in (0.0, 0.5, 1.0)) > 0.15
    return algorithm, observation, probability


def test_what_is_evaluated_is_drawn_from_the_softmax():
    algorithm, observation, probability = decided(epsilon=0.9)
    actions = algorithm.actor().act(observation[0].repeat(4000, 1).numpy())
    assert set(actions.ravel()) == {0.0, 1.0}
    assert actions.mean() == pytest.approx(probability, abs=0.03)


@pytest.mark.parametrize("random", [False, True])
def test_what_is_explored_is_uniform_at_first_and_now_and_then_later(random):
    algorithm, observation, probability = decided(epsilon=0.4)
    even = torch.linspace(0, 1, 1001, dtype=torch.float64)
    explored = [algorithm._explored(observation[0], u[None], random=random) for u in even]
    share = 1.0 if random else 0.4
    wanted = share * 0.5 + (1 - share) * probability
    assert float(torch.cat(explored).mean()) == pytest.approx(wanted, abs=0.002)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"agent": "mle", "warm_opt": True}, "warm_opt has no effect: algorithm.agent mle solves"),
        ({"agent": "vep", "adjoint": "normal_equations"}, "adjoint has no effect: .* 'identity'"),
        ({"damping": 0.1}, "damping has no effect: algorithm.adjoint identity.*leave it at 1e-05"),
    ],
)
def test_options_without_effect_are_refused(options, message):
    with pytest.raises(ArgumentError, match=message):
        made("omd", **options)


@pytest.mark.parametrize("adjoint", ["conjugate_gradient", "normal_equations"])
def test_how_well_the_adjoint_system_is_solved_is_measured(adjoint):
    residuals = []
    for iterations in (1, 200):
        algorithm = made("omd", adjoint=adjoint, adjoint_iterations=iterations, damping=50.0)
        algorithm.update()
        residuals.append(algorithm.update()["adjoint_residual"])
    assert 1e-3 < residuals[0] < 1
    assert residuals[1] < 2e-5  # the Hessian is small beside so much damping


def test_a_task_that_does_not_fit_is_refused():
    task = mbrl.make_task("InvertedPendulum-v5", threads=1)
    with pytest.raises(ArgumentError, match=r"InvertedPendulum-v5 does not fit .* CartPole-v1"):
        DiscreteOMD(Setting(task, {}, torch.Generator()))


@pytest.mark.slow
@pytest.mark.parametrize(("agent", "updates"), [("mle", 3), ("omd", 10)])
def test_the_pole_is_held_much_longer_than_by_chance(agent, updates):
    options = {"hidden_dim": 32, "model_hidden_dim": 32, "batch_size": 256}
    algorithm = made(
        "omd", agent=agent, seeds=2, steps=1500, random_steps=1000, eval_episodes=20, **options
    )
    by_chance = 22.0  # the mean return of uniform actions
    for _ in range(updates):
        found = algorithm.update()
    assert found["return_mean"] > 4 * by_chance
