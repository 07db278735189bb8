"""Statistics against NumPy, and the way there and back."""

import numpy as np
import pytest
import torch

from mbrl.data import Statistics, Transitions, revised
from mbrl.errors import ArgumentError


def transitions(count, seed=0):
    """Of which the second observation never changes, and the third is always the same."""
    rng = np.random.default_rng(seed)
    observations, following = rng.normal(3, [2, 5, 0], (2, count, 3))
    following[:, 1] = observations[:, 1]
    actions = rng.uniform(-1, 1, (count, 2))
    return Transitions(*map(torch.from_numpy, (observations, actions, following)))


def test_they_are_those_of_numpy():
    data = transitions(50)
    o, u, following = (part.numpy() for part in data)
    found = Statistics.of(data)
    inputs = np.hstack([o, u])
    np.testing.assert_allclose(found.input_mean, inputs.mean(0), rtol=1e-14)
    np.testing.assert_allclose(found.input_deviation, inputs.std(0), rtol=1e-14, atol=1e-14)
    np.testing.assert_allclose(found.change_mean, (following - o).mean(0), atol=1e-14)
    np.testing.assert_allclose(found.change_deviation, (following - o).std(0), rtol=1e-14)


def test_inputs_and_targets_are_those_of_the_formula():
    data = transitions(50)
    o, u, following = (part.numpy() for part in data)
    statistics = Statistics.of(data)
    expected = np.hstack([(o - o.mean(0)) / (o.std(0) + 1e-7), (u - u.mean(0)) / (u.std(0) + 1e-7)])
    # What is always 3 varies by rounding alone, which is divided by 1e-7.
    np.testing.assert_allclose(statistics.inputs(*data[:2]), expected, rtol=1e-12, atol=1e-7)
    change = following - o
    expected = (change - change.mean(0)) / (change.std(0) + 1e-7)
    np.testing.assert_allclose(statistics.targets(data[0], data[2]), expected, rtol=1e-12)
    assert not statistics.targets(data[0], data[2])[:, 1:].any()


def test_a_prediction_is_made_without_the_small_number():
    data = transitions(50)
    statistics = Statistics.of(data)
    outputs = torch.from_numpy(np.random.default_rng(1).normal(size=(50, 3)))
    found = statistics.prediction(data.observations, outputs)
    o, _, following = (part.numpy() for part in data)
    change = following - o
    expected = o + outputs.numpy() * change.std(0) + change.mean(0)
    np.testing.assert_allclose(found, expected, rtol=1e-14)
    assert torch.equal(found[:, 1:], data.observations[:, 1:]), "what never changed does not"
    back = statistics.prediction(data.observations, statistics.targets(data[0], data[2]))
    torch.testing.assert_close(back, data.next_observations, rtol=1e-6, atol=1e-6)


def test_any_leading_shape_and_the_precision_of_a_network():
    data = transitions(6)
    statistics = Statistics.of(data)
    single = statistics.to(torch.zeros(1))
    assert all(part.dtype == torch.float32 for part in single)
    o, u = data.observations.float().reshape(2, 3, 3), data.actions.float().reshape(2, 3, 2)
    z = single.inputs(o, u)
    assert z.dtype == torch.float32
    torch.testing.assert_close(
        z.reshape(6, 5)[:, [0, 1, 3, 4]],
        statistics.inputs(*data[:2])[:, [0, 1, 3, 4]].float(),
        rtol=1e-4,
        atol=1e-5,
    )


def test_frozen_ones_stay_and_updated_ones_follow():
    first, more = transitions(20), transitions(40, seed=5)
    original = revised(None, first, "frozen")
    assert revised(original, more, "frozen") is original
    for rule in ("frozen", "updated"):
        np.testing.assert_array_equal(
            revised(None, first, rule).input_mean, Statistics.of(first).input_mean
        )
    found = revised(original, more, "updated")
    np.testing.assert_allclose(found.input_mean[:3], more.observations.numpy().mean(0), rtol=1e-14)
    with pytest.raises(ArgumentError, match=r"rule: unknown value 'froze'; legal: frozen, updated"):
        revised(None, first, "froze")


def test_a_checkpoint_holds_them():
    statistics = Statistics.of(transitions(20))
    state = statistics.state_dict()
    found = Statistics.from_state_dict(state)
    assert all(torch.equal(a, b) for a, b in zip(found, statistics, strict=True))
    state["input_mean"].fill_(0)
    assert found.input_mean.any()


def test_no_data_have_no_statistics():
    with pytest.raises(ArgumentError, match="statistics need at least one step"):
        Statistics.of(transitions(0))
