"""Deterministic dynamics: one perceptron, trained by least squares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mbrl.nn.dynamics_model import DynamicsModel
from mbrl.nn.mlp import MLP, Activation, DType


class MLPDynamics(DynamicsModel):
    r"""f is an MLP; the loss is the mean of :math:`(f(z) - y)^2` over batch and dimensions.

    The network of Nagabandi et al. 2018 (arXiv:1708.02596, section IV-A). Without hidden layers the
    dynamics are affine.

    Args:
        state_size: n.
        action_size: nu.
        generator: where initial weights are drawn from: Glorot-uniform, biases zero.
        hidden: widths of the hidden layers.
        activation: the nonlinearity.
        reward: whether the reward is predicted, too.
        ignored: entries of the state that the network does not see.
        angles: entries of the state of which it sees cosine and sine.
        dtype: precision of the network.
    """

    def __init__(
        self,
        state_size: int,
        action_size: int,
        generator: torch.Generator,
        *,
        hidden: Sequence[int] = (500, 500),
        activation: Activation = "relu",
        reward: bool = False,
        ignored: Sequence[int] = (),
        angles: Sequence[int] = (),
        dtype: DType = "float32",
    ):
        super().__init__(
            state_size, action_size, reward=reward, ignored=ignored, angles=angles, dtype=dtype
        )
        self.network = MLP(
            self.feature_size,
            self.output_size,
            generator,
            hidden=hidden,
            activation=activation,
            dtype=dtype,
        )

    def mean(self, inputs: Tensor) -> Tensor:
        """See :class:`DynamicsModel`."""
        outputs: Tensor = self.network(inputs)
        return outputs

    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """See :class:`DynamicsModel`."""
        return (self.mean(inputs) - targets).square().mean((1, 2))

    def squared_errors(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """See :class:`DynamicsModel`."""
        return (self.mean(inputs) - targets).square().sum(-1)[None]

    def by_member(self) -> Mapping[str, Tensor]:
        """See :class:`DynamicsModel`."""
        return {name: part.detach()[None] for name, part in self.named_parameters()}
