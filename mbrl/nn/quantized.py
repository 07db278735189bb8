"""Rollouts of many candidates through a perceptron in eight bits: rough, and much faster."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mbrl.errors import ArgumentError
from mbrl.nn.folding import FoldedMLP
from mbrl.nn.mlp_dynamics import MLPDynamics

# So many copies of every input, each rounded at its own offset, resolve it as finely as that many
# times 255 levels would; one multiplies their sum.
INPUT_COPIES = 4
# What is met beyond the ranges of the calibration by less than this factor is still told apart.
MARGIN = 1.25
_LEVELS, _LARGEST_WEIGHT = 255, 127
_ROWS_PER_CORE = 1024  # bytes: four times as many as of float32 stay in the cache


class _Layer(NamedTuple):
    """A layer of bytes: y = scale * (W q) + b with a scale for every output."""

    weight: Tensor  # as oneDNN packs it
    scale: Tensor
    zero: Tensor
    bias: Tensor

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor) -> _Layer:
        """Round weights [outputs, inputs], each output's by its largest."""
        largest = weight.abs().amax(1)
        scale = torch.where(largest > 0, largest, 1.0) / _LARGEST_WEIGHT
        rounded = (weight / scale[:, None]).round().to(torch.int8).contiguous()
        zero = torch.zeros(len(weight), dtype=torch.int32)
        return cls(torch.ops.onednn.qlinear_prepack(rounded, None), scale, zero, bias)

    def product(self, value: Tensor, dtype: torch.dtype, after: str) -> Tensor:
        """Bytes [B, inputs] -> [B, outputs] in ``dtype``; ``after`` is applied to y: relu, none."""
        found: Tensor = torch.ops.onednn.qlinear_pointwise(
            value, 1.0, 0, *self[:3], self.bias, 1.0, 0, dtype, after, [], ""
        )
        return found


class QuantizedMLP(FoldedMLP):
    r"""A snapshot of a ReLU perceptron whose weights and activations have eight bits.

    .. math:: q_{l+1} = \operatorname{round} \Big[ \frac{255}{m_{l+1}} \odot
              \Big( W_l \big( \tfrac{m_l}{255} \odot q_l \big) + b_l \Big) \Big]_0^{255}

    where :math:`m_l` is the largest value of every unit in a calibration: a ReLU commutes with
    positive factors, so that each unit has a scale of its own at no cost. Weights are rounded per
    output. States and biases stay in float32, and inputs are resolved by ``INPUT_COPIES`` times
    255 levels. What is computed this way is fit to tell poor candidates from promising ones,
    not more: see ``RandomShooting``'s ``finalists``. The products are those of oneDNN.

    Args:
        model: the model.
        state: where typical rollouts begin, [N, n]; their ranges are what is calibrated for.
        actions: of the same, [T, N, nu].

    Raises:
        ArgumentError: if the model is no ReLU perceptron of float32 on the CPU.
    """

    def __init__(self, model: MLPDynamics, state: Tensor, actions: Tensor):
        super().__init__(model)
        if not is_quantizable(model):
            raise ArgumentError(
                "only a perceptron of ReLUs in float32 on the CPU can have eight bits, got a "
                f"{type(model).__name__} of {model.input_mean.dtype} on {model.input_mean.device}"
            )
        actions = actions.to(self._like)
        states = FoldedMLP(model).rollout(state, actions).states[:-1].flatten(0, 1)
        low, high, largest = self._ranges(states, actions.flatten(0, 1))
        self._rows_at_once = _ROWS_PER_CORE * torch.get_num_threads()
        step = (high - low).clamp(min=1e-6) * (MARGIN / _LEVELS)
        least = 0.5 * (low + high) - 0.5 * _LEVELS * step
        self._per_step = 1 / step
        # Truncated, copy k of x is floor((x - least) / step + (k + 1/2) / K).
        offsets = (torch.arange(INPUT_COPIES) + 0.5) / INPUT_COPIES
        self._offsets = offsets[:, None] - least * self._per_step
        self._layers = self._packed(least, step, largest)

    def _packed(self, least: Tensor, step: Tensor, largest: list[Tensor]) -> list[_Layer]:
        """Return the layers, of inputs [least, least + 255 step] and units of [0, largest]."""
        weights = [weight.T for weight in self._weights]  # [outputs, inputs]
        biases = [self._biases[0] + weights[0] @ least, *self._biases[1:]]
        weights[0] = (weights[0] * step / INPUT_COPIES).repeat(1, INPUT_COPIES)
        for layer, values in enumerate(largest):
            unit = torch.where(values > 0, values, 1.0) * (MARGIN / _LEVELS)
            weights[layer] = weights[layer] / unit[:, None]
            biases[layer] = biases[layer] / unit
            weights[layer + 1] = weights[layer + 1] * unit
        return [_Layer.of(weight, bias) for weight, bias in zip(weights, biases, strict=True)]

    @torch.no_grad()
    def _ranges(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Return least and largest features [F], and largest values of all hidden layers' units."""
        value = self._features(state, action, self._like.new_empty(len(state), self._widths[0]))
        low, high, largest = value.amin(0), value.amax(0), []
        for weight, bias in zip(self._weights[:-1], self._biases[:-1], strict=True):
            value = torch.addmm(bias, value, weight).relu_()
            largest.append(value.amax(0))
        return low, high, largest

    def _change(self, state: Tensor, action: Tensor, buffers: list[Tensor]) -> Tensor:
        """See :class:`FoldedMLP`."""
        seen = self._features(state, action, buffers[0][: len(state)])
        levels = torch.addcmul(self._offsets, seen[:, None, :], self._per_step)
        value = levels.clamp_(0, _LEVELS).to(torch.uint8).flatten(1)
        for layer in self._layers[:-1]:
            value = layer.product(value, torch.uint8, "relu")
        return self._layers[-1].product(value, torch.float32, "none")


def is_quantizable(model: MLPDynamics) -> bool:
    """Return whether there can be a :class:`QuantizedMLP` of a model."""
    activations = {type(layer) for layer in model.network if not isinstance(layer, nn.Linear)}
    like = model.input_mean
    return activations == {nn.ReLU} and like.dtype == torch.float32 and like.device.type == "cpu"
