"""Eight bits against the network that they stand for."""

import pytest
import torch

from mbrl.errors import ArgumentError
from mbrl.nn import MLPDynamics, QuantizedMLP, is_quantizable
from tests.nn.systems import affine, normal, seeded, standardize

ROWS, STEPS = 300, 6
ROUGH = 0.15  # of the changes: small networks average the rounding of few units


def make(**options):
    model = MLPDynamics(3, 2, seeded(), **{"hidden": (60, 40), **options})
    standardize(model, affine(100))
    with torch.no_grad():
        for i, parameter in enumerate(model.parameters()):
            if parameter.ndim == 1:  # biases that are not zero
                parameter += 0.3 * normal(i, len(parameter))
        model.network[-1].weight *= 0.1  # rollouts stay where states are
    return model


def candidates(rows=ROWS):
    return affine(rows, seed=4).states.float(), normal(1, STEPS, rows, 2).float()


def errors(found, expected):
    """Deviation of what one rollout's changes are off by, in units of the changes' own."""
    changes, expected_changes = found.diff(dim=0), expected.diff(dim=0)
    return (changes - expected_changes).std((0, 1)) / expected_changes.std((0, 1))


def rounded(weight):
    """Weights of eight bits, each row's in steps of 1/127 of its largest."""
    step = weight.abs().amax(1, keepdim=True) / 127
    return (weight / step).round() * step


def test_a_step_is_that_of_the_formula():
    generator = seeded()
    model = MLPDynamics(3, 2, generator, hidden=(60, 40))  # its inputs are not normalised
    state, action = normal(0, ROWS, 3), normal(1, ROWS, 2)
    layers = [layer for layer in model.network if isinstance(layer, torch.nn.Linear)]
    weights = [layer.weight.detach().double() for layer in layers]
    with torch.no_grad():
        for layer in layers:
            layer.bias.copy_(0.1 * normal(2, len(layer.bias)))
    biases = [layer.bias.detach().double() for layer in layers]

    inputs = torch.cat([state, action], dim=1)
    low, high = inputs.amin(0), inputs.amax(0)
    step = 1.25 * (high - low) / 255
    least = (low + high) / 2 - 127.5 * step
    # Four copies of a byte, rounded at offsets of a quarter, are steps of a quarter.
    quarters = ((inputs - least) / step * 4 + 0.5).floor()
    value = quarters @ rounded(weights[0] * step / 4).T + biases[0] + weights[0] @ least
    exact = inputs
    for layer in (1, 2):
        exact = (exact @ weights[layer - 1].T + biases[layer - 1]).relu()
        unit = 1.25 * exact.amax(0) / 255
        value = (value / unit).round().clamp(0, 255) @ rounded(weights[layer] * unit).T
        value = value + biases[layer]

    found = QuantizedMLP(model, state, action[None]).rollout(state, action[None]).states[1] - state
    truth = model.rollout(state, action[None]).states[1] - state
    off, roughness = (found - value).abs(), (found - truth).abs()
    assert off.median() < 1e-3 * roughness.median(), "float32 differs where it rounds the other way"
    assert off.max() < 0.3 * roughness.max()


@pytest.mark.parametrize("hidden", [(40,), (60, 40), (500, 500)])
@pytest.mark.parametrize("options", [{}, {"reward": True}, {"ignored": [2]}, {"angles": [2]}])
def test_a_rollout_is_roughly_that_of_the_model(hidden, options):
    model, (state, actions) = make(hidden=hidden, **options), candidates()
    expected = model.rollout(state, actions)
    found = QuantizedMLP(model, state[:50], actions[:, :50]).rollout(state, actions)
    assert 1e-4 < errors(found.states, expected.states).max() < ROUGH
    if "reward" in options:
        gap = (found.rewards - expected.rewards).std() / expected.rewards.std()
        assert gap < ROUGH


def test_units_of_very_different_sizes_have_scales_of_their_own():
    model, (state, actions) = make(), candidates()
    plain = model.rollout(state, actions).states
    with torch.no_grad():  # the same function
        sizes = torch.logspace(-3, 3, 60)
        model.network[0].weight *= sizes[:, None]
        model.network[0].bias *= sizes
        model.network[2].weight /= sizes
    torch.testing.assert_close(model.rollout(state, actions).states, plain, rtol=1e-4, atol=1e-4)
    found = QuantizedMLP(model, state[:50], actions[:, :50]).rollout(state, actions)
    assert errors(found.states, plain).max() < ROUGH


def test_units_that_never_fire_and_inputs_that_never_change():
    model, (state, actions) = make(), candidates()
    with torch.no_grad():
        model.network[0].bias[:5] = -1e4
        model.network[2].weight[3] = 0.0
        model.network[2].bias[3] = 0.0
    actions[..., 1] = 0.5
    expected = model.rollout(state, actions).states
    found = QuantizedMLP(model, state[:50], actions[:, :50]).rollout(state, actions).states
    assert errors(found, expected).max() < ROUGH


def test_what_is_beyond_the_calibration_saturates():
    model, (state, actions) = make(), candidates()
    made = QuantizedMLP(model, state[:50], actions[:, :50])
    far = state.clone()
    far[:, 1] = 1e6
    further = far.clone()
    further[:, 1] = 2e6
    one, other = (made.rollout(start, actions[:1]).states.diff(dim=0) for start in (far, further))
    assert one.isfinite().all()
    # The network sees the same; float32 resolves 1e6 by sixteenths.
    torch.testing.assert_close(one, other, rtol=0, atol=0.2)


@pytest.mark.parametrize("rows", [1, 1024, 1500])
def test_rows_do_not_depend_on_each_other(rows):
    model, (state, actions) = make(), candidates(rows)
    made = QuantizedMLP(model, *candidates(50))
    whole = made.rollout(state, actions).states
    for row in {0, rows - 1}:
        alone = made.rollout(state[row : row + 1], actions[:, row : row + 1]).states
        torch.testing.assert_close(whole[:, row : row + 1], alone, rtol=0.02, atol=0.02)


@pytest.mark.parametrize(
    "options", [{"activation": "tanh"}, {"dtype": "float64"}, {"hidden": ()}], ids=str
)
def test_networks_that_cannot(options):
    model, (state, actions) = MLPDynamics(3, 2, seeded(), **options), candidates()
    assert not is_quantizable(model)
    with pytest.raises(ArgumentError, match="only a perceptron of ReLUs in float32 on the CPU"):
        QuantizedMLP(model, state, actions)


def test_a_perceptron_of_relus_can():
    assert is_quantizable(make())
