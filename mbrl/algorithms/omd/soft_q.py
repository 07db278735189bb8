"""Soft Q-functions of discrete actions: targets, losses and what they depend on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mbrl.algorithms.omd.temporal_difference import TemporalDifference, reduced
from mbrl.nn import FlatMLP, Parameters, Tape


class Target(NamedTuple):
    """What the derivative of a batch's targets takes."""

    value: Tensor  # (S, B): V
    scale: Tensor  # (S, B): dy/dV
    tape: Tape  # of the target networks at the next observations


class SoftQ(TemporalDifference):
    r"""Double soft Q-learning (Haarnoja et al. 2017; Fujimoto et al. 2018) for S seeds at once.

    .. math:: y = r + \gamma m V(s'), \qquad
              V(s) = \alpha \log \sum_a \exp \tfrac1\alpha \min_i \bar Q_i(s, a), \qquad
              L = \frac1C \sum_{i=1}^C \frac1B \sum_b (Q_i(s_b, a_b) - y_b)^2

    with networks Q_i of parameters w, target networks of parameters w_, and m = 0 where an episode
    terminated. Where y is differentiated it is by r and s' alone.

    Args:
        observation_size: n.
        actions: how many there are, A.
        hidden: widths of the hidden layers.
        discount: gamma.
        alpha: temperature of the softmax policy.
        double: whether C = 2, otherwise 1.
        hard: whether V is the maximum over a and the policy greedy, the limits of alpha = 0.

    Attributes:
        network: the shape of w.
    """

    def __init__(
        self,
        observation_size: int,
        actions: int,
        *,
        hidden: Sequence[int],
        discount: float,
        alpha: float,
        double: bool = True,
        hard: bool = False,
    ):
        copies = 2 if double else 1
        network = FlatMLP(observation_size, actions, hidden=hidden, copies=copies)
        super().__init__(network, copies=copies, weight=1 / copies)
        self._discount, self._alpha, self._hard = discount, alpha, hard

    def policy(self, w: Parameters, observation: Tensor) -> Tensor:
        """Return the probabilities softmax(mean_i Q_i / alpha), [S, B, n] -> [S, B, A]."""
        values = self.apart(self.network.output(w, observation)).mean(1)
        if self._hard:
            return torch.nn.functional.one_hot(values.argmax(-1), values.shape[-1]).to(values.dtype)
        return torch.softmax(values / self._alpha, -1)

    def target(self, w_: Parameters, following: Tensor, reward: Tensor, mask: Tensor) -> Tensor:
        """Return y, [S, B], for next observations [S, B, n], rewards and masks [S, B]."""
        value = self._value(self.apart(self.network.output(w_, following)))
        return torch.addcmul(reward, value, mask, value=self._discount)

    def taped_target(self, w_: Parameters, following: Tensor, mask: Tensor) -> Target:
        """Return what :meth:`target_gradient` takes, at next observations [S, B, n]."""
        tape = self.network.forward(w_, following)
        return Target(self._value(self.apart(tape.output)), self._discount * mask, tape)

    def target_gradient(self, w_: Parameters, target: Target, cotangent: Tensor) -> Tensor:
        """Return the gradient of <v, y> by the next observations, [S, B, n], for v [S, B]."""
        values = self.apart(target.tape.output)
        least = reduced(torch.minimum, values, 1)
        if self._hard:
            chosen = (least == target.value[..., None]).to(least.dtype)
        else:
            chosen = ((least - target.value[..., None]) / self._alpha).exp_()
        weight = ((cotangent * target.scale)[..., None] * chosen).unsqueeze(1)
        pulled = torch.where(values == least.unsqueeze(1), weight, 0.0)
        return self.network.input_gradient(w_, target.tape, pulled.flatten(0, 1))

    def inner_loss(
        self,
        w: Tensor,
        w_: Tensor,
        observation: Tensor,
        taken: Tensor,
        following: Tensor,
        reward: Tensor,
        mask: Tensor,
    ) -> Tensor:
        """Return the sum of L over seeds, of parameters [S, P], for torch to differentiate."""
        value = self._value(self.apart(self.network.apply(w_, following)))
        y = reward + self._discount * mask * value
        errors = self.apart(self.network.apply(w, observation)) - y[:, None, :, None]
        return self.loss(errors * taken.unsqueeze(1)).sum()

    def _value(self, values: Tensor) -> Tensor:
        """[S, C, B, A] -> [S, B]."""
        least = reduced(torch.minimum, values, 1)
        if self._hard:
            return least.amax(-1)
        return self._alpha * reduced(torch.logaddexp, least / self._alpha, -1)
