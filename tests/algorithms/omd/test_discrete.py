"""OMD, MLE and VEP on the cart-pole: which tasks, whether they learn; see test_seedwise, too."""

import numpy as np
import pytest
import torch

import mbrl
from mbrl.algorithms import DiscreteOMD, Setting
from mbrl.errors import ArgumentError
from tests.algorithms.omd.runs import made


def test_what_is_evaluated_is_drawn_from_the_softmax():
    algorithm = made("omd", seeds=1, alpha=0.5)
    seen = np.random.default_rng(0).normal(size=(1, 4)).repeat(4000, 0)
    actions = algorithm.actor().act(seen)
    assert set(actions.ravel()) == {0.0, 1.0}
    observation = torch.from_numpy(seen[None, :1])
    learner = algorithm._learner
    values = learner.q.network.forward(learner.w, observation).output.mean(0)[0]
    wanted = torch.softmax(values / 0.5, 0)[1]
    assert actions.mean() == pytest.approx(float(wanted), abs=0.03)


def test_a_task_that_does_not_fit_is_refused():
    task = mbrl.make_task("InvertedPendulum-v5", threads=1)
    with pytest.raises(ArgumentError, match=r"InvertedPendulum-v5 does not fit .* CartPole-v1"):
        DiscreteOMD(Setting(task, {}, torch.Generator()))


@pytest.mark.slow
def test_the_pole_is_held_much_longer_than_by_chance():
    options = {"hidden_dim": 32, "model_hidden_dim": 32, "batch_size": 256}
    algorithm = made(
        "omd", agent="mle", seeds=2, steps=1500, random_steps=1000, eval_episodes=20, **options
    )
    by_chance = 22.0  # the mean return of uniform actions
    for _ in range(3):
        found = algorithm.update()
    assert found["return_mean"] > 4 * by_chance
