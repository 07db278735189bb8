"""Several perceptrons of one shape, evaluated together."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mbrl.errors import ArgumentError
from mbrl.nn.mlp import ACTIVATIONS, DTYPES, Activation, DType


class StackedLinear(nn.Module):
    r"""E affine maps, :math:`x^e W^e + b^e`, in one batched matrix product.

    Weights are Gaussian with deviation :math:`1 / (2 \sqrt{\mathrm{inputs}})`, cut at two of them,
    biases zero, as in the code of Chua et al. 2018.

    Args:
        members: E.
        inputs: width of the input.
        outputs: width of the output.
        generator: where the initial weights are drawn from.
        dtype: precision of the parameters.
    """

    def __init__(
        self, members: int, inputs: int, outputs: int, generator: torch.Generator, dtype: DType
    ):
        super().__init__()
        precision, sd = DTYPES[dtype], 0.5 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs, dtype=precision))
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs, dtype=precision))
        nn.init.trunc_normal_(self.weight, std=sd, a=-2 * sd, b=2 * sd, generator=generator)

    def forward(self, value: Tensor, members: Tensor | None = None) -> Tensor:
        """[m, B, inputs] -> [m, B, outputs], of all members or of those with these indices [m]."""
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        if members is not None:
            weight, bias = weight[members], bias[members]
        return torch.baddbmm(bias, value, weight)


class StackedMLP(nn.Module):
    r"""E multi-layer perceptrons, :math:`h^e_{i+1} = \sigma(h^e_i W^e_i + b^e_i)`, the last linear.

    Args:
        members: E.
        inputs: width of the input.
        outputs: width of the output.
        generator: where the initial weights are drawn from.
        hidden: widths of the hidden layers.
        activation: the nonlinearity.
        dtype: precision of the parameters.

    Raises:
        ArgumentError: if a number is not positive.
    """

    def __init__(
        self,
        members: int,
        inputs: int,
        outputs: int,
        generator: torch.Generator,
        *,
        hidden: Sequence[int],
        activation: Activation,
        dtype: DType = "float32",
    ):
        super().__init__()
        if members < 1:
            raise ArgumentError(f"members must be at least 1, got {members}")
        if any(width < 1 for width in hidden):
            raise ArgumentError(f"hidden must hold positive widths, got {list(hidden)}")
        widths = itertools.pairwise([inputs, *hidden, outputs])
        self.layers = nn.ModuleList(
            StackedLinear(members, before, after, generator, dtype) for before, after in widths
        )
        self.activation = ACTIVATIONS[activation]()

    def forward(self, value: Tensor, members: Tensor | None = None) -> Tensor:
        """[m, B, inputs] -> [m, B, outputs], of all members or of those with these indices [m]."""
        *hidden, last = self.layers
        for layer in hidden:
            value = self.activation(layer(value, members))
        result: Tensor = last(value, members)
        return result

    def weights(self) -> list[Tensor]:
        """Return the weights W by layer, [E, inputs, outputs] each."""
        return [layer.get_parameter("weight") for layer in self.layers]
