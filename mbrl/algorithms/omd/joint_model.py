"""A learned model of next observations and rewards, for actions that are numbers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mbrl.nn import FlatMLP, Parameters, Tape


class JointPrediction(NamedTuple):
    """What a model makes of a batch."""

    following: Tensor  # (S, B, n): the next observations
    reward: Tensor  # (S, B)
    tape: Tape


class JointModel:
    r"""One network for both, :math:`(\hat s', \hat r) = f_\theta(s, a)`: nothing is normalised.

    Args:
        observation_size: n.
        action_size: nu.
        hidden_dim: width of both hidden layers.

    Attributes:
        network: the shape of theta.
    """

    def __init__(self, observation_size: int, action_size: int, *, hidden_dim: int):
        inputs, hidden = observation_size + action_size, (hidden_dim, hidden_dim)
        self.network = FlatMLP(inputs, observation_size + 1, hidden=hidden)

    def predict(self, theta: Parameters, inputs: Tensor) -> JointPrediction:
        """Predict from observations and actions [S, B, n + nu]."""
        tape = self.network.forward(theta, inputs)
        return JointPrediction(tape.output[..., :-1], tape.output[..., -1], tape)

    def gradient(
        self,
        theta: Parameters,
        prediction: JointPrediction,
        following: Tensor,
        reward: Tensor,
        out: Parameters,
    ) -> None:
        """Write what cotangents [S, B, n] and [S, B] of a prediction come to, by theta."""
        cotangent = torch.cat([following, reward[..., None]], -1)
        self.network.gradient(theta, prediction.tape, cotangent, out)
