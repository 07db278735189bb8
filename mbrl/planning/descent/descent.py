"""A cost by the knots of a spline, and what goes down on it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from mbrl.planning.gradients import finite_gradient
from mbrl.planning.problem import Problem
from mbrl.planning.splines import Spline

# How far past a bound, in half-ranges, rounding alone may put an action of knots on that bound.
_ROUNDING = 1e-9


class Point(NamedTuple):
    """Knots of B rows, or of K candidates of each, and where they lead."""

    knots: Tensor  # (P, [K,] B, nu), in units of ``Problem.spread``
    actions: Tensor  # (T, [K,] B, nu)
    states: Tensor  # (T+1, [K,] B, nx)
    costs: Tensor  # ([K,] B)

    def candidate(self, index: Tensor) -> Point:
        """Return one of K candidates of every row, by their indices [B]."""
        row = torch.arange(len(index))
        return Point(
            self.knots[:, index, row],
            self.actions[:, index, row],
            self.states[:, index, row],
            self.costs[index, row],
        )

    def where(self, rows: Tensor, other: Point) -> Point:
        """Return this point in the rows [B] that are true, the other in the rest."""
        column = rows[:, None]
        return Point(
            torch.where(column, self.knots, other.knots),
            torch.where(column, self.actions, other.actions),
            torch.where(column, self.states, other.states),
            torch.where(rows, self.costs, other.costs),
        )


class Landscape:
    r"""The cost of B rows by the knots z of their splines, all lengths in half-ranges.

    .. math:: f(z) = J(x_0, \mathrm{clip}(\Delta S z)), \qquad
              \underline u \le \Delta z \le \overline u

    with :math:`\Delta` the diagonal matrix of ``Problem.spread``. Knots keep to the bounds; what a
    cubic overshoots is clipped, and an action past its bound has no derivative.

    Args:
        problem: what to solve.
        state: initial states, [B, nx].
        spline: S.

    Attributes:
        low: of a knot, [nu].
        high: of a knot, [nu].
    """

    def __init__(self, problem: Problem, state: Tensor, spline: Spline):
        self._problem, self._state, self._spline = problem, state, spline
        self.low, self.high = problem.low / problem.spread, problem.high / problem.spread

    def __call__(self, knots: Tensor) -> Point:
        """Roll candidates out: knots [P, K, B, nu], K points a row."""
        actions = self._problem.clip(self._spline(knots) * self._problem.spread)
        return Point(knots, actions, *self._problem.rollout(self._state, actions))

    def fit(self, actions: Tensor) -> Tensor:
        """Return the knots [P, ...] inside the bounds that are near to actions [T, ...]."""
        return self.project(self._spline.fit(actions / self._problem.spread))

    def project(self, knots: Tensor) -> Tensor:
        """Return knots [..., nu] inside the bounds."""
        return torch.minimum(torch.maximum(knots, self.low), self.high)

    def gradient(self, point: Point) -> tuple[Tensor, Tensor]:
        """Return gradients by knots [P, B, nu], and which rows [B] have one; zero in others."""
        gradient, good = finite_gradient(self._problem, point.states, point.actions, point.costs)
        raw = self._spline(point.knots)
        inside = (raw >= self.low - _ROUNDING) & (raw <= self.high + _ROUNDING)
        return self._spline.pull(torch.where(inside, gradient * self._problem.spread, 0.0)), good

    def residual(self, knots: Tensor, gradient: Tensor) -> Tensor:
        """Return z - P(z - g), [P, B, nu]: zero where the conditions of optimality hold."""
        return knots - self.project(knots - gradient)

    def inward(self, knots: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradient [P, B, nu] without what pushes knots against a bound they are at."""
        pushed = torch.where(gradient > 0, knots <= self.low, knots >= self.high)
        return torch.where(pushed, 0.0, gradient)


class Descent(ABC):
    """Steps from point to point; its keyword-only arguments are its options in YAML."""

    @abstractmethod
    def begin(self, point: Point) -> Mapping[str, Tensor]:
        """Return the memory of a descent from a point of B rows."""

    @abstractmethod
    def step(
        self,
        landscape: Landscape,
        here: Point,
        gradient: Tensor,
        good: Tensor,
        memory: Mapping[str, Tensor],
    ) -> tuple[Point, Mapping[str, Tensor], Tensor]:
        """Take a step in every row.

        Args:
            landscape: what to descend.
            here: where, in B rows.
            gradient: there, [P, B, nu].
            good: which rows [B] have a gradient.
            memory: what :meth:`begin` or the last step returned.

        Returns:
            Where it leads, what to remember, and the rows [B] that no step will move any more.
        """
