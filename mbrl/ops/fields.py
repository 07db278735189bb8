"""Quantities that MuJoCo derives from a state, as a differentiable torch op."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from mbrl.errors import ArgumentError, DivergenceError
from mbrl.ops.first_order import FirstOrderOp
from mbrl.physics import Simulator
from mbrl.types import Array, Linearization

# A power of two, so that most perturbations are exact: the best size for centred differences.
_EPS = 2.0**-20
# Perturbed states in one call: enough to keep every thread busy, of bounded memory.
_ROWS_PER_CALL = 8192


class MujocoFields(nn.Module):
    r"""Fields of ``MjData`` as functions :math:`\phi(x)` of the state, under zero control.

    ``mj_forward`` computes them, with nothing left over from an earlier step. Their Jacobian in
    tangent space comes from centred differences along the manifold,

    .. math:: J_{:j} = \frac{\phi(x \oplus h e_j) - \phi(x \oplus -h e_j)}{2h};

    reverse and forward mode and ``torch.func`` transforms work, any second derivative raises (see
    :class:`FirstOrderOp`). Forces of constraints get the difference of what the solver gives.

    Args:
        simulator: the simulator whose model is evaluated.
        names: names of MjData fields.

    Attributes:
        sizes: how many of the m numbers each field takes, in the order of ``names``.

    Raises:
        ArgumentError: if there is no name, or no such field.
    """

    def __init__(self, simulator: Simulator, names: Sequence[str]):
        super().__init__()
        if not names:
            raise ArgumentError("names must name at least one MjData field, got none")
        fields = _Fields(simulator, tuple(names))
        self.sizes = fields.sizes
        self._spec, self._op = simulator.spec, FirstOrderOp(fields)

    def forward(self, state: Tensor) -> Tensor:
        """Evaluate the fields at every row.

        Args:
            state: [B, nx] or [nx]; computed in float64 on the CPU.

        Returns:
            [B, m] or [m] float64 on the state's device, every field flattened.

        Raises:
            ArgumentError: on a wrong shape or a number that is not finite.
            DivergenceError: naming the rows that MuJoCo cannot make sense of.
            SecondDerivativeError: when a second derivative is taken.
        """
        spec = self._spec
        if state.shape[-1:] != (spec.nx,):
            raise ArgumentError(f"state must have width {spec.nx}, got shape {list(state.shape)}")
        rows = state.reshape(state.shape[:-1].numel(), spec.nx).to("cpu", torch.float64)
        values = self._op(rows, rows.new_zeros(len(rows), spec.nu))[:, spec.nx :]
        return values.reshape(*state.shape[:-1], sum(self.sizes)).to(state.device)


class _Fields:
    """The map x -> [x, fields]: a step that stays where it is, with the fields as extras."""

    def __init__(self, simulator: Simulator, names: tuple[str, ...]):
        self._simulator, self._names = simulator, names
        self.spec = spec = simulator.spec
        at_rest = spec.join(simulator.model.qpos0, np.zeros(spec.nv))[None]
        fields = simulator.fields(at_rest, names)
        self.sizes = tuple(math.prod(fields[name].shape[1:]) for name in names)
        self.extras = sum(self.sizes)

    def evaluate(self, state: Array, ctrl: Array, constants: Array | None) -> Array:
        return np.concatenate([state, self._values(state)], axis=1)

    def linearize(self, state: Array, ctrl: Array, constants: Array | None) -> Linearization:
        ndx = self.spec.ndx
        a = np.empty((len(state), ndx + self.extras, ndx))
        a[:, :ndx] = np.eye(ndx)
        chunk = max(1, _ROWS_PER_CALL // (2 * ndx))
        for start in range(0, len(state), chunk):
            part = slice(start, start + chunk)
            try:
                a[part, ndx:] = self._jacobian(state[part])
            except DivergenceError as error:
                at = sorted({start + row // (2 * ndx) for row in error.rows})
                raise DivergenceError(f"differencing states {at[:8]}: {error}", at) from error
        return Linearization(a, np.zeros((*a.shape[:2], self.spec.nu)))

    def _values(self, state: Array) -> Array:
        """[B, nx] -> [B, m]."""
        fields = self._simulator.fields(state, self._names)
        flat = [fields[name].reshape(len(state), -1) for name in self._names]
        return np.concatenate(flat, axis=1, dtype=np.float64)

    def _jacobian(self, state: Array) -> Array:
        """[b, nx] -> [b, m, ndx]."""
        spec = self.spec
        steps = _EPS * np.concatenate([np.eye(spec.ndx), -np.eye(spec.ndx)])
        moved = spec.retract(state[:, None], steps)  # (b, 2 ndx, nx)
        values = self._values(moved.reshape(-1, spec.nx)).reshape(len(state), 2, spec.ndx, -1)
        ahead, behind = moved[:, : spec.ndx], moved[:, spec.ndx :]
        # What is left of each step after rounding.
        span = np.diagonal(spec.difference(behind, ahead), axis1=1, axis2=2)  # (b, ndx)
        return np.swapaxes((values[:, 0] - values[:, 1]) / span[..., None], 1, 2)
