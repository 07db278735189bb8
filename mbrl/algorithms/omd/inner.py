"""The inner problem of OMD: Q-functions learned from what a model predicts."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mbrl.algorithms.omd.soft_q import SoftQ
from mbrl.nn import Parameters, Tape


class InnerProblem(ABC):
    r"""Minimise the temporal-difference error under a model, of S seeds side by side.

    .. math:: F(w, p) = \nabla_w L(w; p), \qquad p = (\hat s', \hat r)

    with what the model predicts of a batch as the parameters p of the problem: theta reaches F
    through p alone. The gradient of L is linear in the targets, so the gradient of <z, F> by p is
    a derivative of Q along z, and one pass backwards through the target networks.
    """

    def condition(self, w: Tensor, prediction: dict[str, Tensor]) -> Tensor:
        """Return F, [S, P], differentiable in w and in the prediction."""
        gradient: Any = torch.func.grad(self.loss)
        found: Tensor = gradient(w, **prediction)
        return found

    def pull(self, z: Tensor, w: Tensor, prediction: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return the gradient of <z, F> by the prediction, in closed form, at the solution.

        Args:
            z: [S * P].
            w: the parameters of this problem.
            prediction: ``following`` [S, B, n] and ``reward`` [S, B].
        """
        by_target = self.by_target(z.view_as(w))
        return {"following": self.by_following(by_target, **prediction), "reward": by_target}

    @abstractmethod
    def loss(self, w: Tensor, following: Tensor, reward: Tensor) -> Tensor:
        """Return the sum of L over seeds, for torch to differentiate."""

    @abstractmethod
    def by_target(self, z: Tensor) -> Tensor:
        """Return the gradient of <z, F> by the targets, [S, B], for z [S, P]."""

    @abstractmethod
    def by_following(self, by_target: Tensor, following: Tensor, reward: Tensor) -> Tensor:
        """Return that by the predicted next observations, [S, B, n]."""


@dataclass(frozen=True)
class SoftQProblem(InnerProblem):
    """That of soft Q-functions of discrete actions.

    Attributes:
        q: the Q-functions.
        w: their parameters at the solution.
        w_: those of the target networks.
        observation: s, [S, B, n].
        taken: actions, one-hot, [S, B, A].
        mask: [S, B].
        tape: of the networks at ``observation``.
    """

    q: SoftQ
    w: Parameters
    w_: Parameters
    observation: Tensor
    taken: Tensor
    mask: Tensor
    tape: Tape

    def loss(self, w: Tensor, following: Tensor, reward: Tensor) -> Tensor:
        """Return the sum of L over seeds, for torch to differentiate."""
        return self.q.inner_loss(
            w, self.w_.flat, self.observation, self.taken, following, reward, self.mask
        )

    def by_target(self, z: Tensor) -> Tensor:
        """Return the gradient of <z, F> by the targets, [S, B], for z [S, P]."""
        tangent = self.q.network.parameters(z)
        return self.q.cross_gradient(self.w, self.tape, self.taken, tangent)

    def by_following(self, by_target: Tensor, following: Tensor, reward: Tensor) -> Tensor:
        """Return that by the predicted next observations, [S, B, n]."""
        target = self.q.taped_target(self.w_, following, self.mask)
        return self.q.target_gradient(self.w_, target, by_target)
