"""Multi-layer perceptrons with explicit random initialisation."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from mbrl.errors import ArgumentError

Activation = Literal["tanh", "relu", "leaky_relu", "silu", "elu"]
DType = Literal["float32", "float64"]

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "silu": nn.SiLU,
    "elu": nn.ELU,
}
DTYPES = {"float32": torch.float32, "float64": torch.float64}


class MLP(nn.Sequential):
    r"""Fully connected layers :math:`h_{i+1} = \sigma(W_i h_i + b_i)`, the last one linear.

    Weights are Glorot-uniform, biases zero.

    Args:
        inputs: width of the input.
        outputs: width of the output.
        generator: where the initial weights are drawn from.
        hidden: widths of the hidden layers.
        activation: the nonlinearity.
        output_scale: factor on the last layer's initial weights.
        dtype: precision of the parameters.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        generator: torch.Generator,
        *,
        hidden: Sequence[int] = (64, 64),
        activation: Activation = "tanh",
        output_scale: float = 1.0,
        dtype: DType = "float32",
    ):
        if any(width < 1 for width in hidden):
            raise ArgumentError(f"hidden must hold positive widths, got {list(hidden)}")
        widths = [inputs, *hidden, outputs]
        layers: list[nn.Module] = []
        for i, (before, after) in enumerate(itertools.pairwise(widths)):
            linear = nn.Linear(before, after, dtype=DTYPES[dtype])
            nn.init.xavier_uniform_(linear.weight, generator=generator)
            nn.init.zeros_(linear.bias)
            layers.append(linear)
            if i < len(hidden):
                layers.append(ACTIVATIONS[activation]())
        with torch.no_grad():
            layers[-1].weight.mul_(output_scale)  # type: ignore[operator]
        super().__init__(*layers)

    def forward(self, value: Tensor) -> Tensor:
        """[..., inputs] of any floating dtype -> [..., outputs] in the parameters' dtype."""
        return super().forward(value.to(self[0].weight.dtype))  # type: ignore[arg-type]
