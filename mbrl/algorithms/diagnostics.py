"""What is seen inside an update, step by step of its rollouts: for dashboards, not for results."""

from __future__ import annotations

import torch
from torch import Tensor

from mbrl.nn import saturated
from mbrl.ranks import Ranks
from mbrl.types import Array, Diagnostics


class ActionGradients:
    r"""Notes the gradients that reach the actions of a rollout while it is differentiated.

    .. math:: g_t = \frac{1}{N} \sum_{n=1}^{N} \left\| \frac{\mathrm{d} J^n}{\mathrm{d} u_t^n}
              \right\|, \qquad J = \frac{1}{N} \sum_{n=1}^{N} J^n

    The derivative is total: through later states, and through later actions of the policy. Where
    physics multiply gradients, g_t grows towards the first steps.
    """

    def __init__(self) -> None:
        self._actions: list[Tensor] = []
        self._norms: Tensor | None = None

    def watch(self, t: int, action: Tensor) -> None:
        """Note what will reach the actions [B, nu] of step t; changes nothing."""
        if action.requires_grad:
            action.retain_grad()
            self._actions.append(action)

    def settle(self, ranks: Ranks) -> None:
        """Let go of what was differentiated; call it afterwards, on all ranks."""
        found = [action.grad for action in self._actions if action.grad is not None]
        self._actions = []
        if found:
            # The loss is a mean over rows: its derivatives by theirs have the factor 1 / N already.
            self._norms = ranks.total(torch.stack(found).norm(dim=-1).sum(-1))

    def norms(self) -> Array | None:
        """Return g [T]; None if nothing was differentiated."""
        if self._norms is None:
            return None
        norms: Array = self._norms.numpy()
        return norms


def step_diagnostics(
    actions: Tensor, rewards: Tensor, alive: Tensor, low: Tensor, high: Tensor
) -> Diagnostics:
    """Return the statistics of each step of rollouts, over the rows that run then.

    Args:
        actions: [T, B, nu].
        rewards: [T, B].
        alive: whether a row was running when a step was taken, [T, B].
        low: of actions, [nu].
        high: of actions, [nu].

    Returns:
        Of actions their mean, standard deviation [T, nu] and the share at the bounds [T]; the mean
        reward [T]. NaN where no row runs.
    """
    mask = alive.to(actions.dtype)
    count = mask.sum(1)  # (T)
    rows, running = mask[..., None], count[:, None]
    mean = (rows * actions).sum(1) / running
    variance = (rows * (actions - mean[:, None]).square()).sum(1) / running
    bound = saturated(actions, low, high).to(actions.dtype).mean(-1)  # (T, B)
    return {
        "action_mean": mean.numpy(),
        "action_deviation": variance.sqrt().numpy(),
        "action_saturation": ((mask * bound).sum(1) / count).numpy(),
        "step_reward": ((mask * rewards).sum(1) / count).numpy(),
    }
