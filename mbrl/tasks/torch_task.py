"""Tasks without MuJoCo, whose steps are torch functions of a state, an action and noise."""

from __future__ import annotations

from abc import abstractmethod

from torch import Tensor

from mbrl.tasks.task import Task
from mbrl.types import Transition


class TorchTask(Task):
    r"""A task whose transitions are batched torch functions, their randomness an argument.

    .. math:: x_{t+1} = F(x_t, u_t, \xi_t), \qquad \xi_t \sim N(0, I)

    so that many environments advance as one batch, each with noise of its own.

    Attributes:
        noise_size: width of xi; 0: transitions are deterministic.
    """

    simulator = None
    noise_size: int = 0

    @property
    def has_reward_formula(self) -> bool:
        """Always."""
        return True

    @abstractmethod
    def step(
        self,
        state: Tensor,
        action: Tensor,
        *,
        t: int = 0,
        context: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Transition:
        """Take one step from set states, without derivatives.

        Args:
            state: [B, nx].
            action: [B, nu].
            t: index of the step in its episode.
            context: [B, n].
            noise: [B, noise_size], standard normal; None where there is none.
        """
