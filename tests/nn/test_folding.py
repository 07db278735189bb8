"""Folded weights against the model that they are of."""

import typing

import pytest
import torch

from mbrl.errors import ArgumentError
from mbrl.nn import EnsembleDynamics, FoldedEnsemble, FoldedMLP, MLPDynamics
from mbrl.nn.mlp import Activation
from tests.nn.systems import affine, normal, seeded, standardize


def make(**options):
    model = MLPDynamics(3, 2, seeded(), **{"hidden": (9, 7), "dtype": "float64", **options})
    standardize(model, affine(100))
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            if parameter.ndim == 1:  # biases that are not zero
                parameter += normal(i, len(parameter))
        model.network[-1].weight *= 0.1  # rollouts stay where states are
    return model


@pytest.mark.parametrize("activation", typing.get_args(Activation))
@pytest.mark.parametrize("rows", [1, 256, 700])
def test_folding_is_exact_algebra(activation, rows):
    model = make(activation=activation)
    state, actions = affine(rows, seed=4).states, normal(1, 4, rows, 2)
    expected = model.rollout(state, actions)
    found = FoldedMLP(model).rollout(state, actions)
    torch.testing.assert_close(found.states, expected.states, rtol=1e-12, atol=1e-12)
    assert found.rewards is None


@pytest.mark.parametrize("hidden", [(), (9,)])
def test_rewards_and_models_of_few_layers(hidden):
    model = make(hidden=hidden, reward=True)
    state, actions = affine(300, seed=4).states, normal(1, 4, 300, 2)
    expected, found = model.rollout(state, actions), FoldedMLP(model).rollout(state, actions)
    torch.testing.assert_close(found.states, expected.states, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.rewards, expected.rewards, rtol=1e-12, atol=1e-12)


def test_ignored_entries_are_predicted_and_not_seen():
    model = make(ignored=[2], reward=True)
    state, actions = affine(20, seed=4).states, normal(1, 4, 20, 2)
    moved = torch.tensor([0.0, 0.0, 50.0], dtype=torch.float64)
    here, there = (FoldedMLP(model).rollout(x, actions) for x in (state, state + moved))
    torch.testing.assert_close(there.states, here.states + moved, rtol=0, atol=1e-11)
    assert torch.equal(there.rewards, here.rewards)
    assert here.states.diff(dim=0)[..., 2].abs().min() > 1e-7, "it changes all the same"
    expected = model.rollout(state, actions).states
    torch.testing.assert_close(here.states, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("kind", [MLPDynamics, EnsembleDynamics])
def test_quaternions_have_unit_length_after_every_step(kind):
    model = kind(10, 2, seeded(), hidden=(9,), dtype="float64", reward=True)
    model.set_quaternions([[1, 2, 3, 4], [6, 7, 8, 9]])
    state, actions = normal(0, 20, 10), normal(1, 4, 20, 2)
    expected = state
    for step, action in enumerate(actions):
        outputs = model.mean(model.normalized(expected, action))
        expected = expected + outputs[:, :-1]  # statistics are those of the standard normal
        for four in (slice(1, 5), slice(6, 10)):
            assert (expected[:, four].norm(dim=1) - 1).abs().min() > 1e-4
            expected[:, four] /= expected[:, four].norm(dim=1, keepdim=True)
        folded = FoldedMLP if kind is MLPDynamics else _expected
        for rollout in (model.rollout, folded(model).rollout):
            found = rollout(state, actions).states[step + 1]
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def _expected(model):
    """A folded ensemble whose rollouts are those of a perceptron."""

    class Mean(FoldedEnsemble):
        def rollout(self, state, actions):
            found = super().rollout(
                state, actions, particles=1, generator=seeded(), mode="expectation"
            )
            return found._replace(states=found.states[:, 0])

    return Mean(model)


def test_in_float32_it_errs_as_little_as_the_model_does():
    exact, model = make(), make(dtype="float32")
    model.load_state_dict(exact.state_dict())
    state, actions = affine(200, seed=4).states, normal(1, 5, 200, 2)
    truth = exact.rollout(state, actions).states
    found = FoldedMLP(model).rollout(state, actions).states
    plain = model.rollout(state.float(), actions.float()).states
    assert found.dtype == torch.float32
    folded, unfolded = (
        ((states - truth) / exact.input_scale[:3]).abs().amax((1, 2)) for states in (found, plain)
    )
    assert 0 < folded[1] < 1e-5
    assert (folded <= 2 * unfolded).all(), "the system amplifies errors of both alike"


def test_it_is_a_snapshot_and_repeats():
    model = make()
    state, actions = affine(300, seed=4).states, normal(1, 4, 300, 2)
    folded = FoldedMLP(model)
    first = folded.rollout(state, actions).states
    kept = first.clone()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    folded.rollout(2 * state, actions)
    assert torch.equal(first, kept)
    assert torch.equal(folded.rollout(state, actions).states, first)
    assert not torch.equal(FoldedMLP(model).rollout(state, actions).states, first)


@pytest.mark.parametrize("kind", [MLPDynamics, EnsembleDynamics])
@torch.no_grad()
def test_of_an_angle_its_cosine_and_sine_are_seen(kind):
    model = kind(3, 2, seeded(), hidden=(16, 16), angles=[1], ignored=[0], dtype="float64")
    data = affine(200)
    model.standardize(data)
    state, actions = data.states[:20], normal(3, 4, 20, 2)
    turned = state + torch.tensor([5.0, 2 * torch.pi, 0.0], dtype=torch.float64)
    z = model.normalized(state, actions[0])
    assert z.shape == (20, 6)
    for column, expected in ((0, 0 * state[:, 0]), (1, state[:, 1].cos()), (5, state[:, 1].sin())):
        torch.testing.assert_close(z[:, column], expected, rtol=1e-14, atol=1e-14)
    change = model(state, actions[0]) - state
    torch.testing.assert_close(change, model(turned, actions[0]) - turned)
    assert (model(state + torch.tensor([0.0, 1.0, 0.0]), actions[0]) - state - change)[:, 0].any()
    expected = model.rollout(state, actions).states
    if kind is MLPDynamics:
        found = FoldedMLP(model).rollout(state, actions).states
    else:
        found = (
            FoldedEnsemble(model)
            .rollout(state, actions, particles=5, generator=seeded(), mode="expectation")
            .states[:, 0]
        )
    torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)
    with pytest.raises(ArgumentError, match=r"angles must hold entries of the state, 0 to 2"):
        kind(3, 2, seeded(), angles=[3])
