"""Passes through many small perceptrons in native code, where it was compiled."""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from mbrl.nn.stacked_layers import Parameters, Stack, Tape

# Up to which width of a layer this is faster than torch.
_WIDEST = 128


def _load() -> ModuleType | None:
    try:
        return importlib.import_module("mbrl.nn._perceptron")
    except ImportError:  # without a compiler torch does the same, more slowly
        return None


_NATIVE = _load()


class NativePasses:
    """Passes that keep some rows of a batch in the processor's cache from layer to layer.

    The lanes of vectors are rows: widths of 1 or 33 waste none. Tensors that are returned have
    the rows next to each other in memory, those of a unit after those of another. Sums over rows
    are taken in a fixed order, and a seed's do not depend on other seeds. See
    :class:`~mbrl.nn.FlatMLP`.

    Args:
        stack: the networks.
        variant: of the code, for instructions of a processor; None: the best for this one.
    """

    def __init__(self, stack: Stack, variant: str | None = None):
        module: Any = _NATIVE
        self._stack, self._block = stack, module.BLOCK
        self._network = module.Network(stack.widths, stack.copies, variant or module.VARIANTS[0])

    @staticmethod
    def suit(stack: Stack) -> bool:
        """Whether there is native code, and it is faster."""
        return _NATIVE is not None and max(stack.widths) <= _WIDEST

    @staticmethod
    def take(value: Tensor) -> bool:
        """Whether tensors like this one can be used."""
        return value.dtype in (torch.float32, torch.float64) and value.device.type == "cpu"

    def forward(self, parameters: Parameters, value: Tensor) -> Tape:
        """[S, B, inputs] -> outputs [E, B, outputs]."""
        seeds, batch, _ = value.shape
        members, widths = seeds * self._stack.copies, self._stack.widths
        blocks = -(-batch // self._block)
        inputs = value.new_empty((seeds, blocks, widths[0], self._block))
        hidden = value.new_empty((members, blocks, sum(widths[1:-1]), self._block))
        output = value.new_empty((members, widths[-1], batch))
        self._network.forward(*map(_array, (parameters.flat, value, inputs, hidden, output)))
        return Tape([inputs, hidden], output.mT)

    def gradient(
        self, parameters: Parameters, tape: Tape, cotangent: Tensor, out: Parameters
    ) -> None:
        """Write the gradient by the parameters to ``out``."""
        given = parameters.flat, *tape.inputs, cotangent, out.flat
        self._network.gradient(*map(_array, given))

    def input_gradient(self, parameters: Parameters, tape: Tape, cotangent: Tensor) -> Tensor:
        """Return the gradient by the input, [S, B, inputs]."""
        members, batch, _ = cotangent.shape
        seeds = members // self._stack.copies
        found = cotangent.new_empty((seeds, self._stack.widths[0], batch))
        self._network.input_gradient(
            *map(_array, (parameters.flat, tape.inputs[1], cotangent, found))
        )
        return found.mT

    def derivative(self, parameters: Parameters, tape: Tape, tangent: Parameters) -> Tensor:
        """Return the derivative along ``tangent``, [E, B, outputs]."""
        found = torch.empty_like(tape.output.mT)
        given = parameters.flat, *tape.inputs, tangent.flat, found
        self._network.derivative(*map(_array, given))
        return found.mT


def _array(tensor: Tensor) -> Any:
    return tensor.detach().numpy()
