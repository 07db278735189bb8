"""Errors of Q-functions against given targets, and what they depend on."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from mbrl.nn import FlatMLP, Parameters, Tape


class TemporalDifference:
    r"""A regression of C networks per seed on the same targets.

    .. math:: L = \frac{\omega}{B} \sum_{i=1}^C \sum_b (Q_i(x_b) - y_b)^2

    The gradient of L by the networks' parameters is linear in the targets.

    Args:
        network: the shape of the networks.
        copies: C.
        weight: omega.

    Attributes:
        network: the same.
    """

    def __init__(self, network: FlatMLP, *, copies: int, weight: float):
        self.network, self._copies, self._weight = network, copies, weight

    def errors(self, tape: Tape, taken: Tensor | None, y: Tensor) -> Tensor:
        """Return Q_i - y, [S, C, B, outputs], zero but for the outputs that were taken.

        Args:
            tape: of the networks at x.
            taken: one-hot, [S, B, outputs]; None: all are.
            y: [S, B].
        """
        errors = self.apart(tape.output) - y[:, None, :, None]
        return errors if taken is None else errors.mul_(taken.unsqueeze(1))

    def loss(self, errors: Tensor) -> Tensor:
        """Return L of every seed, [S]."""
        return errors.square().sum((1, 2, 3)) * (self._weight / errors.shape[2])

    def loss_gradient(self, w: Parameters, tape: Tape, errors: Tensor, out: Parameters) -> None:
        """Write the gradient of L by w, y constant, to ``out``."""
        scaled = errors * (2 * self._weight / errors.shape[2])
        self.network.gradient(w, tape, scaled.flatten(0, 1), out)

    def cross_gradient(
        self, w: Parameters, tape: Tape, taken: Tensor | None, tangent: Parameters
    ) -> Tensor:
        r"""Return :math:`\partial_y \langle z, \nabla_w L \rangle`, [S, B].

        What multiplies -y in the gradient of L is the derivative of Q along z.

        Args:
            w: parameters.
            tape: of the networks at x.
            taken: as for :meth:`errors`.
            tangent: z.
        """
        moved = reduced(torch.add, self.apart(self.network.derivative(w, tape, tangent)), 1)
        if taken is not None:
            moved = moved * taken
        return reduced(torch.add, moved, -1) * (-2 * self._weight / moved.shape[1])

    def apart(self, output: Tensor) -> Tensor:
        """[S * C, B, outputs] -> [S, C, B, outputs]."""
        return output.view(-1, self._copies, *output.shape[1:])


def reduced(of_two: Callable[[Tensor, Tensor], Tensor], values: Tensor, axis: int) -> Tensor:
    """Reduce an axis of a few entries; torch's reductions would take longer than the networks."""
    return functools.reduce(of_two, values.unbind(axis))
