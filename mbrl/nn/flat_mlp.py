"""Perceptrons of several seeds at once, their derivatives written out: for small networks."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mbrl.errors import ArgumentError

_threshold_backward = torch.ops.aten.threshold_backward.grad_input


class Parameters:
    """Parameters of S seeds as one matrix, and what networks see of it.

    Attributes:
        flat: [S, P]. To be changed in place only: the others are views of it.
        weights: by layer, [S * copies, inputs, outputs] each.
        biases: by layer, [S * copies, 1, outputs] each.
    """

    def __init__(self, flat: Tensor, weights: list[Tensor], biases: list[Tensor]):
        self.flat, self.weights, self.biases = flat, weights, biases


class Tape(NamedTuple):
    """What a forward pass leaves for its derivatives; E = S * copies."""

    inputs: list[Tensor]  # of the layers, (E, B, width) each
    output: Tensor  # (E, B, outputs)


class FlatMLP:
    r"""The shape of perceptrons with ReLUs, ``copies`` of them per seed, and what to do with them.

    .. math:: h_{i+1} = \max(h_i W_i + b_i, 0), \qquad \text{the last layer linear}

    Networks of some tens of units cost what calling torch costs, and optimisers more than networks.
    So all seeds are evaluated in one batched product per layer, all their parameters lie in one
    tensor [S, P], for an optimiser to change in a few calls, and reverse and forward derivatives
    are written out, so that nothing is recorded that is not used. :meth:`apply` is the same
    function for torch to differentiate, to any order.

    Args:
        inputs: width of the input.
        outputs: width of the output.
        hidden: widths of the hidden layers.
        copies: networks of each seed, which share their input.

    Attributes:
        size: P, of all copies.

    Raises:
        ArgumentError: if a width is not positive.
    """

    def __init__(self, inputs: int, outputs: int, *, hidden: Sequence[int], copies: int = 1):
        widths = [inputs, *hidden, outputs]
        if min(*widths, copies) < 1:
            raise ArgumentError(f"widths and copies must be positive, got {widths} and {copies}")
        self._layers = list(itertools.pairwise(widths))
        self._copies = copies
        self._each = sum((before + 1) * after for before, after in self._layers)
        self.size = copies * self._each

    def parameters(self, flat: Tensor) -> Parameters:
        """Return views of a matrix [S, P]."""
        rows = flat.view(len(flat) * self._copies, self._each)
        weights, biases, first = [], [], 0
        for before, after in self._layers:
            last = first + before * after
            weights.append(rows[:, first:last].unflatten(1, (before, after)))
            biases.append(rows[:, last : last + after].unsqueeze(1))
            first = last + after
        return Parameters(flat, weights, biases)

    def zeros(self, seeds: int, dtype: torch.dtype) -> Parameters:
        """Return S times P zeros, for gradients."""
        return self.parameters(torch.zeros((seeds, self.size), dtype=dtype))

    def initial(
        self, generators: Sequence[torch.Generator], dtype: torch.dtype, *, last_gain: float
    ) -> Parameters:
        """Return orthogonal weights (Saxe et al. 2014) of gain sqrt(2), and biases of zero.

        Args:
            generators: of the seeds.
            dtype: precision.
            last_gain: gain of the last layer.
        """
        drawn = self.zeros(len(generators), dtype)
        for seed, generator in enumerate(generators):
            for copy in range(seed * self._copies, (seed + 1) * self._copies):
                for layer, weights in enumerate(drawn.weights):
                    last = layer == len(self._layers) - 1
                    gain = last_gain if last else math.sqrt(2.0)
                    torch.nn.init.orthogonal_(weights[copy], gain, generator=generator)
        return drawn

    def forward(self, parameters: Parameters, value: Tensor) -> Tape:
        """[S, B, inputs] -> outputs [S * copies, B, outputs], copies of a seed next to each other.

        Nothing is recorded for torch's own differentiation.
        """
        if self._copies > 1:
            value = value.repeat_interleave(self._copies, 0)
        inputs: list[Tensor] = []
        for weight, bias in zip(parameters.weights, parameters.biases, strict=True):
            if inputs:
                value.relu_()
            inputs.append(value)
            value = torch.baddbmm(bias, value, weight)
        return Tape(inputs, value)

    def gradient(
        self, parameters: Parameters, tape: Tape, cotangent: Tensor, out: Parameters
    ) -> None:
        r"""Write :math:`\partial_\theta \langle v, f_\theta(x) \rangle` to ``out``.

        Args:
            parameters: of the forward pass.
            tape: the forward pass.
            cotangent: v, [E, B, outputs].
            out: where the gradient goes.
        """
        for layer in reversed(range(len(self._layers))):
            # Not out=: only a product that lies in one piece is taken in one call.
            out.weights[layer].copy_(torch.bmm(tape.inputs[layer].mT, cotangent))
            torch.sum(cotangent, 1, keepdim=True, out=out.biases[layer])
            if layer:
                cotangent = self._pulled(parameters, tape, cotangent, layer)

    def input_gradient(self, parameters: Parameters, tape: Tape, cotangent: Tensor) -> Tensor:
        r"""Return :math:`\partial_x \langle v, f_\theta(x) \rangle`, [S, B, inputs].

        The copies' gradients are added. Arguments are those of :meth:`gradient`.
        """
        for layer in reversed(range(1, len(self._layers))):
            cotangent = self._pulled(parameters, tape, cotangent, layer)
        found = torch.bmm(cotangent, parameters.weights[0].mT)
        return found.view(-1, self._copies, *found.shape[1:]).sum(1)

    def derivative(self, parameters: Parameters, tape: Tape, tangent: Parameters) -> Tensor:
        r"""Return :math:`\frac{d}{d\epsilon} f_{\theta + \epsilon z}(x)` at 0, [E, B, outputs].

        Args:
            parameters: of the forward pass.
            tape: the forward pass.
            tangent: z.
        """
        moved: Tensor | None = None
        for layer, inputs in enumerate(tape.inputs):
            change = torch.baddbmm(tangent.biases[layer], inputs, tangent.weights[layer])
            if moved is not None:
                change.baddbmm_(_cut(moved, inputs), parameters.weights[layer])
            moved = change
        return change

    def apply(self, flat: Tensor, value: Tensor) -> Tensor:
        """Return the outputs of :meth:`forward` for parameters [S, P], differentiably."""
        parameters = self.parameters(flat)
        value = value.repeat_interleave(self._copies, 0)
        for layer, (weight, bias) in enumerate(
            zip(parameters.weights, parameters.biases, strict=True)
        ):
            value = torch.baddbmm(bias, value.relu() if layer else value, weight)
        return value

    def _pulled(self, parameters: Parameters, tape: Tape, cotangent: Tensor, layer: int) -> Tensor:
        """Return the cotangent of what comes out of the layer before this one."""
        return _cut(torch.bmm(cotangent, parameters.weights[layer].mT), tape.inputs[layer])


def _cut(value: Tensor, active: Tensor) -> Tensor:
    """Set ``value`` to zero where a ReLU's output ``active`` is, in place: one pass over memory."""
    return _threshold_backward(value, active, 0, grad_input=value)
