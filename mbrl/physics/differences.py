"""Finite differences of maps on states and controls, along the manifold, inside the bounds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mbrl.errors import DivergenceError
from mbrl.physics.state import StateSpec
from mbrl.types import Array, Linearization

# (states [N, nx], controls [N, m]) -> values [N, ny], every row by itself.
BatchedMap = Callable[[Array, Array], Array]
# (values [b, 1, ny], values [b, k, ny]) -> differences [b, k, dy].
Difference = Callable[[Array, Array], Array]
_ALL = slice(None)


class ManifoldDifference:
    r"""Jacobians of a map y = f(x, u), all perturbations of all rows in batched calls.

    .. math:: A_{:j} = (f(x \oplus h e_j, u) \ominus f(x, u)) / h, \qquad
              B_{:j} = (f(x, u + h e_j) \ominus f(x, u)) / h

    or, centred, the second-order quotient of two perturbations. At a control (or activation) bound
    differences point inward, so that an optimiser can leave the bound; beyond it the engine
    clamps, and the column is zero. The controls may be wider than the model's: whatever else the
    map depends on, such as parameters of the model, is differenced in the same way.

    Args:
        spec: the state space of x.
        evaluate: f, row by row.
        difference: how values are subtracted.
        low: lower bounds of [act, controls], (na + m).
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
        self,
        state: Array,
        ctrl: Array,
        *,
        eps: float | Array,
        centered: bool = False,
        wanted: slice = _ALL,
    ) -> Linearization:
        """Differentiate at states [B, nx] and controls [B, m].

        Args:
            state: [B, nx].
            ctrl: [B, m].
            eps: sizes of the differences, a number or [B, ndx + m].
            centered: second-order differences.
            wanted: the coordinates among [dx, controls] to differentiate, in one piece: those of
                the state all or not at all.

        Returns:
            A [B, dy, ndx] and B [B, dy, m], of the wanted columns.

        Raises:
            DivergenceError: naming the rows whose perturbations diverged.
        """
        first, stop, _ = wanted.indices(self._spec.ndx + ctrl.shape[1])
        columns = range(first, stop)
        rows = 1 + len(columns) * (2 if centered else 1)
        chunk = max(1, self._rows_per_call // rows)
        parts = []
        for start in range(0, len(state), chunk):
            part = slice(start, start + chunk)
            sizes = eps if isinstance(eps, float) else eps[part]
            try:
                parts.append(self._quotients(state[part], ctrl[part], sizes, centered, columns))
            except DivergenceError as error:
                at = sorted({start + row // rows for row in error.rows})
                raise DivergenceError(f"linearising states {at[:8]}: {error}", at) from error
        jacobian = parts[0] if len(parts) == 1 else np.concatenate(parts)
        moved = self._state_columns(columns)
        return Linearization(
            np.ascontiguousarray(jacobian[:, :, :moved]),
            np.ascontiguousarray(jacobian[:, :, moved:]),
        )

    def _quotients(
        self, state: Array, ctrl: Array, eps: float | Array, centered: bool, columns: range
    ) -> Array:
        """Return [A B] of one chunk, (b, dy, columns)."""
        steps = self._steps(state, ctrl, eps, centered)[:, :, columns.start : columns.stop]
        b, count = len(state), len(columns)
        # Row 0 is the centre, row 1 + k count + j the k-th perturbation of the j-th column.
        states = np.repeat(state[:, None], 1 + len(steps) * count, axis=1)
        ctrls = np.repeat(ctrl[:, None], 1 + len(steps) * count, axis=1)
        taken = np.empty_like(steps)  # (s, b, count)
        moved = self._state_columns(columns)
        into = columns.start - self._spec.ndx + moved  # the first control to perturb
        for k, h in enumerate(steps):
            start = 1 + k * count
            middle, stop = start + moved, start + count
            taken[k] = h
            if moved:
                self._perturb_states(states[:, start:middle], taken[k, :, :moved])
            self._perturb_controls(ctrls[:, middle:stop, into:], taken[k, :, moved:])
        values = self._evaluate(
            states.reshape(-1, self._spec.nx),
            ctrls.reshape(b * ctrls.shape[1], ctrls.shape[2]),  # there may be no control
        )
        values = values.reshape(b, 1 + len(steps) * count, -1)
        change = self._difference(values[:, :1], values[:, 1:])  # (b, s count, dy)
        change = np.moveaxis(change.reshape(b, len(steps), count, change.shape[-1]), 1, 0)
        h = taken[..., None]
        if len(steps) == 1:
            quotient = change[0] / h[0]
        else:
            # Derivative at 0 of the parabola through (0, 0), (h0, change0), (h1, change1).
            quotient = (change[0] * (h[1] / h[0]) - change[1] * (h[0] / h[1])) / (h[1] - h[0])
        return np.swapaxes(quotient, 1, 2)

    def _state_columns(self, columns: range) -> int:
        """How many of the columns are those of the state."""
        return self._spec.ndx if columns.start == 0 else 0

    def _steps(self, state: Array, ctrl: Array, eps: float | Array, centered: bool) -> Array:
        """Signed sizes of the perturbations of each coordinate, (1 or 2, b, ndx + m)."""
        spec = self._spec
        h = np.empty((2 if centered else 1, len(state), spec.ndx + ctrl.shape[1]))
        h[0] = eps
        # Activations and controls come last among the coordinates.
        value = np.concatenate([state[:, spec.nx - spec.na :], ctrl], axis=1)
        tail = slice(spec.ndx - spec.na, None)
        size = h[0, :, tail].copy()
        reach = (2.0 if centered else 1.0) * size
        above, below = value > self._high, value < self._low
        # Inward at a bound, outward beyond it: no difference ever straddles a bound.
        down = below | (~above & (value + reach > self._high))
        up = above | (~below & (value - reach < self._low))
        h[0, :, tail] = np.where(down, -size, size)
        if centered:
            h[1] = -eps
            h[1, :, tail] = np.where(down, -2.0 * size, np.where(up, 2.0 * size, -size))
        return h

    def _perturb_states(self, states: Array, h: Array) -> None:
        """Move row j of states [b, ndx, nx] along tangent j; make h [b, ndx] the exact sizes."""
        spec = self._spec
        j, i = spec.euclidean_dx, spec.euclidean_x
        before = states[:, j, i]
        states[:, j, i] += h[:, j]
        h[:, j] = states[:, j, i] - before
        for q, v in zip(spec.quaternion_x, spec.quaternion_dx, strict=True):
            tangent = np.zeros((len(h), 3, spec.ndx))
            tangent[:, np.arange(3), v] = h[:, v]
            states[:, v[:, None], q] = spec.retract(states[:, v], tangent)[..., q]

    @staticmethod
    def _perturb_controls(ctrls: Array, h: Array) -> None:
        """Add h [b, k] to the diagonal of ctrls [b, k, k or more]; make h the exact sizes."""
        j = np.arange(h.shape[1])
        before = ctrls[:, j, j]
        ctrls[:, j, j] += h
        h[:] = ctrls[:, j, j] - before
