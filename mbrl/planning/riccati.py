"""The backward pass of iLQR: Riccati's recursion with bounds on the controls."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mbrl.planning.box_qp import box_qp, solve_free
from mbrl.types import Array


def _load() -> ModuleType | None:
    try:
        return importlib.import_module("mbrl.planning._riccati")
    except ImportError:  # without a compiler NumPy does the same, more slowly
        return None


_NATIVE = _load()


class LocalModel(NamedTuple):
    """Linear dynamics and quadratic costs along B trajectories of T steps, in tangent space.

    xx, uu and final_xx are symmetric.
    """

    a: Array  # (T, B, ndx, ndx)
    b: Array  # (T, B, ndx, nu)
    x: Array  # (T, B, ndx)
    u: Array  # (T, B, nu)
    xx: Array  # (T, B, ndx, ndx)
    ux: Array  # (T, B, nu, ndx)
    uu: Array  # (T, B, nu, nu)
    final_x: Array  # (B, ndx)
    final_xx: Array  # (B, ndx, ndx)

    def rows(self, rows: NDArray[np.bool_]) -> LocalModel:
        """Return those of some rows of the batch."""
        steps, final = self[:-2], self[-2:]
        return LocalModel(*(part[:, rows] for part in steps), *(part[rows] for part in final))


class BackwardPass(NamedTuple):
    r"""A policy :math:`du_t = \alpha k_t + K_t dx_t`, and what it promises.

    A step of length alpha promises the decrease :math:`-\alpha d_1 - \tfrac12 \alpha^2 d_2`.
    """

    k: Array  # (T, B, nu)
    gains: Array  # (T, B, nu, ndx)
    linear: Array  # d1, (B)
    quadratic: Array  # d2, (B)
    good: NDArray[np.bool_]  # (B): whether every Q_uu was positive definite; else all is zero

    def rows(self, rows: NDArray[np.bool_]) -> BackwardPass:
        """Return those of some rows of the batch."""
        return BackwardPass(
            self.k[:, rows],
            self.gains[:, rows],
            self.linear[rows],
            self.quadratic[rows],
            self.good[rows],
        )

    def with_rows(self, rows: NDArray[np.bool_], other: BackwardPass) -> BackwardPass:
        """Return the same with the results of ``other`` in those rows."""
        result = BackwardPass(
            self.k.copy(),
            self.gains.copy(),
            self.linear.copy(),
            self.quadratic.copy(),
            self.good.copy(),
        )
        result.k[:, rows], result.gains[:, rows] = other.k, other.gains
        result.linear[rows], result.quadratic[rows] = other.linear, other.quadratic
        result.good[rows] = other.good
        return result


def backward_pass(
    local: LocalModel,
    low: Array,
    high: Array,
    regularization: Array,
    start: Array,
    *,
    of_state: bool = False,
) -> BackwardPass:
    r"""Solve the local problem backward in time.

    .. math:: Q_x = \ell_x + A^\top V_x, \quad Q_u = \ell_u + B^\top V_x, \quad
              Q_{uu} = \ell_{uu} + B^\top V_{xx} B, \quad Q_{ux} = \ell_{ux} + B^\top V_{xx} A

    k minimises :math:`\tfrac12 k^\top \tilde Q_{uu} k + Q_u^\top k` within the bounds, and
    :math:`K = -\tilde Q_{uu}^{-1} \tilde Q_{ux}` on the entries that no bound holds, zero on the
    others (Tassa, Mansard & Todorov 2014, sections II and III). The tilde adds mu I to Q_uu, or to
    V_xx in both Q_uu and Q_ux (Tassa, Erez & Todorov 2012, section II-F): then it is deviations of
    the next state that cost, not of the control. The value's update has no tilde:

    .. math:: V_x = Q_x + K^\top (Q_{uu} k + Q_u) + Q_{ux}^\top k, \quad
              V_{xx} = Q_{xx} + K^\top Q_{uu} K + Q_{ux}^\top K + K^\top Q_{ux}

    Args:
        local: the local problem.
        low: lower bounds of du, [T, B, nu].
        high: upper bounds of du, [T, B, nu].
        regularization: mu, [B].
        start: guesses of k, [T, B, nu].
        of_state: whether mu is added to V_xx.
    """
    if _NATIVE is None:
        return reference_pass(local, low, high, regularization, start, of_state=of_state)
    return BackwardPass(
        *_NATIVE.backward_pass(*local, low, high, regularization, start, of_state=of_state)
    )


def reference_pass(
    local: LocalModel,
    low: Array,
    high: Array,
    regularization: Array,
    start: Array,
    *,
    of_state: bool = False,
) -> BackwardPass:
    """Return what :func:`backward_pass` does, in NumPy."""
    steps, batch, nu = local.u.shape
    ndx = local.x.shape[2]
    k, gains = np.zeros((steps, batch, nu)), np.zeros((steps, batch, nu, ndx))
    linear, quadratic = np.zeros(batch), np.zeros(batch)
    rows = np.arange(batch)  # that have not failed
    value_x: Array = local.final_x[:, :, None]
    value_xx: Array = local.final_xx
    for t in range(steps - 1, -1, -1):
        a, b = local.a[t], local.b[t]
        at, bt = a.swapaxes(1, 2), b.swapaxes(1, 2)
        va, vb = value_xx @ a, value_xx @ b
        q_x = local.x[t, :, :, None] + at @ value_x
        q_u = local.u[t, :, :, None] + bt @ value_x
        q_xx, q_uu = local.xx[t] + at @ va, _symmetric(local.uu[t] + bt @ vb)
        q_ux = local.ux[t] + bt @ va
        mu = regularization[:, None, None]
        if of_state:
            tilde_uu, tilde_ux = q_uu + mu * _symmetric(bt @ b), q_ux + mu * (bt @ a)
        else:
            tilde_uu, tilde_ux = q_uu + mu * np.eye(nu), q_ux
        good = _positive_definite(tilde_uu)
        if not good.all():
            tilde_uu = np.where(good[:, None, None], tilde_uu, np.eye(nu))
        solution = box_qp(tilde_uu, q_u[:, :, 0], low[t], high[t], start[t])
        feedback = -solve_free(tilde_uu, tilde_ux, solution.free)
        step = solution.d[:, :, None]
        k[t, rows], gains[t, rows] = solution.d, feedback
        curved = q_uu @ step
        linear[rows] += (step * q_u).sum(axis=(1, 2))
        quadratic[rows] += (step * curved).sum(axis=(1, 2))
        kt = feedback.swapaxes(1, 2)
        value_x = q_x + kt @ (curved + q_u) + q_ux.swapaxes(1, 2) @ step
        cross = kt @ q_ux
        value_xx = _symmetric(q_xx + kt @ (q_uu @ feedback) + cross + cross.swapaxes(1, 2))
        good &= solution.solved
        if not good.all():
            rows, value_x, value_xx = rows[good], value_x[good], value_xx[good]
            local, regularization = local.rows(good), regularization[good]
            low, high, start = low[:, good], high[:, good], start[:, good]
    failed = np.ones(batch, dtype=bool)
    failed[rows] = False
    for part in (k, gains):
        part[:, failed] = 0.0
    for total in (linear, quadratic):
        total[failed] = 0.0
    return BackwardPass(k, gains, linear, quadratic, ~failed)


def _symmetric(matrix: Array) -> Array:
    result: Array = 0.5 * (matrix + matrix.swapaxes(1, 2))
    return result


def _positive_definite(h: Array) -> NDArray[np.bool_]:
    """Whether matrices [B, n, n] are finite and positive definite beyond rounding."""
    try:
        pivots = np.einsum("bii->bi", np.linalg.cholesky(h)) ** 2
    except np.linalg.LinAlgError:
        if len(h) == 1:
            return np.zeros(1, dtype=bool)
        return np.concatenate([_positive_definite(row[None]) for row in h])
    least = h.shape[1] * np.finfo(np.float64).eps * np.einsum("bii->bi", h)
    return np.asarray(np.isfinite(h).all(axis=(1, 2)) & (pivots > least).all(axis=1))
