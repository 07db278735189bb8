"""Squashed Gaussian policies against torch's distributions and automatic differentiation."""

import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from mbrl.algorithms.omd.tanh_gaussian import TanhGaussian

SEEDS, BATCH, N, NU = 2, 5, 3, 2


def normal(*size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=torch.float64)


@pytest.fixture
def policy():
    return TanhGaussian(N, NU, hidden=(7, 6))


def reference(policy, flat, observation, noise):
    """a and log pi, for torch to differentiate."""
    mean, log_std = policy.network.apply(flat, observation).split(NU, -1)
    gaussian = Normal(mean, log_std.clamp(-10, 2).exp())
    z = gaussian.mean + gaussian.stddev * noise
    tanh = TanhTransform(cache_size=1)
    action = tanh(z)
    return action, TransformedDistribution(gaussian, tanh).log_prob(action).sum(-1)


@pytest.mark.parametrize("scale", [0.5, 1.5])
def test_samples_densities_and_their_gradients_are_those_of_torch(policy, scale):
    flat = scale * normal(SEEDS, policy.network.size, seed=1)
    observation, noise = normal(SEEDS, BATCH, N, seed=2), normal(SEEDS, BATCH, NU, seed=3)
    by_action, by_log_prob = normal(SEEDS, BATCH, NU, seed=4), normal(SEEDS, BATCH, seed=5)
    found = policy.sample(policy.network.parameters(flat), observation, noise)
    leaf = flat.clone().requires_grad_()
    action, log_prob = reference(policy, leaf, observation, noise)
    torch.testing.assert_close(found.action, action.detach())
    torch.testing.assert_close(found.log_prob, log_prob.detach(), rtol=1e-9, atol=1e-9)
    raw = found.tape.output[..., NU:]
    outside = ((raw < -10) | (raw > 2)).double().mean()
    assert (0.1 < outside < 0.9) == (scale > 1), "clipped deviations are among them"
    wanted = torch.autograd.grad((by_action * action).sum() + (by_log_prob * log_prob).sum(), leaf)[
        0
    ]
    out = policy.network.zeros(SEEDS, torch.float64)
    parameters = policy.network.parameters(flat)
    policy.gradient(parameters, found, by_action, by_log_prob, out)
    torch.testing.assert_close(out.flat, wanted, rtol=1e-8, atol=1e-8)


def test_the_mean_action_is_that_without_noise(policy):
    parameters = policy.network.parameters(normal(SEEDS, policy.network.size))
    observation = normal(SEEDS, BATCH, N, seed=2)
    silent = policy.sample(parameters, observation, torch.zeros(SEEDS, BATCH, NU).double())
    assert torch.equal(policy.mean_action(parameters, observation), silent.action)


@pytest.mark.parametrize("z", [0.0, 5.0, -20.0, 300.0])
def test_densities_far_out_in_single_precision(policy, z):
    """There tanh is rounded to 1, and the logarithm of its slope is 2 (log 2 - |z|)."""
    parameters = policy.network.zeros(1, torch.float32)
    parameters.biases[2][..., :NU] = z
    found = policy.sample(parameters, torch.zeros(1, 1, N), torch.zeros(1, 1, NU))
    slope = 2 * (math.log(2) - abs(z) - math.log1p(math.exp(-2 * abs(z))))
    wanted = NU * (-0.5 * math.log(2 * math.pi) - slope)
    np.testing.assert_allclose(float(found.log_prob), wanted, rtol=1e-6)
