"""Adam on one tensor that holds the parameters of many networks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mbrl.errors import ArgumentError


class Adam:
    r"""Kingma and Ba 2015, elementwise, and so for S seeds together what it is for each alone.

    .. math:: m \leftarrow \beta_1 m + (1 - \beta_1) g, \qquad
              v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \qquad
              x \leftarrow x - \frac{\eta \, m / (1 - \beta_1^t)}
              {\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    Args:
        values: x, changed in place.
        lr: eta.
        betas: decay rates.
        eps: epsilon.

    Raises:
        ArgumentError: if the rate is not positive.
    """

    def __init__(
        self,
        values: Tensor,
        *,
        lr: float,
        betas: Sequence[float] = (0.9, 0.999),
        eps: float = 1e-8,
    ):
        if not lr > 0:
            raise ArgumentError(f"lr must be positive, got {lr}")
        self._values, self._lr, self._betas, self._eps = values, lr, betas, eps
        self._first, self._second = torch.zeros_like(values), torch.zeros_like(values)
        self._steps = torch.zeros(())

    def step(self, gradient: Tensor) -> None:
        """Take a step, by a gradient of the shape of the values."""
        first, second = self._betas
        self._steps += 1
        # What torch.optim.Adam(fused=True) calls, without what it does around it.
        torch._fused_adam_(
            [self._values],
            [gradient],
            [self._first],
            [self._second],
            [],
            [self._steps],
            lr=self._lr,
            beta1=first,
            beta2=second,
            weight_decay=0.0,
            eps=self._eps,
            amsgrad=False,
            maximize=False,
        )

    def reset(self) -> None:
        """Forget all gradients: the next step is lr in size wherever the gradient is not zero."""
        self._first.zero_()
        self._second.zero_()
        self._steps.zero_()

    def finite(self) -> Tensor:
        """Return in which rows of the values all that is remembered of gradients is finite, [S]."""
        return (self._first.isfinite() & self._second.isfinite()).flatten(1).all(1)

    def state_dict(self) -> dict[str, Any]:
        """Return what the next step depends on, beside the values."""
        return {
            "first": self._first.clone(),
            "second": self._second.clone(),
            "steps": int(self._steps),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._first.copy_(state["first"])
        self._second.copy_(state["second"])
        self._steps.fill_(state["steps"])
