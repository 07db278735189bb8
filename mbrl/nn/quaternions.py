"""Quaternions among the coordinates that networks predict."""

from __future__ import annotations

import torch
from torch import Tensor


def unit_quaternions(states: Tensor, quaternions: Tensor) -> Tensor:
    """Scale quaternions to the length 1, which no network keeps by itself.

    Args:
        states: [..., n].
        quaternions: which coordinates they are, [k, 4].

    Returns:
        States [..., n], all other coordinates as they are.
    """
    if not len(quaternions):
        return states
    places = quaternions.to(states.device)
    units = torch.nn.functional.normalize(states[..., places], dim=-1, eps=0.0)
    return states.index_copy(-1, places.flatten(), units.flatten(-2))
