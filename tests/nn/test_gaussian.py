"""What estimators ask of Gaussian policies: draws, repeats, deviations, gains."""

import math

import pytest
import torch

from mbrl.nn import GaussianMLP, OpenLoop, act
from mbrl.types import Step

LOW = torch.tensor([-1.0, 0.5, -torch.inf], dtype=torch.float64)
HIGH = torch.tensor([3.0, 4.5, torch.inf], dtype=torch.float64)
UNIT = torch.tensor([2.0, 2.0, 1.0], dtype=torch.float64)


def make(kind, **options):
    return kind(5, LOW, HIGH, torch.Generator().manual_seed(0), **options)


POLICIES = {
    "network": lambda: make(GaussianMLP, dtype="float64"),
    "constant": lambda: make(GaussianMLP, dtype="float64", deviation="constant", initial_sd=0.3),
    "per_step": lambda: make(
        GaussianMLP, dtype="float64", deviation="per_step", steps=4, initial_sd=0.3
    ),
    "open_loop": lambda: make(OpenLoop, steps=4, initial_sd=0.3),
}
each = pytest.mark.parametrize("name", POLICIES)


def sampled(policy, t=2, seed=1, **step):
    draws = []
    generator = torch.Generator().manual_seed(seed)
    observation = torch.linspace(-1, 1, 20, dtype=torch.float64).reshape(4, 5)
    action = act(policy, observation, Step(t=t, generator=generator, draws=draws, **step))
    return action, draws


@each
def test_a_repeated_sample_is_repeated_bit_for_bit_and_follows_the_mean(name):
    policy = POLICIES[name]()
    replay = torch.randn(4, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for t in range(4):
        action, (draw,) = sampled(policy, t, replay=replay)
        assert torch.equal(draw.sample[0], replay[t])
        assert torch.equal(draw.sample[1:], sampled(policy, t)[1][0].sample[1:])
        assert torch.equal(action[0].detach(), policy.squash(replay[t]))
    if name == "open_loop":
        (slope,) = torch.autograd.grad(action[0, 2], policy.mean)
        assert slope[3, 2] == 1, "the unbounded actuator's sample moves with its mean"


@each
def test_deviations_that_no_observation_changes(name):
    policy = POLICIES[name]()
    sd = policy.deviation_at(1)
    if name == "network":
        assert sd is None
        return
    torch.testing.assert_close(sd, 0.3 * UNIT)
    with torch.no_grad():
        policy.log_sd[-1] = math.log(0.5)
    last = policy.deviation_at(7)
    torch.testing.assert_close(last, 0.5 * UNIT)
    torch.testing.assert_close(last, policy.moments(torch.ones(2, 5), 7)[1][0])


@each
def test_a_gain_changes_nothing_but_what_reaches_the_parameters(name):
    policy = POLICIES[name]()
    gain = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)
    plain, plain_draws = sampled(policy)
    geared, geared_draws = sampled(policy, gain=lambda policy, t: gain)
    torch.testing.assert_close(plain, geared, rtol=1e-15, atol=1e-15)
    assert len(geared_draws) == len(plain_draws) == 1
    assert torch.equal(plain_draws[0].sample, geared_draws[0].sample)
    parameters = list(policy.parameters())
    for j in range(3):
        slopes, scaled = (
            torch.autograd.grad(action[:, j].sum(), parameters, retain_graph=True)
            for action in (plain, geared)
        )
        for slope, other in zip(slopes, scaled, strict=True):
            torch.testing.assert_close(gain[j] * slope, other)
