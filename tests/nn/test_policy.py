"""Policies: bounds, noise, initialisation and precision."""

import pytest
import torch

from mbrl.errors import ArgumentError
from mbrl.nn import DeterministicMLP, GaussianMLP
from mbrl.types import Step

LOW = torch.tensor([-1.0, 0.5, -torch.inf], dtype=torch.float64)
HIGH = torch.tensor([1.0, 4.5, torch.inf], dtype=torch.float64)


def make(kind, seed=0, **options):
    return kind(5, LOW, HIGH, torch.Generator().manual_seed(seed), **options)


@pytest.mark.parametrize("kind", [DeterministicMLP, GaussianMLP])
def test_actions_are_float64_and_inside_their_bounds(kind):
    policy = make(kind, output_scale=100.0)
    observation = 10 * torch.randn(200, 5, generator=torch.Generator().manual_seed(1))
    action = policy(observation, Step(generator=torch.Generator().manual_seed(2)))
    assert action.dtype == torch.float64
    assert action.shape == (200, 3)
    assert bool(((action >= LOW) & (action <= HIGH)).all())
    assert float(action[:, 2].detach().abs().max()) > 5, "an unbounded action is not squashed"


def test_same_seed_same_weights_and_another_seed_others():
    observation = torch.ones(1, 5)
    assert torch.equal(make(DeterministicMLP)(observation), make(DeterministicMLP)(observation))
    assert not torch.equal(
        make(DeterministicMLP)(observation), make(DeterministicMLP, seed=1)(observation)
    )


def test_gaussian_noise_has_the_declared_deviation_and_comes_from_the_generator():
    policy = make(GaussianMLP, initial_sd=0.2, output_scale=0.0)
    observation = torch.zeros(40_000, 5)
    generator = torch.Generator().manual_seed(3)
    action = policy(observation, Step(generator=generator))
    # Undo the squashing of the first coordinate, whose half range is 1.
    action = action.detach()
    raw = torch.atanh(action[:, 0])
    assert float(raw.std()) == pytest.approx(0.2, rel=0.02)
    # The unbounded one is noise in its own unit.
    assert float(action[:, 2].std()) == pytest.approx(0.2, rel=0.02)
    again = policy(observation, Step(generator=torch.Generator().manual_seed(3)))
    assert torch.equal(action, again)
    mean = policy(observation)
    assert torch.equal(mean, policy(observation))
    assert float((mean[:, 1] - 2.5).detach().abs().max()) < 1e-12


def test_gradients_reach_mean_and_deviation():
    policy = make(GaussianMLP)
    policy(torch.ones(4, 5), Step(generator=torch.Generator().manual_seed(0))).sum().backward()
    gradient = policy.network[-1].weight.grad
    assert bool((gradient.abs().sum(1) > 0).all())


def test_double_precision_networks_and_bad_widths():
    assert make(DeterministicMLP, dtype="float64").network[0].weight.dtype == torch.float64
    with pytest.raises(ArgumentError, match="hidden must hold positive widths, got"):
        make(DeterministicMLP, hidden=(8, 0))
