"""Perceptrons of several seeds at once, their derivatives written out: for small networks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mbrl.errors import ArgumentError
from mbrl.nn.native_passes import NativePasses
from mbrl.nn.stacked_layers import Parameters, Stack, Tape, TorchPasses


class FlatMLP:
    r"""The shape of perceptrons with ReLUs, ``copies`` of them per seed, and what to do with them.

    .. math:: h_{i+1} = \max(h_i W_i + b_i, 0), \qquad \text{the last layer linear}

    Networks of some tens of units cost what calling torch costs, and optimisers more than networks.
    So all seeds are evaluated in one call, all their parameters lie in one tensor [S, P], for an
    optimiser to change in a few calls, and reverse and forward derivatives are written out, so that
    nothing is recorded that is not used. Small networks are evaluated by native code if it was
    compiled, all others by torch, in one batched product per layer. :meth:`apply` is the same
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
        stack = self._stack = Stack(tuple(widths), copies)
        self._torch = TorchPasses(stack)
        self._native = NativePasses(stack) if NativePasses.suit(stack) else None
        self.size = copies * stack.each

    @property
    def is_native(self) -> bool:
        """Whether it is evaluated by native code."""
        return self._native is not None

    def parameters(self, flat: Tensor) -> Parameters:
        """Return views of a matrix [S, P]."""
        return Parameters(flat, self._stack)

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
            for copy in range(seed * self._stack.copies, (seed + 1) * self._stack.copies):
                for layer, weights in enumerate(drawn.weights):
                    last = layer == len(drawn.weights) - 1
                    gain = last_gain if last else math.sqrt(2.0)
                    torch.nn.init.orthogonal_(weights[copy], gain, generator=generator)
        return drawn

    def forward(self, parameters: Parameters, value: Tensor) -> Tape:
        """[S, B, inputs] -> outputs [S * copies, B, outputs], copies of a seed next to each other.

        Nothing is recorded for torch's own differentiation.
        """
        return self._passes(value).forward(parameters, value)

    def output(self, parameters: Parameters, value: Tensor) -> Tensor:
        """Return the outputs of :meth:`forward`, where no derivative is wanted."""
        return self._passes(value).output(parameters, value)

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
        self._passes(cotangent).gradient(parameters, tape, cotangent, out)

    def input_gradient(self, parameters: Parameters, tape: Tape, cotangent: Tensor) -> Tensor:
        r"""Return :math:`\partial_x \langle v, f_\theta(x) \rangle`, [S, B, inputs].

        The copies' gradients are added. Arguments are those of :meth:`gradient`.
        """
        return self._passes(cotangent).input_gradient(parameters, tape, cotangent)

    def derivative(self, parameters: Parameters, tape: Tape, tangent: Parameters) -> Tensor:
        r"""Return :math:`\frac{d}{d\epsilon} f_{\theta + \epsilon z}(x)` at 0, [E, B, outputs].

        Args:
            parameters: of the forward pass.
            tape: the forward pass.
            tangent: z.
        """
        return self._passes(tape.output).derivative(parameters, tape, tangent)

    def apply(self, flat: Tensor, value: Tensor) -> Tensor:
        """Return the outputs of :meth:`forward` for parameters [S, P], differentiably."""
        parameters = self.parameters(flat)
        value = value.repeat_interleave(self._stack.copies, 0)
        for layer, (weight, bias) in enumerate(
            zip(parameters.weights, parameters.biases, strict=True)
        ):
            value = torch.baddbmm(bias, value.relu() if layer else value, weight)
        return value

    def _passes(self, value: Tensor) -> NativePasses | TorchPasses:
        native = self._native
        return native if native is not None and native.take(value) else self._torch
