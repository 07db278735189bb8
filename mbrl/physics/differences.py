"""Finite differences of maps on states and controls, along the manifold, inside the bounds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mbrl.errors import DivergenceError
from mbrl.physics.state import StateSpec
from mbrl.types import Array, Linearization

# (states [N, nx], controls [N, nu]) -> values [N, ny], every row by itself.
BatchedMap = Callable[[Array, Array], Array]
# (values [b, 1, ny], values [b, k, ny]) -> differences [b, k, dy].
Difference = Callable[[Array, Array], Array]


class ManifoldDifference:
    r"""Jacobians of a map y = f(x, u), all perturbations of all rows in batched calls.

    .. math:: A_{:j} = (f(x \oplus h e_j, u) \ominus f(x, u)) / h, \qquad
              B_{:j} = (f(x, u + h e_j) \ominus f(x, u)) / h

    or, centred, the second-order quotient of two perturbations. At a control (or activation) bound
    differences point inward, so that an optimiser can leave the bound; beyond it the engine
    clamps, and the column is zero.

    Args:
        spec: the state space of x.
        evaluate: f, row by row.
        difference: how values are subtracted.
        low: lower bounds of [act, ctrl], (na + nu).
        high: upper bounds.
        rows_per_call: how many evaluations to ask for at once.
    """

    def __init__(
        self,
        spec: StateSpec,
        evaluate: BatchedMap,
        difference: Difference,
        low: Array,
        high: Array,
        rows_per_call: int,
    ):
        self._spec, self._evaluate, self._difference = spec, evaluate, difference
        self._low, self._high = low, high
        self._rows_per_call = rows_per_call

    def __call__(
        self, state: Array, ctrl: Array, *, eps: float, centered: bool = False
    ) -> Linearization:
        """Return A [B, dy, ndx] and B [B, dy, nu] at states [B, nx] and controls [B, nu].

        Raises:
            DivergenceError: naming the rows whose perturbations diverged.
        """
        spec = self._spec
        rows = 1 + (spec.ndx + spec.nu) * (2 if centered else 1)
        chunk = max(1, self._rows_per_call // rows)
        parts = []
        for start in range(0, len(state), chunk):
            part = slice(start, start + chunk)
            try:
                parts.append(self._quotients(state[part], ctrl[part], eps, centered))
            except DivergenceError as error:
                at = sorted({start + row // rows for row in error.rows})
                raise DivergenceError(f"linearising states {at[:8]}: {error}", at) from error
        jacobian = parts[0] if len(parts) == 1 else np.concatenate(parts)
        return Linearization(
            np.ascontiguousarray(jacobian[:, :, : spec.ndx]),
            np.ascontiguousarray(jacobian[:, :, spec.ndx :]),
        )

    def _quotients(self, state: Array, ctrl: Array, eps: float, centered: bool) -> Array:
        """Return [A B] of one chunk, (b, dy, ndx + nu)."""
        spec = self._spec
        steps = self._steps(state, ctrl, eps, centered)  # (s, b, ndx + nu)
        b, columns = len(state), spec.ndx + spec.nu
        # Row 0 is the centre, row 1 + k columns + j the k-th perturbation of coordinate j.
        states = np.repeat(state[:, None], 1 + len(steps) * columns, axis=1)
        ctrls = np.repeat(ctrl[:, None], 1 + len(steps) * columns, axis=1)
        taken = np.empty_like(steps)
        for k, h in enumerate(steps):
            first = 1 + k * columns
            taken[k] = self._perturb(
                states[:, first : first + spec.ndx], ctrls[:, first + spec.ndx : first + columns], h
            )
        values = self._evaluate(
            states.reshape(-1, spec.nx),
            ctrls.reshape(b * ctrls.shape[1], spec.nu),  # nu may be 0
        )
        values = values.reshape(b, 1 + len(steps) * columns, -1)
        moved = self._difference(values[:, :1], values[:, 1:])  # (b, s columns, dy)
        moved = np.moveaxis(moved.reshape(b, len(steps), columns, moved.shape[-1]), 1, 0)
        h = taken[..., None]
        if len(steps) == 1:
            quotient = moved[0] / h[0]
        else:
            # Derivative at 0 of the parabola through (0, 0), (h0, moved0), (h1, moved1).
            quotient = (moved[0] * (h[1] / h[0]) - moved[1] * (h[0] / h[1])) / (h[1] - h[0])
        return np.swapaxes(quotient, 1, 2)

    def _steps(self, state: Array, ctrl: Array, eps: float, centered: bool) -> Array:
        """Signed sizes of the perturbations of each coordinate, (1 or 2, b, ndx + nu)."""
        spec = self._spec
        bounded = spec.na + spec.nu  # activations and controls come last among the coordinates
        value = np.concatenate([state[:, spec.nx - spec.na :], ctrl], axis=1)
        reach = (2.0 if centered else 1.0) * eps
        above, below = value > self._high, value < self._low
        # Inward at a bound, outward beyond it: no difference ever straddles a bound.
        down = below | (~above & (value + reach > self._high))
        up = above | (~below & (value - reach < self._low))
        h = np.full((2 if centered else 1, len(state), spec.ndx + spec.nu), eps)
        tail = slice(spec.ndx + spec.nu - bounded, None)
        h[0, :, tail] = np.where(down, -eps, eps)
        if centered:
            h[1] = -eps
            h[1, :, tail] = np.where(down, -2.0 * eps, np.where(up, 2.0 * eps, -eps))
        return h

    def _perturb(self, states: Array, ctrls: Array, h: Array) -> Array:
        """Perturb state j along tangent j, control j along j, in place; return the exact sizes."""
        spec = self._spec
        taken = h.copy()
        j, i = spec.euclidean_dx, spec.euclidean_x
        before = states[:, j, i]
        states[:, j, i] += h[:, j]
        taken[:, j] = states[:, j, i] - before
        for q, v in zip(spec.quaternion_x, spec.quaternion_dx, strict=True):
            tangent = np.zeros((len(h), 3, spec.ndx))
            tangent[:, np.arange(3), v] = h[:, v]
            states[:, v[:, None], q] = spec.retract(states[:, v], tangent)[..., q]
        u = np.arange(spec.nu)
        before = ctrls[:, u, u]
        ctrls[:, u, u] += h[:, spec.ndx :]
        taken[:, spec.ndx :] = ctrls[:, u, u] - before
        return taken
