"""Small quadratic programs with bounds, many at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mbrl.types import Array

# A gradient is zero once it is within so many times n roundings of the terms it sums.
_ROUNDING = 64 * float(np.finfo(np.float64).eps)
# Iterations that free every entry whose gradient points inward; later ones wait, see box_qp.
_HASTY = 5


class BoxSolution(NamedTuple):
    """Solutions of B problems."""

    d: Array  # (B, n)
    free: NDArray[np.bool_]  # (B, n): entries not held by a bound
    solved: NDArray[np.bool_]  # (B): whether the conditions of optimality hold


def box_qp(
    h: Array, g: Array, low: Array, high: Array, start: Array, *, iterations: int = 100
) -> BoxSolution:
    r"""Minimise :math:`\tfrac12 d^\top H d + g^\top d` subject to :math:`l \le d \le h`.

    Projected Newton (Bertsekas 1982, "Projected Newton methods for optimization problems with
    simple constraints"; Tassa, Mansard & Todorov 2014, "Control-limited differential dynamic
    programming", section III-B): entries at a bound whose gradient points outward are held, the
    others head for the minimiser given those, along a path that bends where it meets a bound. The
    first local minimum of that path is found exactly, from break to break, as in Moré & Toraldo
    1991, "On the solution of large quadratic programming problems with bound constraints".

    On ill-conditioned problems entries that are freed in every iteration may zigzag for ever.
    After a few iterations, therefore, none is freed before the others are at their minimiser: the
    value falls from one such minimiser to the next, so that no set of free entries comes twice.

    A problem is solved if every free entry's gradient vanishes to rounding, and no held one's
    points inward by more than that: whatever the scale of the problem or of single entries.

    Args:
        h: H, symmetric positive definite, [B, n, n].
        g: [B, n].
        low: lower bounds, [B, n]; -inf where there is none; an entry with low = high is held.
        high: upper bounds, [B, n].
        start: where to begin, [B, n]; the solution costs one look at its gradient.
        iterations: at most so many.
    """
    d = np.clip(start, low, high)
    numbers = np.concatenate([h, g[:, None], d[:, None]], axis=1)
    sound: NDArray[np.bool_] = np.asarray(np.isfinite(numbers).all(axis=(1, 2)))
    if not sound.all():  # what is not finite has no solution; an easy problem stands in
        h, d = np.where(sound[:, None, None], h, np.eye(d.shape[1])), np.where(sound[:, None], d, 0)
        g = np.where(sound[:, None], g, 0.0)
    problem = _Problem(h, g, low, high)
    free = np.zeros_like(d, dtype=bool)
    solved = np.zeros(len(d), dtype=bool)
    for iteration in range(iterations):
        gradient = problem.gradient(d)
        now, done = problem.examined(d, gradient, None if iteration < _HASTY else free)
        free = np.where(solved[:, None], free, now)  # rows do not wait for each other
        solved = solved | done
        if solved.all():
            break
        moved = problem.searched(d, gradient, problem.minimiser(d, free))
        d = np.where(solved[:, None], d, moved)
    return BoxSolution(d, free, solved & sound)


class _Problem(NamedTuple):
    h: Array
    g: Array
    low: Array
    high: Array

    def gradient(self, d: Array) -> Array:
        return self.g + _times(self.h, d)

    def examined(
        self, d: Array, gradient: Array, kept: NDArray[np.bool_] | None
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return which entries are free, and which rows are solved.

        Args:
            d: [B, n].
            gradient: [B, n].
            kept: those that were free; None: free all that do not push against a bound.
        """
        at_low, at_high = d <= self.low, d >= self.high
        inward = ~((at_low & (gradient > 0)) | (at_high & (gradient < 0)) | (at_low & at_high))
        free = inward if kept is None else kept & ~at_low & ~at_high
        # |H| |d| as it enters by way of the Cholesky factor: |H_ij| <= root_i root_j.
        root = _root(self.h)
        terms = np.abs(self.g) + root * (root * np.abs(d)).sum(axis=1, keepdims=True)
        vanishes = np.abs(gradient) <= _ROUNDING * d.shape[1] * terms
        minimal = (vanishes | ~free).all(axis=1)
        released = inward & ~free & ~vanishes & minimal[:, None]
        return free | released, minimal & ~released.any(axis=1)

    def minimiser(self, d: Array, free: NDArray[np.bool_]) -> Array:
        """Return the minimiser over the free entries, given the others."""
        rest = self.gradient(np.where(free, 0.0, d))
        found = -solve_free(self.h, rest[:, :, None], free)[:, :, 0]
        return np.where(free, found, d)

    def searched(self, d: Array, gradient: Array, target: Array) -> Array:
        """Return the first local minimum along the straight path to the target, clipped."""
        inside = (target >= self.low) & (target <= self.high)
        feasible: NDArray[np.bool_] = np.asarray(inside.all(axis=1))
        result = np.where(feasible[:, None], target, d)
        bent = np.flatnonzero(~feasible)
        if len(bent):
            problem = _Problem(*(part[bent] for part in self))
            result[bent] = problem.along_bends(d[bent], gradient[bent], target[bent])
        return result

    def along_bends(self, d: Array, gradient: Array, target: Array) -> Array:
        direction = target - d
        bound = np.where(direction > 0, self.high, self.low)
        breaks = np.full_like(d, np.inf)
        np.divide(bound - d, direction, out=breaks, where=direction != 0)
        way = np.zeros((len(d), 1))  # from 0 on; a path without bends ends at 1
        for _ in range(d.shape[1] + 1):
            met = breaks <= way
            d = np.where(met & (direction != 0), bound, d)
            direction = np.where(met, 0.0, direction)
            slope = (direction * gradient).sum(axis=1, keepdims=True)
            change = _times(self.h, direction)
            curvature = (direction * change).sum(axis=1, keepdims=True)
            falls = (slope < 0) & (curvature > 0)
            if not falls.any():
                break
            lowest = np.zeros_like(way)
            np.divide(-slope, curvature, out=lowest, where=falls)
            bend = np.where(met, np.inf, breaks).min(axis=1, keepdims=True) - way
            length = np.minimum(lowest, bend)
            d, gradient = d + length * direction, gradient + length * change
            direction = np.where(lowest <= bend, 0.0, direction)
            way = way + length
        return np.clip(d, self.low, self.high)


def solve_free(h: Array, right: Array, free: NDArray[np.bool_]) -> Array:
    """Return H^{-1} R on the free entries, zero on the others: [B, n, m].

    Args:
        h: H, symmetric positive definite, [B, n, n].
        right: R, [B, n, m].
        free: [B, n].
    """
    scale = 1 / _root(h)[:, :, None]  # pivots are then chosen whatever the units of the entries
    both = free[:, :, None] & free[:, None, :]
    restricted = np.where(both, h * scale * scale.swapaxes(1, 2), np.eye(h.shape[1]))
    found = np.linalg.solve(restricted, np.where(free[:, :, None], right * scale, 0.0))
    return np.asarray(found * scale, dtype=np.float64)


def _root(h: Array) -> Array:
    """Return the square roots of the diagonals, [B, n]."""
    return np.asarray(np.sqrt(np.einsum("bii->bi", h)), dtype=np.float64)


def _times(matrix: Array, vector: Array) -> Array:
    """[B, n, n], [B, n] -> [B, n]."""
    product: Array = (matrix @ vector[:, :, None])[:, :, 0]
    return product
