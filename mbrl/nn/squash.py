"""Smooth maps from unbounded numbers into a control range, and floors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus


class Squash(nn.Module):
    r"""Maps each coordinate smoothly into its range: :math:`u = m + h \tanh(z / h)`.

    m and h are the middle and half width of [low, high]. The map has unit slope at z = 0, so z is a
    control in its own units as long as it is small; unbounded coordinates pass unchanged. Unlike a
    clamp it always has a gradient: an engine that clamps gives none beyond the bound. With a single
    bound b, below or above, it is :math:`b + \log(1 + e^z)` or :math:`b - \log(1 + e^{-z})`: the
    distance from the bound is z far inside, and 0 far outside.

    Args:
        low: lower bounds, [nu]; -inf where unbounded.
        high: upper bounds, [nu].

    Attributes:
        unit: h, [nu]; 1 where unbounded.
    """

    low: Tensor
    high: Tensor
    _middle: Tensor
    unit: Tensor
    _bounded: Tensor
    _floored: Tensor
    _topped: Tensor

    def __init__(self, low: Tensor, high: Tensor):
        super().__init__()
        bounded = low.isfinite() & high.isfinite()
        self.register_buffer("low", low.to(torch.float64), persistent=False)
        self.register_buffer("high", high.to(torch.float64), persistent=False)
        self.register_buffer(
            "_middle", torch.where(bounded, (low + high) / 2, 0.0), persistent=False
        )
        self.register_buffer("unit", torch.where(bounded, (high - low) / 2, 1.0), persistent=False)
        self.register_buffer("_bounded", bounded, persistent=False)
        self._all_bounded = bool(bounded.all())
        self.register_buffer("_floored", low.isfinite() & ~bounded, persistent=False)
        self.register_buffer("_topped", high.isfinite() & ~bounded, persistent=False)
        self._half_bounded = bool((self._floored | self._topped).any())
        self._is_tanh = bool(((low == -1) & (high == 1)).all())

    def forward(self, value: Tensor) -> Tensor:
        """[..., nu] -> [..., nu] float64, strictly inside the bounds up to rounding."""
        value = value.to(torch.float64)
        if self._is_tanh:  # the range of most stock environments: m = 0, h = 1
            return torch.tanh(value)
        squashed = self._middle + self.unit * torch.tanh(value / self.unit)
        if self._all_bounded:
            return squashed
        if self._half_bounded:
            # Zeros in place of infinite bounds: their derivatives would be NaN all the same.
            low, high = (torch.where(b.isfinite(), b, 0.0) for b in (self.low, self.high))
            above, below = low + softplus(value), high - softplus(-value)
            value = torch.where(self._floored, above, torch.where(self._topped, below, value))
        return torch.where(self._bounded, squashed, value)


def saturation(action: Tensor, low: Tensor, high: Tensor, threshold: float = 0.98) -> float:
    """Return the share of action entries in the outer 2 % of their range, where gradients fade.

    Args:
        action: [..., nu].
        low: [nu].
        high: [nu].
        threshold: |position in the range| in [0, 1] above which an entry counts.
    """
    inside = saturated(action, low, high, threshold)
    return float(inside.to(torch.float64).mean()) if action.numel() else 0.0


def saturated(action: Tensor, low: Tensor, high: Tensor, threshold: float = 0.98) -> Tensor:
    """Return which entries :func:`saturation` counts, [..., nu]; its arguments."""
    return ((action - (low + high) / 2) / ((high - low) / 2)).abs() > threshold


def soft_lower_bound(value: Tensor, bound: float, threshold: float) -> Tensor:
    r"""Smooth floor: identity above ``threshold``, tends to ``bound`` below it.

    :math:`\max(x,\ (\tau - b) \tanh((x - \tau) / (\tau - b)) + \tau)` with floor b, threshold tau.

    Args:
        value: any shape.
        bound: the floor.
        threshold: where bending starts; larger than ``bound``.
    """
    width = threshold - bound
    return torch.maximum(value, width * torch.tanh((value - threshold) / width) + threshold)
