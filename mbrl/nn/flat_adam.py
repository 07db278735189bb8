"""Adam on one tensor that holds the parameters of many networks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mbrl.errors import ArgumentError
from mbrl.nn.native_passes import NativeAdam


class FlatAdam:
    r"""Kingma and Ba 2015, elementwise, and so for S seeds together what it is for each alone.

    .. math:: m \leftarrow \beta_1 m + (1 - \beta_1) g, \qquad
              v \leftarrow \beta_2 v + (1 - \beta_2) g^2, \qquad
              x \leftarrow x - \frac{\eta \, m / (1 - \beta_1^t)}
              {\sqrt{v / (1 - \beta_2^t)} + \epsilon}

    That of torch, but where networks are so small that calling it takes longer than they do.

    Args:
        values: x, [S, P], changed in place.
        lr: eta.
        betas: decay rates.
        eps: epsilon.
        native: whether to take native code for it, if it was compiled and can change such values;
            it shares what has to be done with the native passes' threads.

    Raises:
        ArgumentError: if the rate is not positive.
    """

    def __init__(
        self,
        values: Tensor,
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        native: bool = False,
    ):
        if not lr > 0:
            raise ArgumentError(f"lr must be positive, got {lr}")
        self._values = values
        first, second = torch.zeros((2, *values.shape), dtype=values.dtype, device=values.device)
        self._first, self._second, self._steps = first, second, torch.zeros(())
        self._native = None
        if native and NativeAdam.take(values):
            self._native = NativeAdam(values, first, second, lr=lr, betas=betas, eps=eps)
        self._torch = torch.optim.Adam([values], lr=lr, betas=betas, eps=eps, fused=True)
        moments = {"exp_avg": first, "exp_avg_sq": second}
        self._torch.state[values] = {"step": self._steps, **moments}

    def step(self, gradient: Tensor) -> None:
        """Take a step, by a gradient of the shape of the values."""
        if self._native is None:
            self._values.grad = gradient
            self._torch.step()
            self._values.grad = None
        else:
            self._native.step(gradient, int(self._steps.add_(1)))

    def reset(self) -> None:
        """Forget all gradients: the next step is lr in size wherever the gradient is not zero."""
        for each in (self._first, self._second, self._steps):
            each.zero_()

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
