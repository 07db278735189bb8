r"""How the costs that follow an action are weighed in the gradient of that action."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Weighting = Literal["sum", "average", "prioritise"]


class Weights(NamedTuple):
    r"""The direction that is descended, by the actions of an open-loop plan.

    .. math:: g_t = c_t \sum_{k=t}^{T-1} w_k \frac{\mathrm{d} \ell_k}{\mathrm{d} u_t}

    where the last :math:`\ell` includes the terminal cost.
    """

    costs: Tensor  # (T), w
    gains: Tensor  # (T), c


def weights_of(weighting: Weighting, horizon: int) -> Weights:
    r"""Return the weights of GRAD_WEIGHTS of Model-Based-RL.

    * sum: w = c = 1, the gradient of the cost.
    * average: c_t = 1 / (T - t), the mean of the T - t derivatives by u_t of the costs that follow,
      so that early actions, whose sums are long, do not drown late ones.
    * prioritise: w_k = T - k and c_t = 1 / sum_{k >= t} w_k, their average with weights that favour
      costs that come soon.

    Scaling the adjoint's g_t is exact: no earlier cost depends on u_t, so that the recursion gives
    :math:`g_t = \sum_{k \ge t} w_k \, \mathrm{d} \ell_k / \mathrm{d} u_t`, and its costate, which
    the gain does not touch, serves the steps before as it must. (The original weighs what the cost
    of step k owes to its state by w_k - 1, what it owes to its action by w_k; here both by w_k.)
    The latter two are not gradients of any function; every g_t keeps its sign if T costs do.

    Args:
        weighting: its name.
        horizon: T.
    """
    ones = torch.ones(horizon, dtype=torch.float64)
    if weighting == "sum":
        return Weights(ones, ones)
    left = torch.arange(horizon, 0, -1, dtype=torch.float64)
    if weighting == "average":
        return Weights(ones, 1 / left)
    return Weights(left, 1 / left.flip(0).cumsum(0).flip(0))
