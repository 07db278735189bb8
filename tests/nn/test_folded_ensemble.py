"""Particles of folded ensembles against networks in NumPy and moments in closed form."""

import numpy as np
import pytest
import torch

from mbrl.errors import ArgumentError
from mbrl.nn import EnsembleDynamics, FoldedEnsemble, folding
from tests.nn.systems import (
    GAINS,
    affine,
    linear_gaussian,
    moments_in_theory,
    normal,
    seeded,
    standardize,
)

STEPS = 4


def make(**options):
    """A random ensemble of 4 with statistics, biases and bounds that all matter."""
    options = {"hidden": (6, 5), "members": 4, "dtype": "float64", **options}
    model = EnsembleDynamics(3, 2, seeded(), **options)
    standardize(model, affine(100))
    with torch.no_grad():
        for i, layer in enumerate(model.network.layers):
            layer.bias += 0.3 * normal(i, *layer.bias.shape)
        bounds = model.highest_log_variance.shape
        model.highest_log_variance.copy_(0.5 + 0.3 * normal(8, *bounds))
        model.lowest_log_variance.copy_(-2 + 0.3 * normal(9, *bounds))
    return model


def noiseless(**options):
    """The same, its particles' noise some exp(-30) of a change."""
    model = make(**options)
    with torch.no_grad():
        model.highest_log_variance.fill_(-60.0)
        model.lowest_log_variance.fill_(-61.0)
    return model


def member(model, index, state, action):
    """Mean and variance of (x' - x, r), as member ``index`` has them, in NumPy."""

    def numbers(value):
        return value.detach().numpy()

    joint = np.concatenate([state, action], axis=-1)
    value = (joint - numbers(model.input_mean)) / numbers(model.input_scale) * numbers(model.seen)
    for angle in model.angles:
        value[..., angle] = np.cos(joint[..., angle])
        value = np.append(value, np.sin(joint[..., angle, None]), axis=-1)
    for i, layer in enumerate(model.network.layers):
        if i:
            value = value / (1 + np.exp(-value))  # silu
        value = value @ numbers(layer.weight)[index] + numbers(layer.bias)[index]
    mean, raw = np.split(value, 2, axis=-1)
    high = numbers(model.highest_log_variance)[index]
    low = numbers(model.lowest_log_variance)[index]
    log_variance = low + np.log1p(np.exp(high - np.log1p(np.exp(high - raw)) - low))
    scale = numbers(model.target_deviation)
    return mean * scale + numbers(model.target_mean), np.exp(log_variance) * scale**2


def points(rows, steps=STEPS):
    return affine(rows, seed=4).states, normal(1, steps, rows, 2)


def rolled(model, state, actions, seed=0, **options):
    return FoldedEnsemble(model).rollout(state, actions, generator=seeded(seed), **options)


@pytest.mark.parametrize("reward", [False, True])
def test_expectation_is_the_average_of_the_elites(reward):
    model = make(elites=2, reward=reward)
    model.choose(torch.tensor([0.4, 0.1, 0.9, 0.2]))
    state, actions = points(7)
    found = rolled(model, state, actions, particles=20, mode="expectation")
    assert found.states.shape == (STEPS + 1, 1, 7, 3)
    here = state.numpy()
    np.testing.assert_array_equal(found.states[0, 0], here)
    for t, action in enumerate(actions.numpy()):
        change = (member(model, 1, here, action)[0] + member(model, 3, here, action)[0]) / 2
        here = here + change[:, :3]
        np.testing.assert_allclose(found.states[t + 1, 0], here, rtol=1e-11, atol=1e-11)
        if reward:
            np.testing.assert_allclose(found.rewards[t, 0], change[:, 3], rtol=1e-11, atol=1e-11)
    assert (found.rewards is not None) == reward


@pytest.mark.parametrize("mode", ["ts1", "tsinf"])
def test_particles_have_the_moments_of_theory(mode):
    model, u = linear_gaussian(), torch.tensor([[0.4], [-1.0]]).double()
    particles, actions = 200_000, u.expand(STEPS, 2, 1)
    start = torch.full((2, 1), 2.0).double()
    last = rolled(model, start, actions, particles=particles, mode=mode).states[-1]
    for row in range(2):
        mean, variance = moments_in_theory(mode, 2.0, float(u[row]), STEPS)
        error = (variance / particles) ** 0.5  # of a sample mean
        assert abs(float(last[:, row].mean()) - mean) < 4 * error
        assert float(last[:, row].var()) == pytest.approx(variance, rel=0.03)


def test_a_member_spreads_its_particles_as_it_says():
    model, (state, actions) = make(reward=True), points(2, steps=1)
    each = 50_000
    found = rolled(model, state, actions, particles=4 * each, mode="tsinf")
    outcomes = torch.cat([found.states[1], found.rewards[0][..., None]], dim=-1)
    before = np.append(state.numpy(), np.zeros((2, 1)), axis=1)
    for e in range(4):
        mean, variance = member(model, e, state.numpy(), actions[0].numpy())
        own = outcomes[e * each : (e + 1) * each].numpy()
        far = np.abs(own.mean(0) - before - mean) / np.sqrt(variance / each)
        assert far.max() < 4.5
        np.testing.assert_allclose(own.var(0), variance, rtol=0.04)
    deviations = [np.sqrt(member(model, e, state.numpy(), actions[0].numpy())[1]) for e in range(4)]
    assert np.ptp(deviations, axis=0).max() > 0.1 * np.max(deviations), "members differ"


def test_every_member_moves_as_many_particles():
    model = linear_gaussian()
    with torch.no_grad():
        model.network.layers[0].bias[:, 0, 1] = -40.0  # no noise: the step tells the member
    start, still = torch.ones(3, 1).double(), torch.zeros(STEPS, 3, 1).double()
    ratios = {}
    for mode in ("tsinf", "ts1"):
        states = rolled(model, start, still, particles=8, mode=mode).states
        ratios[mode] = (states[1:] / states[:-1] - 1)[..., 0]  # (T, P, N)
    expected = GAINS.repeat_interleave(2)[None, :, None].expand(STEPS, 8, 3)
    torch.testing.assert_close(ratios["tsinf"], expected, rtol=0, atol=1e-6)
    drawn = ratios["ts1"]
    torch.testing.assert_close(drawn.sort(1).values, expected.sort(1).values, rtol=0, atol=1e-6)
    assert all((drawn[t] - drawn[t + 1]).abs().max() > 0.1 for t in range(STEPS - 1)), "redrawn"


@pytest.mark.parametrize("mode", ["ts1", "tsinf"])
def test_candidates_have_their_luck_in_common(mode):
    model, (state, actions) = make(), points(5)
    state[3], actions[:, 3] = state[1], actions[:, 1]
    found = rolled(model, state, actions, particles=8, mode=mode).states
    torch.testing.assert_close(found[:, :, 1], found[:, :, 3], rtol=1e-13, atol=1e-13)
    model, start = linear_gaussian(), torch.full((2, 1), 2.0).double()
    pushed = torch.zeros(2, 2, 1).double()
    pushed[0, 1] = 0.7
    apart = rolled(model, start, pushed, particles=8, mode=mode).states.diff(dim=2)[:, :, 0, 0]
    # The noise of two candidates cancels: a push shows at once, and then as a member grows it.
    torch.testing.assert_close(
        apart[1], torch.full((8,), 0.7, dtype=torch.float64), rtol=0, atol=1e-12
    )
    grown = apart[2] / 0.7 - 1
    assert ((grown[:, None] - GAINS).abs().amin(1) < 1e-12).all()


@pytest.mark.parametrize("options", [{}, {"angles": [0, 2]}], ids=["", "angles"])
@pytest.mark.parametrize("mode", ["ts1", "tsinf"])
def test_without_noise_particles_follow_members(mode, options):
    model, (state, actions) = noiseless(reward=True, **options), points(3)
    found = rolled(model, state, actions, particles=8, mode=mode)
    states, rewards = found.states.numpy(), found.rewards.numpy()
    used = np.zeros((STEPS, 8), dtype=int)
    for t in range(STEPS):
        changes = [
            np.stack([member(model, e, x, actions[t].numpy())[0] for e in range(4)])
            for x in states[t]
        ]
        for p, change in enumerate(changes):
            moved = np.append(states[t + 1, p] - states[t, p], rewards[t, p][:, None], axis=1)
            far = np.abs(change - moved).max((1, 2))
            used[t, p] = far.argmin()
            assert far[used[t, p]] < 1e-9
    for row in used:
        assert np.bincount(row, minlength=4).tolist() == [2, 2, 2, 2]
    if mode == "tsinf":
        assert (used == [0, 0, 1, 1, 2, 2, 3, 3]).all()
    else:
        assert len({tuple(row) for row in used}) > 1


@pytest.mark.parametrize("mode", ["ts1", "tsinf", "expectation"])
def test_parts_of_the_rows_give_what_all_give_at_once(mode, monkeypatch):
    model, (state, actions) = make(reward=True), points(37)
    monkeypatch.setattr(folding, "ROWS_PER_CORE", 1000)
    whole = rolled(model, state, actions, particles=8, mode=mode)
    monkeypatch.setattr(folding, "ROWS_PER_CORE", 10)
    parts = rolled(model, state, actions, particles=8, mode=mode)
    torch.testing.assert_close(parts.states, whole.states, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(parts.rewards, whole.rewards, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("mode", ["ts1", "tsinf"])
def test_same_seed_same_particles(mode):
    model, (state, actions) = make(), points(5)
    first, again, other = (
        rolled(model, state, actions, seed, particles=8, mode=mode).states for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first[1], other[1])


def test_it_is_a_snapshot_of_the_elites_of_then():
    model, (state, actions) = make(elites=1), points(3)
    model.choose(torch.tensor([0.4, 0.3, 0.1, 0.2]))
    folded = FoldedEnsemble(model)
    options = {"particles": 1, "mode": "expectation"}
    before = folded.rollout(state, actions, generator=seeded(), **options).states
    model.choose(torch.tensor([0.4, 0.1, 0.3, 0.2]))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.5)
        model.target_mean.add_(1.0)
        model.target_deviation.mul_(2.0)
    assert torch.equal(folded.rollout(state, actions, generator=seeded(), **options).states, before)
    after = rolled(model, state, actions, **options).states
    here, action = state.numpy(), actions[0].numpy()
    np.testing.assert_allclose(after[1, 0], here + member(model, 1, here, action)[0], rtol=1e-11)


@pytest.mark.parametrize("mode", ["ts1", "expectation"])
def test_ignored_entries_are_predicted_and_not_seen(mode):
    model, (state, actions) = noiseless(ignored=[1]), points(6)
    options = {"particles": 8, "mode": mode}
    moved = state + torch.tensor([0.0, 100.0, 0.0])
    here, there = (rolled(model, x, actions, **options).states for x in (state, moved))
    torch.testing.assert_close(there[..., [0, 2]], here[..., [0, 2]], rtol=0, atol=1e-10)
    torch.testing.assert_close(there[..., 1], here[..., 1] + 100, rtol=0, atol=1e-10)
    assert (here[1:, ..., 1] - here[:-1, ..., 1]).abs().min() > 1e-6, "it changes all the same"


def test_results_are_in_the_precision_of_the_network():
    exact, model = make(reward=True), make(reward=True, dtype="float32")
    model.load_state_dict(exact.state_dict())
    state, actions = points(5)
    options = {"particles": 1, "mode": "expectation"}
    truth = rolled(exact, state, actions, **options)
    found = rolled(model, state, actions, **options)
    assert found.states.dtype == found.rewards.dtype == torch.float32
    torch.testing.assert_close(found.states.double(), truth.states, rtol=1e-4, atol=1e-4)
    with torch.no_grad():
        moved = rolled(model, state, actions, particles=4, mode="ts1")
    assert moved.states.dtype == moved.rewards.dtype == torch.float32


def test_wrong_propagation_is_named():
    model, (state, actions) = make(members=3, elites=2), points(2)
    with pytest.raises(ArgumentError, match="multiple of the 2 elites, got 3"):
        rolled(model, state, actions, particles=3, mode="ts1")
    with pytest.raises(ArgumentError, match=r"unknown value 'ts2'; .*did you mean 'ts1'"):
        rolled(model, state, actions, particles=2, mode="ts2")
