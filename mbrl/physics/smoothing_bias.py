"""How far smoothed derivatives are from exact ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mbrl.physics.simulator import Simulator
from mbrl.physics.smoothing import Smoothing
from mbrl.types import Array


class SmoothingBias(NamedTuple):
    r"""Relative errors over states, in Frobenius' norm: :math:`\|\tilde A - A\| / \|A\|`.

    Infinite where the exact matrix is zero and the smoothed one is not.
    """

    A_median: float  # of A, relative to the exact one: 0.1 is ten per cent
    A_largest: float  # the worst of the states
    B_median: float  # of B, likewise
    B_largest: float


def smoothing_bias(
    simulator: Simulator,
    states: Array,
    ctrls: Array,
    smoothing: Smoothing | Mapping[str, Any],
    *,
    method: str = "auto",
    eps: float | None = None,
    centered: bool = False,
) -> SmoothingBias:
    """Compare smoothed with exact linearisations.

    Args:
        simulator: whose control step is linearised.
        states: where, [B, nx]; representative ones, e.g. of a rollout.
        ctrls: [B, nu].
        smoothing: see ``Simulator.linearize``.
        method: of both, like ``eps`` and ``centered``; see ``Simulator.linearize``.
        eps: size of differences.
        centered: second-order differences.

    Raises:
        ArgumentError, ConfigError, ModelError, DivergenceError: as ``Simulator.linearize``.
    """
    options: dict[str, Any] = {"method": method, "eps": eps, "centered": centered}
    exact = simulator.linearize(states, ctrls, **options)
    smoothed = simulator.linearize(states, ctrls, smoothing=smoothing, **options)
    a, b = (_relative_error(*pair) for pair in zip(smoothed, exact, strict=True))
    return SmoothingBias(float(np.median(a)), float(a.max()), float(np.median(b)), float(b.max()))


def _relative_error(found: Array, expected: Array) -> Array:
    """Matrices [B, n, m] -> [B]; zero where both are zero."""
    error = np.linalg.norm(found - expected, axis=(1, 2))
    size = np.linalg.norm(expected, axis=(1, 2))
    unlike = np.where(error > 0.0, np.inf, 0.0)
    return np.where(size > 0.0, error / np.where(size > 0.0, size, 1.0), unlike)
