"""Tasks without MuJoCo, whose steps are batched functions."""

from __future__ import annotations

from mbrl.tasks.task import Task


class TorchTask(Task):
    r"""A task without a simulator, whose reward is a function like the rest.

    .. math:: x_{t+1} = F(x_t, u_t, \xi_t), \qquad \xi_t \sim N(0, I)
    """

    simulator = None

    @property
    def has_reward_formula(self) -> bool:
        """Always."""
        return True
