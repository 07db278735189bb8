"""What a stock environment makes of states and actions, as torch functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


class Formulas(Protocol):
    r"""Observation, reward and termination of one environment instance.

    .. math:: o(x), \qquad r(x, u, x'), \qquad d(x').

    ``reward`` is None where the environment's reward is no function of (state, action, next state)
    because it reads contact forces that belong to the running step: there the environment's own
    ``step`` is what gets differentiated.
    """

    @property
    def reward(self) -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
        """[B, nx], [B, nu], [B, nx] -> [B]; or None."""

    def observation(self, state: Tensor) -> Tensor:
        """[B, nx] -> [B, n_obs], what the environment returns at reset to this state."""

    def terminated(self, next_state: Tensor) -> Tensor:
        """[B, nx] -> [B] bool."""


def never(next_state: Tensor) -> Tensor:
    """Terminate no row: [B, nx] -> [B] bool."""
    return torch.zeros(next_state.shape[:-1], dtype=torch.bool, device=next_state.device)


def inside(value: Tensor, bounds: tuple[float, float]) -> Tensor:
    """Say where a value lies strictly between two bounds; NaN does not."""
    low, high = bounds
    return (low < value) & (value < high)
