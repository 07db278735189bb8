"""The one form in which ops take states and actions."""

from __future__ import annotations

import torch
from torch import Tensor

from mbrl.errors import ArgumentError
from mbrl.physics import StateSpec


def check_real(**values: object) -> None:
    """Refuse what is no tensor of real numbers.

    Raises:
        ArgumentError: naming the first.
    """
    for name, value in values.items():
        if not isinstance(value, Tensor) or value.is_complex():
            kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise ArgumentError(f"{name} must be a tensor of real numbers, got {kind}")


def batched(spec: StateSpec, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
    """Return state [B, nx] and action [B, nu] in float64 on the CPU.

    Args:
        spec: the state space.
        state: [B, nx] or [nx], any floating dtype and device.
        action: [B, nu] or [nu].

    Raises:
        ArgumentError: on a wrong type or shape.
    """
    check_real(state=state, action=action)
    if state.shape[-1:] != (spec.nx,) or action.shape[-1:] != (spec.nu,):
        raise ArgumentError(
            f"state and action must have widths {spec.nx} and {spec.nu}, "
            f"got shapes {list(state.shape)} and {list(action.shape)}"
        )
    if state.shape[:-1] != action.shape[:-1]:
        raise ArgumentError(
            "state and action must have the same batch, "
            f"got shapes {list(state.shape)} and {list(action.shape)}"
        )
    if state.ndim != 2:  # a view of the same shape would be a node of its own for autograd
        rows = state.shape[:-1].numel()
        state, action = state.reshape(rows, spec.nx), action.reshape(rows, spec.nu)
    return state.to("cpu", torch.float64), action.to("cpu", torch.float64)
