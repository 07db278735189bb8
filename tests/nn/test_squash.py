"""Squashing, saturation and the soft floor against their formulas."""

import math

import torch

from mbrl.nn import Squash, saturation, soft_lower_bound


def test_squash_has_unit_slope_in_the_middle_and_never_a_zero_gradient():
    squash = Squash(torch.tensor([-2.0]), torch.tensor([6.0]))
    z = torch.tensor([[0.0], [1e-4], [20.0]], dtype=torch.float64, requires_grad=True)
    action = squash(z)
    action.sum().backward()
    action = action.detach()
    assert float(action[0]) == 2.0
    assert abs(float(action[1]) - 2.0001) < 1e-9
    assert abs(float(action[2]) - (2 + 4 * math.tanh(5.0))) < 1e-12
    assert abs(float(z.grad[0]) - 1.0) < 1e-12
    assert float(z.grad[2]) > 0


def test_saturation_is_the_share_of_entries_near_a_bound():
    low, high = torch.tensor([-1.0, 0.0]), torch.tensor([1.0, 2.0])
    actions = torch.tensor([[0.0, 1.0], [0.99, 1.0], [-1.0, 0.01], [0.5, 0.5]])
    assert saturation(actions, low, high) == 3 / 8
    assert saturation(torch.ones(3, 1), torch.tensor([-torch.inf]), torch.tensor([torch.inf])) == 0


def test_soft_lower_bound_is_smooth_identity_above_and_floor_below():
    x = torch.linspace(-40, 5, 4001, dtype=torch.float64)
    y = soft_lower_bound(x, -9.0, -7.0)
    above = x > -7
    assert torch.equal(y[above], x[above])
    assert float(y.min()) >= -9.0
    assert bool((y.diff() >= 0).all())
    slope = y.diff() / x.diff()
    assert float(slope.diff().abs().max()) < 0.02, "no kink at the threshold"


def test_a_single_bound_is_kept_to():
    inf = torch.inf
    low, high = torch.tensor([5.0, -inf, -1.0, -inf]), torch.tensor([inf, 2.0, 1.0, inf])
    squash = Squash(low, high)
    values = torch.linspace(-30, 30, 12_001, dtype=torch.float64)[:, None].repeat(1, 4)
    values.requires_grad_()
    found = squash(values)
    assert bool((found >= low).all())
    assert bool((found <= high).all())
    inside = values.detach()
    torch.testing.assert_close(found[-1, 0], 5 + inside[-1, 0], rtol=0, atol=1e-12)
    torch.testing.assert_close(found[0, 1], 2 + inside[0, 1], rtol=0, atol=1e-12)
    assert torch.equal(found[:, 3], inside[:, 3])
    (slope,) = torch.autograd.grad(found.sum(), values)
    middle = slope[4000:8001]
    assert bool(((middle > 0) & (middle <= 1)).all())
    assert slope.isfinite().all()
    differences = (found[2:] - found[:-2]) / (values[2:] - values[:-2])
    torch.testing.assert_close(slope[1:-1], differences, rtol=0, atol=1e-5)
