r"""How the rewards that follow an action are weighed in the gradient of that action."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

Weighting = Literal["sum", "average", "prioritise"]


class Objective(NamedTuple):
    r"""What is ascended: the direction that an estimator estimates.

    .. math:: g = E \sum_{t=0}^{H-1} c_t \,
              \left(\frac{\partial u_t}{\partial \theta}\right)^{\!\top}
              \sum_{k=t}^{H-1} w_k \frac{\mathrm{d} r_k}{\mathrm{d} u_t},

    The derivative of r_k is a total one, through later states and later actions alike. With gains
    c = 1 and weights w_k = gamma^k it is the gradient of the discounted return.
    """

    discounts: Tensor  # (H), of the return: gamma^k
    weights: Tensor  # (H), w
    gains: Tensor | None  # (H), c; None: 1

    def gain(self, policy: Any, t: int) -> Tensor | float:
        """Return c_t, as ``Step.gain`` does."""
        return 1.0 if self.gains is None else self.gains[t]


def weighed(weighting: Weighting, discounts: Tensor) -> Objective:
    r"""Return the objective of a weighting (GRAD_WEIGHTS of Model-Based-RL).

    * sum: c_t = 1, w_k = gamma^k. The gradient of the return.
    * average: c_t = 1 / (H - t), w_k = gamma^k. The gradient w.r.t. u_t is the mean, not the sum,
      of the H - t derivatives of the rewards that follow: early actions, whose sums are long, do
      not drown late ones. Steps past the end of a row count as zeros.
    * prioritise: c_t = 1 / sum_{k >= t} (H - k), w_k = (H - k) gamma^k. The average with weights
      H - k, which favours rewards that come soon.

    The latter two are not gradients of any function; each action's own gradient keeps its sign.

    Args:
        weighting: its name.
        discounts: gamma^k of a rollout's steps, [H].
    """
    if weighting == "sum":
        return Objective(discounts, discounts, None)
    left = torch.arange(len(discounts), 0, -1, dtype=torch.float64)
    if weighting == "average":
        return Objective(discounts, discounts, 1 / left)
    return Objective(discounts, left * discounts, 1 / left.flip(0).cumsum(0).flip(0))
