"""The adjoint sweep: derivatives of a function of a whole rollout, backward through its steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from mbrl.errors import DivergenceError
from mbrl.physics.implicit import ImplicitDifference
from mbrl.types import Array, Linearization

if TYPE_CHECKING:
    from mbrl.physics.linearization import JacobianMethod

# Jacobians alive at once, and points of one call: enough to keep every thread busy.
_CHUNK_BYTES = 32 * 2**20
_CHUNK_POINTS = 4096


class Adjoint(NamedTuple):
    """Derivatives of a function of a rollout, all in tangent space."""

    state: Array  # (B, ndx), by the initial state
    ctrls: Array  # (T, B, nu), by the open-loop part of the controls


def adjoint(
    differentiate: JacobianMethod,
    states: Array,
    ctrls: Array,
    state_gradients: Array,
    ctrl_gradients: Array,
    gains: Array | None,
    *,
    eps: float | None,
    centered: bool,
) -> Adjoint:
    r"""Sweep backward through a rollout.

    Along :math:`dx_{t+1} = A_t dx_t + B_t du_t` with :math:`du_t = d\bar u_t + K_t dx_t` the
    derivatives of a function with partial derivatives :math:`\ell_{x_t}` and :math:`\ell_{u_t}`
    follow from :math:`\lambda_T = \ell_{x_T}` and

    .. math:: g_t = \ell_{u_t} + B_t^\top \lambda_{t+1}, \qquad
              \lambda_t = \ell_{x_t} + A_t^\top \lambda_{t+1} + K_t^\top g_t

    for t = T-1 ... 0: :math:`g_t` by :math:`\bar u_t`, :math:`\lambda_0` by the initial state
    (Bryson & Ho, "Applied Optimal Control", 1975, section 2.2). Steps are linearised in chunks of
    bounded memory; method "implicit" does it all in native code.

    Args:
        differentiate: the method, made for a model.
        states: x_0 ... x_{T-1}, [T, B, nx].
        ctrls: u_0 ... u_{T-1}, [T, B, nu].
        state_gradients: [T+1, B, ndx].
        ctrl_gradients: [T, B, nu].
        gains: K_t, [T, B, nu, ndx]; None: open loop.
        eps: size of the differences.
        centered: whether they are.

    Raises:
        DivergenceError: naming a step, and its rows whose simulation diverged.
    """
    batch, nu = ctrls.shape[1:]
    ndx = state_gradients.shape[2]
    points = min(_CHUNK_POINTS, _CHUNK_BYTES // (8 * ndx * (ndx + nu) or 1))
    arguments = states, ctrls, state_gradients, ctrl_gradients, gains
    try:
        if isinstance(differentiate, ImplicitDifference):
            found = differentiate.adjoint(*arguments, eps=eps, centered=centered, points=points)
        else:

            def linearize(state: Array, ctrl: Array) -> Linearization:
                return differentiate(state, ctrl, eps=eps, centered=centered)

            found = _recursion(linearize, *arguments, max(1, points // batch))
    except DivergenceError as error:
        step = max(error.rows, default=0) // batch
        try:  # by itself: with row numbers of its own batch
            differentiate(states[step], ctrls[step], eps=eps, centered=centered)
        except DivergenceError as alone:
            raise DivergenceError(f"step {step}: {alone}", alone.rows) from error
        raise
    return Adjoint(*found)


def _recursion(
    linearize: Callable[[Array, Array], Linearization],
    states: Array,
    ctrls: Array,
    state_gradients: Array,
    ctrl_gradients: Array,
    gains: Array | None,
    chunk: int,
) -> tuple[Array, Array]:
    """Sweep in chunks of so many steps; a DivergenceError names points of the T B ones."""
    steps, batch = ctrls.shape[:2]
    costate, gradients = state_gradients[-1].copy(), ctrl_gradients.copy()
    for end in range(steps, 0, -chunk):
        begin = max(0, end - chunk)
        try:
            jacobians = linearize(
                states[begin:end].reshape((end - begin) * batch, -1),
                ctrls[begin:end].reshape((end - begin) * batch, ctrls.shape[2]),
            )
        except DivergenceError as error:
            raise error.shifted(begin * batch) from error
        a, b = (matrix.reshape(end - begin, batch, *matrix.shape[1:]) for matrix in jacobians)
        for t in reversed(range(begin, end)):
            gradients[t] += _times(costate, b[t - begin])
            costate = state_gradients[t] + _times(costate, a[t - begin])
            if gains is not None:
                costate += _times(gradients[t], gains[t])
    return costate, gradients


def _times(rows: Array, matrices: Array) -> Array:
    """Products (B, n) (B, n, m) -> (B, m)."""
    products: Array = (rows[:, None] @ matrices)[:, 0]
    return products
