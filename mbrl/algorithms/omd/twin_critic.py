"""Two Q-functions of observations and actions, their soft targets, and OMD's inner problem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from mbrl.algorithms.omd.inner import InnerProblem
from mbrl.algorithms.omd.temporal_difference import TemporalDifference
from mbrl.nn import FlatMLP, Parameters, Tape


class Least(NamedTuple):
    """The smaller Q of a batch, and what its derivative takes."""

    value: Tensor  # (S, B)
    tape: Tape


class TwinCritic(TemporalDifference):
    r"""The critics of SAC (Haarnoja et al. 2018; Fujimoto et al. 2018), of S seeds at once.

    .. math:: C(w) = \frac1B \sum_b \sum_{i=1}^2 (Q_i(s_b, a_b) - y_b)^2, \qquad
              y = r + \gamma m \big( \min_i \bar Q_i(s', a') - \alpha \log \pi(a' | s') \big)

    with networks Q_i of parameters w, target networks of parameters w_, actions a' of the policy at
    s', its temperature alpha, and m = 0 where an episode terminated.

    Args:
        observation_size: n.
        action_size: nu.
        hidden: widths of the hidden layers.
        discount: gamma.

    Attributes:
        network: the shape of w.
    """

    def __init__(
        self, observation_size: int, action_size: int, *, hidden: Sequence[int], discount: float
    ):
        network = FlatMLP(observation_size + action_size, 1, hidden=hidden, copies=2)
        super().__init__(network, copies=2, weight=1.0)
        self._discount, self._size = discount, observation_size

    def least(self, w: Parameters, observation: Tensor, action: Tensor) -> Least:
        """Return the smaller Q at observations [S, B, n] and actions [S, B, nu]."""
        tape = self.network.forward(w, torch.cat([observation, action], -1))
        return Least(self._least(tape.output), tape)

    def least_gradient(
        self, w: Parameters, least: Least, cotangent: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients of <v, min Q> by observations and by actions, for v [S, B]."""
        chosen = self.apart(least.tape.output) == least.value[:, None, :, None]
        pulled = torch.where(chosen, cotangent[:, None, :, None], 0.0).flatten(0, 1)
        found = self.network.input_gradient(w, least.tape, pulled)
        return found[..., : self._size], found[..., self._size :]

    def target(self, reward: Tensor, mask: Tensor, value: Tensor) -> Tensor:
        """Return y of rewards, masks and soft values of s', [S, B] each."""
        return reward + self._discount * mask * value

    def target_gradient(
        self, w_: Parameters, least: Least, mask: Tensor, cotangent: Tensor
    ) -> Tensor:
        """Return the gradient of <v, y> by s' through the target networks alone, [S, B, n].

        Args:
            w_: parameters of the target networks.
            least: of them at s' and a'.
            mask: [S, B].
            cotangent: v, [S, B].
        """
        return self.least_gradient(w_, least, self._discount * mask * cotangent)[0]

    def inner_loss(
        self,
        w: Tensor,
        w_: Tensor,
        inputs: Tensor,
        following: Tensor,
        action: Tensor,
        entropy: Tensor,
        reward: Tensor,
        mask: Tensor,
    ) -> Tensor:
        """Return the sum of C over seeds, of parameters [S, P], for torch to differentiate.

        Args:
            w: of the critics.
            w_: of the target networks.
            inputs: s and a, [S, B, n + nu].
            following: s', [S, B, n].
            action: a', [S, B, nu].
            entropy: -alpha log pi(a' | s'), [S, B].
            reward: [S, B].
            mask: [S, B].
        """
        values = self.network.apply(w_, torch.cat([following, action], -1))
        y = self.target(reward, mask, self._least(values) + entropy)
        errors = self.apart(self.network.apply(w, inputs)) - y[:, None, :, None]
        return self.loss(errors).sum()

    def _least(self, values: Tensor) -> Tensor:
        """[S * 2, B, 1] -> [S, B]."""
        return self.apart(values)[..., 0].amin(1)


@dataclass(frozen=True)
class CriticProblem(InnerProblem):
    """The critics' error under a model; actions at what it predicts are constants of the problem.

    Attributes:
        critic: the shape of the critics.
        w: their parameters at the solution.
        w_: those of the target networks.
        inputs: s and a, [S, B, n + nu].
        tape: of the critics at ``inputs``.
        action: a' at the predicted next observations, [S, B, nu].
        entropy: -alpha log pi of them, [S, B].
        mask: [S, B].
    """

    critic: TwinCritic
    w: Parameters
    w_: Parameters
    inputs: Tensor
    tape: Tape
    action: Tensor
    entropy: Tensor
    mask: Tensor

    def loss(self, w: Tensor, following: Tensor, reward: Tensor) -> Tensor:
        """Return the sum of C over seeds, for torch to differentiate."""
        return self.critic.inner_loss(
            w,
            self.w_.flat,
            self.inputs,
            following,
            self.action,
            self.entropy,
            reward,
            self.mask,
        )

    def by_target(self, z: Tensor) -> Tensor:
        """Return the gradient of <z, F> by the targets, [S, B], for z [S, P]."""
        tangent = self.critic.network.parameters(z)
        return self.critic.cross_gradient(self.w, self.tape, None, tangent)

    def by_following(self, by_target: Tensor, following: Tensor, reward: Tensor) -> Tensor:
        """Return that by the predicted next observations, [S, B, n]."""
        least = self.critic.least(self.w_, following, self.action)
        return self.critic.target_gradient(self.w_, least, self.mask, by_target)
