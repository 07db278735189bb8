"""Adam against torch's."""

import numpy as np
import pytest
import torch

from mbrl.errors import ArgumentError
from mbrl.nn import FlatAdam, native_passes, threads_to_passes
from mbrl.nn.native_passes import NativeAdam

VARIANTS = native_passes._NATIVE.VARIANTS if native_passes._NATIVE else []
OPTIONS = {"lr": 0.02, "betas": (0.8, 0.99), "eps": 1e-6}

# Without native code both are torch's.
either = pytest.mark.parametrize("native", [False, True])
needs_native = pytest.mark.skipif(not VARIANTS, reason="the native code was not built")


def normal(seed, size=(3, 5), dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=torch.float64).to(dtype)


def native_step(values, gradient, number, variant=None, moments=None):
    """Change values by one step of native code; return the moments, which were NaN before."""
    first, second = moments or (torch.full_like(values, torch.nan) for _ in range(2))
    NativeAdam(values, first, second, **OPTIONS, variant=variant).step(gradient, number)
    return first, second


@either
def test_steps_are_torchs_and_go_on_from_what_was_saved(native):
    ours, theirs = normal(0), normal(0).requires_grad_()
    adam = FlatAdam(ours, **OPTIONS, native=native)
    reference = torch.optim.Adam([theirs], **OPTIONS)
    for step in range(20):
        if step == 7:
            state, adam = adam.state_dict(), FlatAdam(ours, **OPTIONS, native=native)
            adam.load_state_dict(state)
        gradient = normal(step + 1) * 10.0 ** (step % 3)
        adam.step(gradient)
        theirs.grad = gradient
        reference.step()
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-12, atol=1e-14)
    saved = reference.state[theirs]
    found = adam.state_dict()
    assert found["steps"] == 20
    torch.testing.assert_close(found["first"], saved["exp_avg"], rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(found["second"], saved["exp_avg_sq"], rtol=1e-12, atol=1e-14)


@needs_native
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
@pytest.mark.parametrize("count", [1, 7, 64, 1003])
def test_every_variant_takes_the_step_of_the_formula(variant, dtype, rtol, count):
    values = normal(0, (count,), dtype)
    (b1, b2), lr, eps = OPTIONS["betas"], OPTIONS["lr"], OPTIONS["eps"]
    x, m, v = values.numpy().astype(np.longdouble), 0.0, 0.0
    moments = None
    for number in (1, 2, 3):
        gradient = normal(number, (count,), dtype)
        moments = native_step(values, gradient, number, variant, moments)
        g = gradient.numpy().astype(np.longdouble)
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g * g
        x = x - lr * (m / (1 - b1**number)) / (np.sqrt(v / (1 - b2**number)) + eps)
        np.testing.assert_allclose(values.numpy(), x.astype(float), rtol=rtol, atol=rtol * lr)
        np.testing.assert_allclose(moments[1].numpy(), v.astype(float), rtol=rtol)


@needs_native
@pytest.mark.parametrize("number", [1, 5])
def test_threads_change_nothing(number):
    changed = []
    for threads in (1, 2):
        values = normal(0, (3, 20_001))
        before, moments = (
            torch.get_num_threads(),
            (normal(1, (3, 20_001)), normal(2, (3, 20_001)) ** 2),
        )
        torch.set_num_threads(threads)
        try:
            with threads_to_passes():
                native_step(values, normal(3, (3, 20_001)), number, moments=moments)
        finally:
            torch.set_num_threads(before)
        changed.append(torch.stack([values, *moments]))
    assert torch.equal(*changed)
    assert (changed[0][0] != normal(0, (3, 20_001))).all()


@either
def test_a_step_after_forgetting_is_the_sign_of_the_gradient(native):
    values = normal(0)
    adam = FlatAdam(values, lr=0.02, native=native)
    adam.step(normal(1))
    adam.reset()
    before, gradient = values.clone(), normal(2)
    gradient[0, 0] = 0.0
    adam.step(gradient)
    wanted = -0.02 * gradient / (gradient.abs() + 1e-8)
    torch.testing.assert_close(values - before, wanted, rtol=1e-12, atol=1e-16)


@either
@pytest.mark.parametrize("number", [1, 2])
def test_a_seed_whose_gradient_overflows_is_told_from_others(native, number):
    adam = FlatAdam(normal(0), lr=0.02, native=native)
    for _ in range(number - 1):
        adam.step(normal(1))
    gradient = normal(2)
    gradient[1, 3] = 1e200  # its square is no number
    gradient[2, 0] = torch.nan
    adam.step(gradient)
    assert adam.finite().tolist() == [True, False, False]


@needs_native
@pytest.mark.parametrize("wrong", [normal(1, (3, 4)), normal(1).float(), normal(1, (5, 3)).T])
def test_gradients_of_another_kind_are_refused(wrong):
    values = normal(0)
    with pytest.raises(ValueError, match="gradient must"):
        FlatAdam(values, lr=0.02, native=True).step(wrong)
    assert torch.equal(values, normal(0))


def test_the_rate_must_be_positive():
    with pytest.raises(ArgumentError, match="lr must be positive, got 0"):
        FlatAdam(normal(0), lr=0.0)
