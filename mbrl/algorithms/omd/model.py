"""A learned model of next observations and rewards, for discrete actions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mbrl.nn import FlatMLP, Parameters, Tape

_LOG_STD = -5.0, 2.0  # the bounds of a predicted deviation's logarithm


class ModelParameters(NamedTuple):
    """Parameters theta of S seeds: one matrix, and its parts."""

    flat: Tensor  # (S, P)
    state: Parameters
    reward: Parameters


class Prediction(NamedTuple):
    """What a model makes of a batch."""

    following: Tensor  # (S, B, n): the next observations; sampled, if the model is probabilistic
    reward: Tensor  # (S, B)
    state_tape: Tape
    reward_tape: Tape
    noise: Tensor | None  # (S, B, n): what was sampled with


class Model:
    r"""Two networks: the next observation, as it is, and the reward, of observation and action.

    .. math:: \hat s' = f_\theta(s, e_a) \quad \text{or} \quad
              \hat s' = f_\theta(s, e_a) + \sigma_\theta(s, e_a) \xi,\ \xi \sim N(0, I), \qquad
              \hat r = g_\theta(s, e_a)

    Args:
        observation_size: n.
        actions: how many there are, A.
        hidden: widths of the hidden layers, of each network.
        probabilistic: whether a deviation is predicted; its logarithm is clipped to [-5, 2].
    """

    def __init__(
        self, observation_size: int, actions: int, *, hidden: Sequence[int], probabilistic: bool
    ):
        self._size, self._probabilistic = observation_size, probabilistic
        outputs = 2 * observation_size if probabilistic else observation_size
        self._state = FlatMLP(observation_size + actions, outputs, hidden=hidden)
        self._reward = FlatMLP(observation_size + actions, 1, hidden=hidden)

    @property
    def is_native(self) -> bool:
        """Whether it is evaluated by native code."""
        return self._state.is_native and self._reward.is_native

    def parameters(self, flat: Tensor) -> ModelParameters:
        """Return views of a matrix [S, P]."""
        state, reward = flat.split([self._state.size, self._reward.size], 1)
        return ModelParameters(flat, self._state.parameters(state), self._reward.parameters(reward))

    def initial(
        self, generators: Sequence[torch.Generator], dtype: torch.dtype, *, last_gain: float
    ) -> ModelParameters:
        """Return orthogonal weights; see :meth:`FlatMLP.initial`."""
        state, reward = (
            network.initial(generators, dtype, last_gain=last_gain).flat
            for network in (self._state, self._reward)
        )
        return self.parameters(torch.cat([state, reward], 1))

    def predict(
        self, theta: ModelParameters, inputs: Tensor, noise: Tensor | None = None
    ) -> Prediction:
        """Predict from observations and one-hot actions [S, B, n + A].

        Args:
            theta: parameters.
            inputs: as above.
            noise: standard normal, [S, B, n]; for a probabilistic model.
        """
        state = self._state.forward(theta.state, inputs)
        reward = self._reward.forward(theta.reward, inputs)
        following = state.output
        if noise is not None:
            mean, log_std = self._moments(state.output)
            following = mean + log_std.exp() * noise
        return Prediction(following, reward.output[..., 0], state, reward, noise)

    def gradient(
        self,
        theta: ModelParameters,
        prediction: Prediction,
        following: Tensor,
        reward: Tensor | None,
        out: ModelParameters,
    ) -> None:
        """Write what cotangents of a prediction come to, by theta, to ``out``.

        Args:
            theta: parameters of the prediction.
            prediction: the prediction.
            following: cotangent of the next observations, [S, B, n].
            reward: that of the rewards, [S, B]; None: zero, ``out`` is zero there already.
            out: where the gradient goes.
        """
        if prediction.noise is not None:
            log_std = self._moments(prediction.state_tape.output)[1]
            slope = following * prediction.noise * log_std.exp()
            following = torch.cat([following, slope * self._inside(prediction)], -1)
        self._state.gradient(theta.state, prediction.state_tape, following, out.state)
        if reward is not None:
            self.reward_gradient(theta, prediction, reward, out)

    def likelihood_gradient(
        self,
        theta: ModelParameters,
        prediction: Prediction,
        following: Tensor,
        out: ModelParameters,
    ) -> None:
        r"""Write the gradient of the loss of maximum likelihood by theta's state part to ``out``.

        .. math:: \frac1B \sum_b |s'_b - \hat s'_b|^2 \quad \text{or, of a probabilistic model,}
                  \quad -\frac1B \sum_b \log p_\theta(s'_b)

        Args:
            theta: parameters of the prediction.
            prediction: the prediction.
            following: the next observations s' that were met, [S, B, n].
            out: where the gradient goes.
        """
        batch = following.shape[1]
        if self._probabilistic:
            mean, log_std = self._moments(prediction.state_tape.output)
            scaled = (mean - following) / log_std.exp()
            slope = (1 - scaled.square()) * self._inside(prediction)
            cotangent = torch.cat([scaled / log_std.exp(), slope], -1) / batch
        else:
            cotangent = (prediction.state_tape.output - following) * (2 / batch)
        self._state.gradient(theta.state, prediction.state_tape, cotangent, out.state)

    def reward_gradient(
        self,
        theta: ModelParameters,
        prediction: Prediction,
        reward: Tensor,
        out: ModelParameters,
    ) -> None:
        """Write what a cotangent [S, B] of the rewards comes to, by theta, to ``out``."""
        self._reward.gradient(theta.reward, prediction.reward_tape, reward[..., None], out.reward)

    def nll(self, prediction: Prediction, following: Tensor) -> Tensor:
        """Return the mean of -log p(s'), [S]; a deterministic model counts as of deviation one."""
        output = prediction.state_tape.output
        mean, log_std = self._moments(output)
        scaled = (following - mean) / log_std.exp()
        each = 0.5 * scaled.square() + log_std + 0.5 * math.log(2 * math.pi)
        return each.sum(-1).mean(-1)

    def squared_error(self, prediction: Prediction, following: Tensor) -> Tensor:
        """Return the mean squared distance of s' from the predicted mean, [S]."""
        mean, _ = self._moments(prediction.state_tape.output)
        return (mean - following).square().sum(-1).mean(-1)

    def _moments(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and logarithm of the deviation, [S, B, n] each."""
        if not self._probabilistic:
            return output, torch.zeros_like(output)
        mean, log_std = output.split(self._size, -1)
        return mean, log_std.clamp(*_LOG_STD)

    def _inside(self, prediction: Prediction) -> Tensor:
        """Where the logarithm of the deviation is not clipped, [S, B, n]."""
        log_std = prediction.state_tape.output[..., self._size :]
        return (log_std >= _LOG_STD[0]) & (log_std <= _LOG_STD[1])  # as torch.clamp has it
