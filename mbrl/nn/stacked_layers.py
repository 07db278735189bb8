"""Layers of many perceptrons whose parameters are one matrix, and passes through them in torch."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray
from torch import Tensor

_threshold_backward = torch.ops.aten.threshold_backward.grad_input


@dataclass(frozen=True)
class Stack:
    """Perceptrons of the same widths, some of them per seed.

    Attributes:
        widths: of the input, the hidden layers and the output.
        copies: networks of each seed.
    """

    widths: tuple[int, ...]
    copies: int

    @property
    def layers(self) -> list[tuple[int, int]]:
        """Widths before and after each layer."""
        return list(itertools.pairwise(self.widths))

    @property
    def each(self) -> int:
        """How many parameters one network has."""
        return sum((before + 1) * after for before, after in self.layers)

    def pieces(self, flat: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Views of [S, P]: of every layer [S * copies, inputs, outputs] and [.., 1, outputs]."""
        rows, first = flat.view(len(flat) * self.copies, self.each), 0
        for before, after in self.layers:
            last = first + before * after
            weights = rows[:, first:last].unflatten(1, (before, after))
            yield weights, rows[:, last : last + after].unsqueeze(1)
            first = last + after


class Parameters:
    """Parameters of S seeds as one matrix, and what networks see of it.

    Attributes:
        flat: [S, P]. To be changed in place only: the others are views of it.
        weights: by layer, [S * copies, inputs, outputs] each.
        biases: by layer, [S * copies, 1, outputs] each.
        array: ``flat`` as NumPy sees it.
    """

    def __init__(self, flat: Tensor, stack: Stack):
        self.flat, self._stack = flat, stack

    @property
    def weights(self) -> list[Tensor]:  # noqa: D102 (an attribute)
        return self._pieces[0]

    @property
    def biases(self) -> list[Tensor]:  # noqa: D102 (an attribute)
        return self._pieces[1]

    @cached_property
    def array(self) -> NDArray[Any]:  # noqa: D102 (an attribute)
        found: NDArray[Any] = self.flat.detach().numpy()
        return found

    @cached_property
    def _pieces(self) -> tuple[list[Tensor], list[Tensor]]:
        weights, biases = zip(*self._stack.pieces(self.flat), strict=True)
        return list(weights), list(biases)


class Tape(NamedTuple):
    """What a forward pass leaves for its derivatives; E = S * copies."""

    record: Any  # what the passes that made it keep of the layers
    output: Tensor  # (E, B, outputs)


class TorchPasses:
    """Passes as batched products, one per layer; see :class:`~mbrl.nn.FlatMLP`."""

    def __init__(self, stack: Stack):
        self._copies, self._layers = stack.copies, len(stack.widths) - 1

    def forward(self, parameters: Parameters, value: Tensor) -> Tape:
        """[S, B, inputs] -> outputs [E, B, outputs]."""
        if self._copies > 1:
            value = value.repeat_interleave(self._copies, 0)
        inputs: list[Tensor] = []
        for weight, bias in zip(parameters.weights, parameters.biases, strict=True):
            if inputs:
                value.relu_()
            inputs.append(value)
            value = torch.baddbmm(bias, value, weight)
        return Tape(inputs, value)

    def output(self, parameters: Parameters, value: Tensor) -> Tensor:
        """Return the outputs alone."""
        return self.forward(parameters, value).output

    def gradient(
        self, parameters: Parameters, tape: Tape, cotangent: Tensor, out: Parameters
    ) -> None:
        """Write the gradient by the parameters to ``out``."""
        for layer in reversed(range(self._layers)):
            # Not out=: only a product that lies in one piece is taken in one call.
            out.weights[layer].copy_(torch.bmm(tape.record[layer].mT, cotangent))
            torch.sum(cotangent, 1, keepdim=True, out=out.biases[layer])
            if layer:
                cotangent = _pulled(parameters, tape, cotangent, layer)

    def input_gradient(self, parameters: Parameters, tape: Tape, cotangent: Tensor) -> Tensor:
        """Return the gradient by the input, [S, B, inputs]."""
        for layer in reversed(range(1, self._layers)):
            cotangent = _pulled(parameters, tape, cotangent, layer)
        found = torch.bmm(cotangent, parameters.weights[0].mT)
        return found.view(-1, self._copies, *found.shape[1:]).sum(1)

    def derivative(self, parameters: Parameters, tape: Tape, tangent: Parameters) -> Tensor:
        """Return the derivative along ``tangent``, [E, B, outputs]."""
        moved: Tensor | None = None
        for layer, inputs in enumerate(tape.record):
            change = torch.baddbmm(tangent.biases[layer], inputs, tangent.weights[layer])
            if moved is not None:
                change.baddbmm_(_cut(moved, inputs), parameters.weights[layer])
            moved = change
        return change


def _pulled(parameters: Parameters, tape: Tape, cotangent: Tensor, layer: int) -> Tensor:
    """Return the cotangent of what comes out of the layer before this one."""
    return _cut(torch.bmm(cotangent, parameters.weights[layer].mT), tape.record[layer])


def _cut(value: Tensor, active: Tensor) -> Tensor:
    """Set ``value`` to zero where a ReLU's output ``active`` is, in place: one pass over memory."""
    return _threshold_backward(value, active, 0, grad_input=value)
