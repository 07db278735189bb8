"""Small quadratic programs with bounds, many at once."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mbrl.types import Array

# Tassa et al.'s constants of the line search, except that a full step is tried first and a Newton
# step on the right free set is accepted at once.
_SUFFICIENT, _SHRINK, _SHORTEST = 0.1, 0.6, 1e-22


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
    others take a Newton step, projected, with Armijo's line search. It ends at a point where the
    gradient of every free entry vanishes to rounding.

    Args:
        h: H, symmetric positive definite, [B, n, n].
        g: [B, n].
        low: lower bounds, [B, n]; -inf where there is none.
        high: upper bounds, [B, n].
        start: where to begin, [B, n]; a good guess saves iterations.
        iterations: at most so many.
    """
    d = np.clip(start, low, high)
    n = d.shape[1]
    scale = 1.0 + np.abs(g).max(axis=1, initial=0.0)
    solved = np.zeros(len(d), dtype=bool)
    free = np.ones_like(d, dtype=bool)
    identity = np.eye(n)
    for _ in range(iterations):
        gradient = g + _times(h, d)
        free = ~(((d <= low) & (gradient > 0)) | ((d >= high) & (gradient < 0)))
        residual = np.abs(np.where(free, gradient, 0.0)).max(axis=1, initial=0.0)
        solved = residual <= 1e-13 * (scale + np.abs(d).max(axis=1, initial=0.0))
        if solved.all():
            break
        both = free[:, :, None] & free[:, None, :]
        restricted = np.where(both, h, identity)
        step = -np.linalg.solve(restricted, np.where(free, gradient, 0.0)[:, :, None])[:, :, 0]
        moved, progressed = _searched(h, g, d, gradient, step, low, high, ~solved)
        if not progressed.any():
            solved |= residual <= 1e-9 * scale  # rounding is what is left
            break
        d = moved
    return BoxSolution(d, free, solved)


def _searched(
    h: Array,
    g: Array,
    d: Array,
    gradient: Array,
    step: Array,
    low: Array,
    high: Array,
    active: NDArray[np.bool_],
) -> tuple[Array, NDArray[np.bool_]]:
    """Armijo's search along the projected step; return the new points and which rows moved."""
    value = _value(h, g, d)
    length = np.ones(len(d))
    result, waiting = d.copy(), active.copy()
    while waiting.any():
        trial = np.clip(d + length[:, None] * step, low, high)
        decrease = value - _value(h, g, trial)
        promised = -(gradient * (trial - d)).sum(axis=1)
        good = waiting & (decrease >= _SUFFICIENT * promised) & (decrease > 0)
        result[good] = trial[good]
        waiting &= ~good
        length[waiting] *= _SHRINK
        waiting &= length > _SHORTEST
    return result, (result != d).any(axis=1)


def _value(h: Array, g: Array, d: Array) -> Array:
    value: Array = (d * (0.5 * _times(h, d) + g)).sum(axis=1)
    return value


def _times(matrix: Array, vector: Array) -> Array:
    """[B, n, n], [B, n] -> [B, n]."""
    product: Array = (matrix @ vector[:, :, None])[:, :, 0]
    return product
