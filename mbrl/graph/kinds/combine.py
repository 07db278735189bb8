"""Kinds that make one value of several, or of parts of one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mbrl.errors import GraphError
from mbrl.graph.actuators import Limit, bounds
from mbrl.graph.node import SCALAR, Node, Place
from mbrl.types import Step


class Concat(Node):
    """Values side by side: y = (v_1, ..., v_n); a scalar is one entry."""

    inputs = {"values": None}
    outputs = {"joined": None}
    variadic = True
    is_rowwise = True

    def width(self, port: str) -> int:
        """Return the sum of the widths; a scalar counts one."""
        return sum(max(width, 1) for width in self.place.widths.values())

    def forward(self, step: Step, *values: Tensor) -> Tensor:
        """[B, w_i] or [B] each -> [B, sum of widths]."""
        columns = [value if value.ndim == 2 else value[:, None] for value in values]
        return torch.cat([column.to(torch.float64) for column in columns], dim=1)


class Sum(Node):
    r"""A weighted sum of values of one width: :math:`y = \mathrm{limit}(\sum_i a_i v_i)`.

    For instance a residual policy: a controller's action and a correction that is learned
    (Silver et al. 2018, section 3).

    Args:
        place: see :class:`Node`.
        weights: a_i, one number per value; null: all 1.
        limit: keeps a sum of actions inside their bounds, see :class:`Bounds`; null: it is left as
            it is.

    Raises:
        GraphError: if the widths differ, or are not those that the options ask for, or the values
            are actions of different actuators.
    """

    inputs = {"values": None}
    outputs = {"total": None}
    variadic = True
    is_rowwise = True

    def __init__(
        self, place: Place, *, weights: Sequence[float] | None = None, limit: Limit | None = None
    ):
        super().__init__(place)
        where = f"graph.nodes.{place.name}"
        first, *others = place.sources.values()
        for other in others:
            if other.width != first.width:
                raise GraphError(
                    f"{where}: it adds values of one width, but {first.value!r} has width "
                    f"{first.width} and {other.value!r} has width {other.width}"
                )
        self._drives = _common_actuators(place)
        if weights is not None and len(weights) != len(place.sources):
            raise GraphError(
                f"{where}.weights must hold one number per value ({len(place.sources)}), "
                f"got {list(weights)}"
            )
        self._weights = weights or (1.0,) * len(place.sources)
        if limit is not None and self._drives is None:
            raise GraphError(
                f"{where}.limit: none of its values is known to be an action, which alone has "
                f"bounds: {', '.join(source.value for source in place.sources.values())}"
            )
        self._bounds = None if self._drives is None else bounds(self._drives, place, limit)

    def width(self, port: str) -> int:
        """Return the width of any of the values."""
        return next(iter(self.place.widths.values()))

    def drives(self, port: str) -> tuple[int, ...] | None:
        """Return the actuators of the values that are actions."""
        return self._drives

    def forward(self, step: Step, *values: Tensor) -> Tensor:
        """[B, width] each -> [B, width]."""
        total = self._weights[0] * values[0]
        for weight, value in zip(self._weights[1:], values[1:], strict=True):
            total = total + weight * value
        return total if self._bounds is None else self._bounds(total)


class Select(Node):
    """Entries of a value by index: y = (v_i, v_j, ...).

    Args:
        place: see :class:`Node`.
        indices: which entries, from 0 on, in this order.

    Raises:
        GraphError: if there is no such entry.
    """

    inputs = {"value": None}
    outputs = {"selected": None}
    is_rowwise = True

    def __init__(self, place: Place, *, indices: Sequence[int]):
        super().__init__(place)
        where, (source,) = f"graph.nodes.{place.name}", place.sources.values()
        if source.width == SCALAR:
            raise GraphError(f"{where}: {source.value!r} is a number, which has no entries")
        if not indices:
            raise GraphError(f"{where}.indices must list one index or more, got []")
        for index in indices:
            if not 0 <= index < source.width:
                raise GraphError(
                    f"{where}.indices: {source.value!r} has no entry {index}; "
                    f"legal: 0 to {source.width - 1}"
                )
        self._indices = list(indices)

    def width(self, port: str) -> int:
        """Return the number of indices."""
        return len(self._indices)

    def forward(self, step: Step, *values: Tensor) -> Tensor:
        """[B, width] -> [B, number of indices]."""
        return values[0][:, self._indices]


def _common_actuators(place: Place) -> tuple[int, ...] | None:
    """Return the actuators of those values that are actions; they must agree."""
    actions = [source for source in place.sources.values() if source.drives is not None]
    for other in actions[1:]:
        if other.drives != actions[0].drives:
            raise GraphError(
                f"graph.nodes.{place.name}: it adds actions of the same actuators, but "
                f"{actions[0].value!r} drives {_listed(actions[0].drives)} and {other.value!r} "
                f"drives {_listed(other.drives)}; 'assemble' puts those of different ones together"
            )
    return actions[0].drives if actions else None


def _listed(indices: Sequence[int] | None) -> str:
    return ", ".join(map(str, indices or ()))
