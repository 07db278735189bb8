"""Kinds that make actions without learning anything."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mbrl.errors import GraphError
from mbrl.graph.actuators import Limit, bounds, chosen
from mbrl.graph.node import Node, Place
from mbrl.types import Step


class LinearFeedback(Node):
    r"""A fixed linear controller: :math:`u = \mathrm{limit}(u_0 + K (r - o))`.

    Args:
        place: see :class:`Node`.
        gains: K, one row per actuator with one number per entry of the observation.
        reference: r, one number per entry of the observation; null: zeros.
        offset: u_0, one number per actuator; null: zeros.
        limit: keeps the action inside its bounds, see :class:`Bounds`; null: it is left as it is.
        actuators: indices of the actuators that it drives; null: all.

    Raises:
        GraphError: if a shape does not fit.
    """

    inputs = {"observation": None}
    outputs = {"action": "nu"}

    gains: Tensor
    reference: Tensor
    offset: Tensor

    def __init__(
        self,
        place: Place,
        *,
        gains: Sequence[Sequence[float]],
        reference: Sequence[float] | None = None,
        offset: Sequence[float] | None = None,
        limit: Limit | None = "squash",
        actuators: Sequence[int] | None = None,
    ):
        super().__init__(place)
        self._actuators = chosen(actuators, place.name, place.task)
        entries, count = max(place.widths["observation"], 1), len(self._actuators)
        if [len(row) for row in gains] != [entries] * count:
            raise GraphError(
                f"graph.nodes.{place.name}.gains must hold {count} rows (actuators) of {entries} "
                f"numbers (entries of {place.sources['observation'].value!r}), got rows of "
                f"{[len(row) for row in gains]}"
            )
        # Not persistent: the configuration says them, and a checkpoint need not know.
        self.register_buffer("gains", _vector(gains).reshape(count, entries), persistent=False)
        for name, given, size in (("reference", reference, entries), ("offset", offset, count)):
            if given is not None and len(given) != size:
                raise GraphError(
                    f"graph.nodes.{place.name}.{name} must hold {size} numbers, got {list(given)}"
                )
            self.register_buffer(name, _vector(given or [0.0] * size), persistent=False)
        self._bounds = bounds(self._actuators, place, limit)

    def width(self, port: str) -> int:
        """Return the number of actuators."""
        return len(self._actuators)

    def drives(self, port: str) -> tuple[int, ...]:
        """Return the actuators of its option."""
        return self._actuators

    def forward(self, step: Step, *values: Tensor) -> Tensor:
        """[B, width] -> [B, number of actuators]."""
        observation = values[0] if values[0].ndim == 2 else values[0][:, None]
        action = self.offset + (self.reference - observation) @ self.gains.T
        return action if self._bounds is None else self._bounds(action)


class Assemble(Node):
    r"""The whole action of partial ones: :math:`u_{A_i} = v_i` with disjoint actuators A_i.

    Raises:
        GraphError: if an actuator is driven by no value, or by two, or a value is not known to be
            an action.
    """

    inputs = {"values": None}
    outputs = {"action": "nu"}
    variadic = True

    def __init__(self, place: Place):
        super().__init__(place)
        where = f"graph.nodes.{place.name}"
        driver: dict[int, str] = {}
        for source in place.sources.values():
            maker = source.node or source.value
            if source.drives is None:
                raise GraphError(
                    f"{where}: {source.value!r} of {maker} is not known to be an action; legal: "
                    "values of policies and of linear_feedback, and sums and holds of them"
                )
            for index in source.drives:
                if index in driver:
                    raise GraphError(
                        f"{where}: actuator {index} is driven twice, by {driver[index]} and by "
                        f"{maker}; say which ones each drives with its option 'actuators'"
                    )
                driver[index] = maker
        missing = [index for index in range(place.task.action_size) if index not in driver]
        if missing:
            makers = ", ".join(dict.fromkeys(driver.values()))
            raise GraphError(
                f"{where}: nothing drives actuator {', '.join(map(str, missing))}; it puts "
                f"together the actions of {makers}"
            )
        order = list(driver)  # of the columns side by side
        self._columns = [order.index(index) for index in range(len(order))]

    def forward(self, step: Step, *values: Tensor) -> Tensor:
        """[B, number of its actuators] each -> [B, nu]."""
        return torch.cat(values, dim=1)[:, self._columns]


def _vector(numbers: Sequence[float] | Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)
