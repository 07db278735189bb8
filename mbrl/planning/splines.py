"""Action sequences described by a few knots."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from mbrl.errors import ArgumentError, suggestion

Interpolation = Literal["zero", "linear", "cubic"]


class Spline:
    r"""U = S theta: T actions made of P knots, evenly spaced in time.

    With s = t (P - 1) / (T - 1) the place of step t among the knots, "zero" holds the last knot
    (of P equal intervals), "linear" interpolates, "cubic" is Hermite's with slopes from central
    differences of the knots, one-sided at the ends (Catmull and Rom 1974). A cubic may overshoot
    its knots: who uses it clips.

    Args:
        horizon: T.
        knots: P, at most T; None: T, every action is a knot and S = I.
        interpolation: zero, linear or cubic.

    Attributes:
        matrix: S, [T, P].
        knots: P.

    Raises:
        ArgumentError: if there are fewer than one knot, or more than steps.
    """

    def __init__(
        self, horizon: int, knots: int | None = None, interpolation: Interpolation = "linear"
    ):
        if interpolation not in get_args(Interpolation):
            raise ArgumentError(
                f"interpolation: unknown value {interpolation!r}; "
                f"{suggestion(interpolation, get_args(Interpolation))}"
            )
        self.knots = horizon if knots is None else knots
        if not 1 <= self.knots <= horizon:
            raise ArgumentError(f"knots must lie between 1 and the horizon {horizon}, got {knots}")
        self.matrix = _matrix(horizon, self.knots, interpolation)  # (T, P)
        # With a knot for every action S = I: nothing is multiplied, and nothing inverted.
        self._inverse = self.matrix if knots is None else torch.linalg.pinv(self.matrix)

    def __call__(self, theta: Tensor) -> Tensor:
        """Knots [P, ...] -> actions [T, ...]."""
        return self._times(self.matrix, theta)

    def pull(self, gradient: Tensor) -> Tensor:
        """Gradients by actions [T, ...] -> gradients by knots S' g, [P, ...]."""
        return self._times(self.matrix.mT, gradient)

    def fit(self, actions: Tensor) -> Tensor:
        """Return the knots [P, ...] whose actions are nearest to [T, ...], by least squares."""
        return self._times(self._inverse, actions)

    def _times(self, matrix: Tensor, values: Tensor) -> Tensor:
        if self.knots == len(self.matrix):  # S = I, whatever the interpolation
            return values
        return torch.tensordot(matrix, values, dims=1)


def _matrix(horizon: int, knots: int, interpolation: Interpolation) -> Tensor:
    """Interpolation is linear in the knots: its columns are what the unit knots give."""
    unit = torch.eye(knots, dtype=torch.float64)
    if knots == 1:
        return torch.ones(horizon, 1, dtype=torch.float64)
    if interpolation == "zero":
        return unit[torch.arange(horizon) * knots // horizon]
    place = torch.arange(horizon, dtype=torch.float64) * (knots - 1) / (horizon - 1)
    left = place.long().clamp(max=knots - 2)
    s = (place - left)[:, None]
    before, after = unit[left], unit[left + 1]
    if interpolation == "linear":
        return (1 - s) * before + s * after
    slopes = torch.empty_like(unit)
    slopes[0], slopes[-1] = unit[1] - unit[0], unit[-1] - unit[-2]
    slopes[1:-1] = 0.5 * (unit[2:] - unit[:-2])
    return (
        (2 * s**3 - 3 * s**2 + 1) * before
        + (s**3 - 2 * s**2 + s) * slopes[left]
        + (3 * s**2 - 2 * s**3) * after
        + (s**3 - s**2) * slopes[left + 1]
    )
