"""The probabilistic ensemble against torch.distributions, single networks and theory."""

import math

import numpy as np
import pytest
import torch

from mbrl.errors import ArgumentError
from mbrl.nn import MLP, EnsembleDynamics, FoldedEnsemble
from tests.nn.systems import (
    GAINS,
    affine,
    linear_gaussian,
    moments_in_theory,
    normal,
    seeded,
    standardize,
)

SMALL = {"hidden": (6, 4), "dtype": "float64"}


def make(seed=0, **options):
    model = EnsembleDynamics(3, 2, seeded(seed), **{**SMALL, **options})
    standardize(model, affine(50))
    return model


def single(model, member):
    """A model of that member alone."""
    alone = EnsembleDynamics(3, 2, seeded(9), **SMALL, members=1)
    state = model.state_dict()
    own = {name: state[name][member : member + 1] for name in model.by_member()}
    alone.load_state_dict({**state, **own, "elites": torch.tensor([0])})
    return alone


def as_mlp(model, member):
    """The perceptron of that member, evaluated by torch.nn.Linear."""
    network = MLP(5, 6, seeded(), hidden=(6, 4), activation="silu", dtype="float64")
    with torch.no_grad():
        for linear, layer in zip(list(network)[::2], model.network.layers, strict=True):
            linear.weight.copy_(layer.weight[member].T)
            linear.bias.copy_(layer.bias[member, 0])
    return network


def test_members_are_perceptrons():
    model = make(members=3)
    inputs = normal(0, 3, 10, 5)
    mean, _ = model.moments(inputs)
    for e in range(3):
        expected = as_mlp(model, e)(inputs[e])[:, :3]
        torch.testing.assert_close(mean[e], expected, rtol=1e-12, atol=1e-14)


def test_initial_weights_are_truncated_gaussians_of_the_width():
    weight = EnsembleDynamics(60, 4, seeded(), hidden=(300,)).network.weights()[0].detach()
    sd = 1 / (2 * 64**0.5)
    assert weight.abs().max() <= 2 * sd
    # Deviation of a standard Gaussian cut at two: 0.8796.
    assert float(weight.std()) == pytest.approx(0.8796 * sd, rel=0.01)
    assert all(layer.bias.count_nonzero() == 0 for layer in make().network.layers)


def test_log_variances_keep_inside_learned_bounds_and_bend_softly():
    model = make(members=1)
    last = model.network.layers[-1]
    with torch.no_grad():
        last.weight.zero_()
        model.highest_log_variance.copy_(torch.tensor([0.5, 1.0, 2.0]))
        model.lowest_log_variance.fill_(-3.0)
        last.bias[..., 3:] = -1e3
        found = model.moments(normal(0, 1, 1, 5))[1][0, 0]
        assert found.tolist() == [-3.0, -3.0, -3.0]
        last.bias[..., 3:] = -1.0
        h, low = np.array([0.5, 1.0, 2.0]), -3.0
        upper = h - np.log1p(np.exp(h + 1.0))
        found = model.moments(normal(0, 1, 1, 5))[1][0, 0]
        np.testing.assert_allclose(found.numpy(), low + np.log1p(np.exp(upper - low)), rtol=1e-12)
        last.bias[..., 3:] = 1e3
        found = model.moments(normal(0, 1, 1, 5))[1][0, 0]
        # The lower bound bends even the upper one, by exp(low - h).
        np.testing.assert_allclose(found.numpy(), low + np.log1p(np.exp(h - low)), rtol=1e-12)


def test_the_loss_is_a_gaussian_likelihood_the_width_of_the_bounds_and_decay():
    model = make(members=2, weight_decay=(0.1, 0.2, 0.3))
    inputs, targets = normal(0, 2, 20, 5), normal(1, 2, 20, 3)
    mean, log_variance = model.moments(inputs)
    density = torch.distributions.Normal(mean, (0.5 * log_variance).exp()).log_prob(targets)
    # PETS drops the constant of the density and doubles the rest.
    likelihood = -2 * density.mean((1, 2)) - math.log(2 * math.pi)
    width = 0.01 * 3 * (0.5 + 10.0)
    losses, likelihood = model.losses(inputs, targets).detach(), likelihood.detach()
    for e in range(2):
        w = [weight[e].detach() for weight in model.network.weights()]
        decay = sum(0.5 * c * float((x**2).sum()) for c, x in zip((0.1, 0.2, 0.3), w, strict=True))
        expected = float(likelihood[e]) + width + decay
        assert float(losses[e]) == pytest.approx(expected, rel=1e-12)


def test_members_have_the_losses_and_gradients_of_single_networks():
    model = make(members=3)
    inputs, targets = normal(0, 3, 20, 5), normal(1, 3, 20, 3)
    losses = model.losses(inputs, targets)
    losses.sum().backward()
    for e in range(3):
        alone = single(model, e)
        loss = alone.losses(inputs[e : e + 1], targets[e : e + 1])
        torch.testing.assert_close(losses[e : e + 1], loss, rtol=1e-12, atol=0)
        loss.sum().backward()
        theirs = dict(model.named_parameters())
        for name, parameter in alone.named_parameters():
            found = theirs[name].grad[e : e + 1]
            torch.testing.assert_close(found, parameter.grad, rtol=1e-9, atol=1e-13)


def test_without_variance_members_are_perceptrons_fitted_by_least_squares():
    model = make(members=3, variance="none", weight_decay=0.1)
    inputs, targets = normal(0, 3, 10, 5), normal(1, 3, 10, 3)
    mean, log_variance = model.moments(inputs)
    assert (log_variance == -torch.inf).all()
    assert {name.split(".")[0] for name, _ in model.named_parameters()} == {"network"}
    for e, loss in enumerate(model.losses(inputs, targets).detach()):
        weights = [layer.weight[e].numpy(force=True) for layer in model.network.layers]
        biases = [layer.bias[e].numpy(force=True) for layer in model.network.layers]
        value = inputs[e].numpy()
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            raw = value @ weight + bias
            value = raw / (1 + np.exp(-raw))
        value = value @ weights[-1] + biases[-1]
        np.testing.assert_allclose(mean[e].detach(), value, rtol=1e-12, atol=1e-14)
        expected = np.mean((value - targets[e].numpy()) ** 2)
        expected += 0.05 * sum((weight**2).sum() for weight in weights)
        assert float(loss) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("mode", ["ts1", "tsinf"])
def test_without_variance_particles_follow_a_member(mode):
    model = make(members=2, variance="none")
    state, action = affine(5).states, normal(1, 5, 2)
    inputs = model.normalized(state, action).expand(2, -1, -1)
    each = model.prediction(state, model.moments(inputs)[0]).next_state
    moved = model.propagate(state.expand(4, -1, -1), action, seeded(2), mode).next_state
    folded = FoldedEnsemble(model).rollout(
        state, action[None], particles=4, generator=seeded(2), mode=mode
    )
    for found in (moved, folded.states[1]):
        far = (found[:, None] - each).abs().amax(-1)  # (P, E, N)
        assert far.amin(1).max() < 1e-12
        assert (far.argmin(1).sum(0) == 2).all(), "each member moves two of four particles"


def test_moments_of_some_members_are_those_among_all():
    model = make(members=4)
    with torch.no_grad():  # bounds that differ, near enough to matter
        model.highest_log_variance += normal(2, 4, 1, 3)
        model.lowest_log_variance.copy_(normal(3, 4, 1, 3) - 1)
    inputs, some = normal(0, 4, 10, 5), torch.tensor([1, 3])
    for part, whole in zip(model.moments(inputs[some], some), model.moments(inputs), strict=True):
        torch.testing.assert_close(part, whole[some], rtol=1e-12, atol=1e-14)


def test_forward_is_the_mean_of_the_elites():
    model = make(members=4, elites=2)
    model.choose(torch.tensor([0.4, 0.3, torch.nan, 0.1]))
    assert model.elites.tolist() == [1, 3]
    state, action = normal(0, 5, 3), normal(1, 5, 2)
    alone = [single(model, e)(state, action) for e in (1, 3)]
    torch.testing.assert_close(model(state, action), sum(alone) / 2, rtol=1e-12, atol=1e-12)
    with pytest.raises(ArgumentError, match="elites: choosing 2 of 4 members takes held-out data"):
        model.choose(None)


@pytest.mark.parametrize("reward", [False, True])
def test_gradients_are_those_of_differences(reward):
    model = make(members=2, reward=reward)
    state, action = normal(0, 2, 3).requires_grad_(), normal(1, 2, 2).requires_grad_()
    assert torch.autograd.gradcheck(model, (state, action))
    assert (model.predict(state, action).reward is not None) == reward


@pytest.mark.parametrize("mode", ["ts1", "tsinf"])
def test_particles_have_the_moments_of_theory(mode):
    model, u = linear_gaussian(), torch.tensor([[0.4], [-1.0]]).double()
    particles, generator = 200_000, seeded(1)
    states = torch.full((particles, 2, 1), 2.0, dtype=torch.float64)
    with torch.no_grad():
        for _ in range(4):
            states = model.propagate(states, u, generator, mode).next_state
    for row in range(2):
        mean, variance = moments_in_theory(mode, 2.0, float(u[row]), 4)
        error = (variance / particles) ** 0.5  # of a sample mean
        assert abs(float(states[:, row].mean()) - mean) < 4 * error
        assert float(states[:, row].var()) == pytest.approx(variance, rel=0.03)


def test_the_modes_differ_in_theory_by_more_than_the_tolerances():
    (mean, variance), (other_mean, other) = (
        moments_in_theory(mode, 2.0, 0.4, 4) for mode in ("ts1", "tsinf")
    )
    assert abs(mean - other_mean) > 0.1
    assert abs(variance - other) > 0.1 * variance


def test_particles_of_tsinf_keep_their_member_and_those_of_ts1_do_not():
    model = linear_gaussian()
    with torch.no_grad():
        model.network.layers[0].bias[:, 0, 1] = -40.0  # no noise: the step tells the member
    one = torch.ones(8, 3, 1, dtype=torch.float64)
    still = torch.zeros(3, 1, dtype=torch.float64)
    fixed = model.propagate(one, still, seeded(0), "tsinf").next_state
    expected = (1 + GAINS).repeat_interleave(2)[:, None, None].expand(8, 3, 1)
    torch.testing.assert_close(fixed, expected, rtol=0, atol=1e-7)
    drawn = model.propagate(one, still, seeded(0), "ts1").next_state
    again = model.propagate(one, still, seeded(1), "ts1").next_state
    assert (drawn - again).abs().max() > 0.1
    for row in range(3):  # each member moves as many
        found = drawn[:, row, 0].sort().values
        torch.testing.assert_close(found, expected[:, row, 0].sort().values, rtol=0, atol=1e-7)
    orders = {tuple(drawn[:, row, 0].argsort().tolist()) for row in range(3)}
    assert len(orders) > 1, "candidates draw their members independently"


def test_every_particle_goes_on_from_its_own_state():
    model = linear_gaussian()
    with torch.no_grad():
        model.network.layers[0].bias[:, 0, 1] = -40.0
    states = 10.0 ** torch.arange(8).double()[:, None, None].expand(8, 2, 1)
    moved = model.propagate(states, torch.zeros(2, 1).double(), seeded(2), "ts1").next_state
    ratio = (moved / states)[..., None]
    assert ((ratio - 1 - GAINS).abs().min(-1).values < 1e-6).all()


def test_expectation_moves_particles_by_forward():
    model = make(members=4, elites=2, reward=True)
    states, actions = normal(0, 3, 5, 3), normal(1, 5, 2)
    moved = model.propagate(states, actions, seeded(), "expectation")
    for p in range(3):
        expected = model.predict(states[p], actions)
        torch.testing.assert_close(moved.next_state[p], expected.next_state, rtol=1e-12, atol=1e-13)
        torch.testing.assert_close(moved.reward[p], expected.reward, rtol=1e-12, atol=1e-13)


def test_rewards_move_with_their_particles():
    model = make(members=2, reward=True)
    with torch.no_grad():
        model.highest_log_variance.fill_(-60.0)
        model.lowest_log_variance.fill_(-61.0)
    states, actions = normal(0, 6, 5, 3), normal(1, 5, 2)
    moved = model.propagate(states, actions, seeded(), "ts1")
    either = torch.stack(
        [
            torch.stack([single_prediction(model, e, states[p], actions) for p in range(6)])
            for e in range(2)
        ]
    )
    found = torch.cat([moved.next_state, moved.reward[..., None]], dim=-1)
    assert ((found - either).abs().amax(-1).amin(0) < 1e-9).all()


def single_prediction(model, member, state, action):
    inputs = model.normalized(state, action)
    outputs = model.moments(inputs[None], torch.tensor([member]))[0][0]
    prediction = model.prediction(state, outputs)
    return torch.cat([prediction.next_state, prediction.reward[:, None]], dim=-1)


@pytest.mark.parametrize("mode", ["ts1", "tsinf"])
def test_same_seed_same_particles(mode):
    model = make(members=2)
    states, actions = normal(0, 4, 5, 3), normal(1, 5, 2)
    first, again, other = (
        model.propagate(states, actions, seeded(s), mode).next_state for s in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"members": 0}, "members must be at least 1, got 0"),
        ({"members": 3, "elites": 4}, r"elites must be from 1 to members \(3\), got 4"),
        ({"hidden": (3, 0)}, r"hidden must hold positive widths, got \[3, 0\]"),
        ({"weight_decay": (0.1,)}, r"weight_decay must be a number or one for each of 3 layers"),
        ({"weight_decay": -1.0}, "weight_decay must not be negative"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(ArgumentError, match=message):
        make(**options)


def test_wrong_propagation_is_named():
    model, states, actions = make(members=2), normal(0, 3, 5, 3), normal(1, 5, 2)
    with pytest.raises(ArgumentError, match="multiple of the 2 elites, got 3"):
        model.propagate(states, actions, seeded(), "ts1")
    with pytest.raises(ArgumentError, match=r"unknown value 'ts2'; .*did you mean 'ts1'"):
        model.propagate(states, actions, seeded(), "ts2")
