"""Adam against torch's."""

import pytest
import torch

from mbrl.algorithms.omd.adam import Adam
from mbrl.errors import ArgumentError


def normal(seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn((3, 5), generator=generator, dtype=torch.float64)


def test_steps_are_torchs_and_go_on_from_what_was_saved():
    ours, theirs = normal(0), normal(0).requires_grad_()
    adam = Adam(ours, lr=0.02, betas=(0.8, 0.99), eps=1e-6)
    reference = torch.optim.Adam([theirs], lr=0.02, betas=(0.8, 0.99), eps=1e-6)
    for step in range(20):
        if step == 7:
            state, adam = adam.state_dict(), Adam(ours, lr=0.02, betas=(0.8, 0.99), eps=1e-6)
            adam.load_state_dict(state)
        gradient = normal(step + 1) * 10.0 ** (step % 3)
        adam.step(gradient)
        theirs.grad = gradient
        reference.step()
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-14)


def test_a_step_after_forgetting_is_the_sign_of_the_gradient():
    values = normal(0)
    adam = Adam(values, lr=0.02)
    adam.step(normal(1))
    adam.reset()
    before, gradient = values.clone(), normal(2)
    gradient[0, 0] = 0.0
    adam.step(gradient)
    wanted = -0.02 * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(values - before, wanted, rtol=1e-12, atol=1e-16)


def test_the_rate_must_be_positive():
    with pytest.raises(ArgumentError, match="lr must be positive, got 0"):
        Adam(normal(0), lr=0.0)
