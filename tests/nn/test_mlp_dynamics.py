"""The deterministic model: its formula, precision, gradients, statistics and errors."""

import numpy as np
import pytest
import torch

from mbrl import register_dynamics
from mbrl.errors import ArgumentError, ConfigError
from mbrl.nn import EnsembleDynamics, MLPDynamics
from mbrl.options import chosen
from mbrl.registry import DYNAMICS
from tests.nn.systems import affine, normal, seeded, standardize


def make(seed=0, **options):
    options = {"hidden": (7, 5), **options}
    return MLPDynamics(3, 2, seeded(seed), **options)


def test_the_network_is_the_original_one():
    network = MLPDynamics(20, 6, seeded()).network
    shapes = [tuple(p.shape) for p in network.parameters()]
    assert shapes == [(500, 26), (500,), (500, 500), (500,), (20, 500), (20,)]
    for layer in list(network)[::2]:
        assert layer.bias.count_nonzero() == 0
        limit = (6 / sum(layer.weight.shape)) ** 0.5  # Glorot and Bengio 2010, equation 16
        assert 0.98 * limit < layer.weight.detach().abs().max() <= limit
    assert [type(layer) for layer in list(network)[1::2]] == [torch.nn.ReLU] * 2


def test_formula_in_numpy():
    model, data = make(dtype="float64"), affine(50)
    standardize(model, data)
    x, u = data.states.numpy(), data.actions.numpy()
    xu, d = np.concatenate([x, u], 1), (data.next_states - data.states).numpy()
    h = (xu - xu.mean(0)) / (xu.std(0, ddof=1) + 1e-7)
    w1, b1, w2, b2, w3, b3 = (p.detach().numpy() for p in model.network.parameters())
    h = np.maximum(np.maximum(h @ w1.T + b1, 0) @ w2.T + b2, 0) @ w3.T + b3
    expected = x + h * d.std(0, ddof=1) + d.mean(0)
    np.testing.assert_allclose(model(data.states, data.actions).detach(), expected, rtol=1e-12)
    y = (d - d.mean(0)) / (d.std(0, ddof=1) + 1e-7)
    inputs, targets = model.normalized(data.states, data.actions), model.targets(data)
    loss = model.losses(inputs[None], targets[None])
    np.testing.assert_allclose(loss.detach(), [((h - y) ** 2).mean()], rtol=1e-12)


def test_statistics_of_data_are_those_of_numpy():
    model, data = make(dtype="float64", reward=True), affine(50)
    still = data._replace(actions=torch.cat([data.actions[:, :1], torch.full((50, 1), 3.0)], 1))
    model.standardize(still)
    xu = np.concatenate([still.states, still.actions], 1)
    change = np.concatenate([still.next_states - still.states, still.rewards[:, None]], 1)
    np.testing.assert_allclose(model.input_mean, xu.mean(0), rtol=1e-13)
    np.testing.assert_allclose(model.input_scale[:4], xu.std(0)[:4] + 1e-7, rtol=1e-13)
    assert model.input_scale[4] == 1, "what never varied is not scaled"
    np.testing.assert_allclose(model.target_mean, change.mean(0), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(model.target_deviation, change.std(0), rtol=1e-13)
    with pytest.raises(ArgumentError, match="rewards are missing"):
        model.standardize(data._replace(rewards=None))
    with pytest.raises(ArgumentError, match="statistics need at least one row"):
        model.standardize(type(data)(*(part[:0] for part in data)))


def test_predictions_have_the_dtype_of_the_state_and_keep_its_digits():
    model = make()
    with torch.no_grad():
        for parameter in model.network.parameters():
            parameter.zero_()
    state = normal(0, 4, 3) + 1e9  # beyond the digits of float32
    assert torch.equal(model(state, normal(1, 4, 2)), state)
    assert model(state.float(), normal(1, 4, 2)).dtype == torch.float32


@pytest.mark.parametrize("reward", [False, True])
def test_gradients_are_those_of_differences(reward):
    model = make(dtype="float64", activation="tanh", reward=reward)
    standardize(model, affine(50))
    state, action = normal(0, 2, 3).requires_grad_(), normal(1, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(model, (state, action))
    if reward:
        torch.autograd.gradcheck(lambda x, u: model.predict(x, u).reward, (state, action))


def test_the_reward_is_one_more_output():
    model, data = make(dtype="float64", hidden=(), reward=True), affine(50)
    standardize(model, data)
    prediction = model.predict(data.states, data.actions)
    assert prediction.reward.shape == (50,)
    assert torch.equal(prediction.next_state, model(data.states, data.actions))
    # Were the outputs what they are trained towards, the data would be returned.
    perfect = model.prediction(data.states, model.targets(data))
    torch.testing.assert_close(perfect.next_state, data.next_states, rtol=0, atol=1e-5)
    torch.testing.assert_close(perfect.reward, data.rewards, rtol=0, atol=1e-5)
    assert make().predict(data.states, data.actions).reward is None
    with pytest.raises(ArgumentError, match="rewards are missing: the model predicts the reward"):
        model.targets(data._replace(rewards=None))


def test_what_never_varied_is_centred_and_not_scaled():
    model, data = make(dtype="float64"), affine(50)
    fixed = data.states.clone()
    fixed[:, 0] = 4.0
    following = data.next_states.clone()
    following[:, 0] = 4.0
    standardize(model, data._replace(states=fixed, next_states=following))
    moved = fixed + torch.tensor([0.5, 0.0, 0.0])
    assert torch.equal(model.normalized(moved, data.actions)[:, 0], torch.full((50,), 0.5).double())
    assert torch.equal(model.target_deviation[0], torch.tensor(1.0).double())


def test_statistics_travel_with_the_weights():
    model, data = make(), affine(50)
    standardize(model, data)
    other = make(seed=1)
    other.load_state_dict(model.state_dict())
    assert torch.equal(model(data.states, data.actions), other(data.states, data.actions))


def test_rollouts_feed_on_themselves():
    model = make(dtype="float64", reward=True)
    state, actions = normal(0, 4, 3), normal(1, 2, 4, 2)
    states, rewards = model.rollout(state, actions)
    first = model(state, actions[0])
    expected = torch.stack([state, first, model(first, actions[1])])
    assert torch.equal(states, expected)
    assert torch.equal(rewards[1], model.predict(first, actions[1]).reward)
    assert not states.requires_grad
    assert make().rollout(state, actions).rewards is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"inputs": (torch.zeros(4), torch.ones(4))}, r"inputs: means must be \[5\], got \[4\]"),
        (
            {"differences": (torch.zeros(3), -torch.ones(3))},
            r"differences: deviations must not be negative, got \[-1.0, -1.0, -1.0\]",
        ),
        (
            {"differences": (torch.full((3,), torch.nan), torch.ones(3))},
            "differences: means must be finite",
        ),
        ({"rewards": (torch.zeros(()), torch.ones(()))}, "rewards can only be given where"),
    ],
)
def test_wrong_statistics_are_named(given, message):
    right = {
        "inputs": (torch.zeros(5), torch.ones(5)),
        "differences": (torch.zeros(3), torch.ones(3)),
    }
    with pytest.raises(ArgumentError, match=message):
        make().set_statistics(**{**right, **given})


def test_ignored_entries_are_predicted_and_not_seen():
    model, data = make(dtype="float64", reward=True, ignored=[0, 2]), affine(50)
    standardize(model, data)
    state, action = data.states.clone().requires_grad_(), data.actions
    following, reward = model.predict(state, action)
    moved = torch.tensor([7.0, 0.0, -3.0], dtype=torch.float64)
    there, earned = model.predict(state + moved, action)
    torch.testing.assert_close(there, following + moved, rtol=0, atol=1e-12)
    assert torch.equal(earned, reward)
    change = following - state
    assert change.detach().abs().min(0).values.gt(1e-6).all(), "they change all the same"
    slopes = torch.stack(
        [torch.autograd.grad(change[:, i].sum(), state, retain_graph=True)[0] for i in range(3)]
    )
    assert not slopes[..., [0, 2]].any()
    assert slopes[..., 1].any()
    other = make(dtype="float64", reward=True)
    standardize(other, data)
    weight = other.network[0].weight
    with torch.no_grad():
        weight[:, [0, 2]] = 0
    torch.testing.assert_close(model(state, action), other(state, action), rtol=0, atol=1e-12)


def test_entries_to_ignore_must_exist():
    for wrong in ([3], [-1], [0, 9]):
        with pytest.raises(
            ArgumentError, match=r"^ignored must hold entries of the state, 0 to 2,"
        ):
            make(ignored=wrong)


def test_kinds_are_chosen_by_name_and_their_options_checked():
    complete = chosen(DYNAMICS, {"kind": "mlp", "hidden": [32]}, "dynamics")
    assert complete == {
        "kind": "mlp",
        "hidden": (32,),
        "activation": "relu",
        "reward": False,
        "ignored": (),
        "angles": (),
        "dtype": "float32",
    }
    decays = {"kind": "ensemble", "weight_decay": [0.1, 0.2], "elites": None}
    assert chosen(DYNAMICS, decays, "dynamics")["weight_decay"] == (0.1, 0.2)
    assert DYNAMICS.get("ensemble") is EnsembleDynamics
    with pytest.raises(ConfigError, match=r"unknown key 'dynamics.hiden'; .*did you mean 'hidden'"):
        chosen(DYNAMICS, {"kind": "mlp", "hiden": 3}, "dynamics")
    assert register_dynamics("mlp")(MLPDynamics) is MLPDynamics
