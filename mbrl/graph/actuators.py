"""Which of a task's actuators a node drives, and their bounds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from mbrl.errors import GraphError
from mbrl.graph.node import Place, Sizes
from mbrl.nn import Squash

Limit = Literal["clip", "squash"]


def chosen(actuators: Sequence[int] | None, node: str, sizes: Sizes) -> tuple[int, ...]:
    """Return the actuators that a node drives: those listed in its options, or all of the task's.

    Raises:
        GraphError: if one does not exist, or is listed twice, or none is.
    """
    count = sizes.action_size
    if actuators is None:
        return tuple(range(count))
    where, legal = f"graph.nodes.{node}.actuators", f"legal: 0 to {count - 1}"
    if not actuators:
        raise GraphError(f"{where} must list one actuator or more, got []; {legal}")
    for index in actuators:
        if not 0 <= index < count:
            raise GraphError(f"{where}: there is no actuator {index}; {legal}")
        if list(actuators).count(index) > 1:
            raise GraphError(f"{where} lists actuator {index} twice, got {list(actuators)}")
    return tuple(actuators)


class Bounds(nn.Module):
    r"""Maps actions into their bounds [l, h] with middle m and half width w.

    .. math:: \mathrm{clip}: u \to \min(\max(u, l), h), \qquad
              \mathrm{squash}: u \to m + w \tanh((u - m) / w).

    Either leaves the middle where it is, with slope one; a squashed action has a gradient
    everywhere, a clipped one is the action itself until it meets a bound. What is squashed by a
    single bound is itself far inside, as :class:`~mbrl.nn.Squash` has it.

    Args:
        low: [n]; -inf where unbounded.
        high: [n].
        limit: which of the two.
    """

    low: Tensor
    high: Tensor
    _middle: Tensor

    def __init__(self, low: Tensor, high: Tensor, limit: Limit):
        super().__init__()
        self.register_buffer("low", low, persistent=False)
        self.register_buffer("high", high, persistent=False)
        self._squash = Squash(low, high) if limit == "squash" else None
        if self._squash is not None:
            # Where there is a single bound, that; 0 where there is none.
            middle = low.nan_to_num(0.0, 0.0, 0.0) + high.nan_to_num(0.0, 0.0, 0.0)
            middle = torch.where(low.isfinite() & high.isfinite(), 0.5 * middle, middle)
            self.register_buffer("_middle", middle, persistent=False)

    def forward(self, action: Tensor) -> Tensor:
        """[B, n] -> [B, n]."""
        if self._squash is None:
            return action.clamp(self.low, self.high)
        squashed: Tensor = self._squash(action - self._middle)
        return squashed


def bounds(actuators: Sequence[int], place: Place, limit: Limit | None) -> Bounds | None:
    """Return the map into the bounds of some actuators; None where no limit is wanted."""
    if limit is None:
        return None
    index = list(actuators)
    return Bounds(place.task.action_low[index], place.task.action_high[index], limit)
