"""Shared vocabulary: the tuples and protocols that rooms pass to each other.

Shapes: B batch, T steps, nx = nq + nv + na (state), ndx = 2 nv + na (tangent space), nu (control).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Array: TypeAlias = NDArray[np.float64]


class Linearization(NamedTuple):
    """First-order model of a map in tangent space, dy = A dx + B du; dy is ndx for a control step."""

    A: Array  # (B, dy, ndx)
    B: Array  # (B, dy, nu)


class Transition(NamedTuple):
    """What one control step of a task gives."""

    next_state: torch.Tensor  # (B, nx)
    reward: torch.Tensor  # (B,)
    observation: torch.Tensor  # (B, n_obs)
    terminated: torch.Tensor  # (B,) bool


class Trajectory(NamedTuple):
    """An unrolled computation graph; a row that ended keeps its last state and earns nothing."""

    states: torch.Tensor  # (T+1, B, nx)
    actions: torch.Tensor  # (T, B, nu)
    rewards: torch.Tensor  # (T, B)
    alive: torch.Tensor  # (T, B) bool: the row was still running when step t was taken
    values: Mapping[str, torch.Tensor]  # every other value asked for, (T, B, ...); mask by alive


class Dynamics(Protocol):
    """A differentiable map (state [B,nx], action [B,nu]) -> next state [B,nx]."""

    def __call__(self, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Advance every row by one control step."""
