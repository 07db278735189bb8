"""Targets and losses of Q by hand."""

import math

import numpy as np
import pytest
import torch

from mbrl.algorithms.omd.soft_q import SoftQ


def linear_q(**options):
    """Q_i(s, a) = s c_ia for a number s, of two seeds; returns SoftQ and its parameters."""
    q = SoftQ(1, 2, hidden=(), discount=0.9, alpha=0.5, **options)
    copies = 1 if options.get("double") is False else 2
    slopes = torch.tensor([[[1.0, 2.0], [3.0, -1.0]], [[0.5, 0.0], [0.0, 4.0]]]).double()
    w = q.network.zeros(2, torch.float64)
    w.weights[0].copy_(slopes[:, :copies].reshape(-1, 1, 2))
    return q, w


def columns(*rows):
    return torch.tensor(rows, dtype=torch.float64)


MINIMA = {  # min over i of Q_i(s' = 2, .) of each seed
    True: [[2.0, -2.0], [0.0, 0.0]],
    False: [[2.0, 4.0], [1.0, 0.0]],
}


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("hard", [True, False])
def test_targets(double, hard):
    q, w = linear_q(double=double, hard=hard)
    following = torch.full((2, 2, 1), 2.0, dtype=torch.float64)
    found = q.target(w, following, columns([1, 1], [-1, 3]), columns([1, 0], [1, 0]))
    for seed, (a, b) in enumerate(MINIMA[double]):
        value = max(a, b) if hard else 0.5 * math.log(math.exp(a / 0.5) + math.exp(b / 0.5))
        reward = [1.0, -1.0][seed]
        assert float(found[seed, 0]) == pytest.approx(reward + 0.9 * value, rel=1e-12)
        assert float(found[seed, 1]) == [1.0, 3.0][seed], "nothing follows a termination"


def test_a_small_temperature_neither_overflows_nor_underflows():
    q = SoftQ(1, 3, hidden=(), discount=1.0, alpha=1e-3)
    w = q.network.zeros(1, torch.float64)
    w.biases[0].copy_(columns([-200.0, 150.0, 150.0])[:, None])
    following, mask = columns([[0.0]]), columns([1.0])
    target = float(q.target(w, following, columns([0.0]), mask))
    assert target == pytest.approx(150 + 1e-3 * math.log(2), rel=1e-14)
    gradient = q.target_gradient(w, q.taped_target(w, following, mask), columns([1.0]))
    assert bool(gradient.isfinite().all())


def test_errors_and_loss_count_the_actions_that_were_taken():
    q, w = linear_q()
    observation = columns([[1.0], [2.0]], [[1.0], [-1.0]])
    taken = columns([[1, 0], [0, 1]], [[0, 1], [1, 0]])
    y = columns([0.5, 1.0], [0.0, 2.0])
    errors = q.errors(q.network.forward(w, observation), taken, y)
    wanted = [  # seed, network: Q(s, a) - y of both rows
        [[1 - 0.5, 4 - 1], [3 - 0.5, -2 - 1]],
        [[0 - 0, -0.5 - 2], [4 - 0, 0 - 2]],
    ]
    np.testing.assert_allclose(errors.sum(-1), wanted)
    assert not bool((errors * (1 - taken[:, None])).any())
    squares = np.square(wanted)
    np.testing.assert_allclose(q.loss(errors), 0.5 * squares.mean(2).sum(1))


def test_the_policy_is_the_softmax_of_the_mean():
    q, w = linear_q()
    found = q.policy(w, columns([[2.0]], [[1.0]]))
    for seed, (a, b) in enumerate([(4.0, 1.0), (0.25, 2.0)]):
        first = 1 / (1 + math.exp((b - a) / 0.5))
        np.testing.assert_allclose(found[seed, 0], [first, 1 - first], rtol=1e-12)


def test_a_hard_policy_is_greedy():
    q, w = linear_q(hard=True)
    found = q.policy(w, columns([[2.0], [-1.0]], [[1.0], [3.0]]))
    np.testing.assert_array_equal(found, [[[1, 0], [0, 1]], [[0, 1], [0, 1]]])
