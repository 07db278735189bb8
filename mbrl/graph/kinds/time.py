"""Kinds that depend on the index of the step, or remember earlier ones through a carry."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Literal, TypeVar

import torch
from torch import Tensor

from mbrl.errors import GraphError
from mbrl.graph.node import Node, Place
from mbrl.types import Step

Number = TypeVar("Number", int, float)


class Hold(Node):
    r"""A new value every k steps, the previous one in between (action repeat).

    .. math:: h_t = v_t \; \text{if} \; t \bmod k = 0, \qquad h_t = h_{t-1} \; \text{otherwise}

    with ``previous`` a carry of ``held``. An unrolling that starts between two new values, where
    nothing is held yet, takes a new one there. In between the value is not asked for: a policy
    that makes it, and nothing else, is not run and draws no noise.

    Args:
        place: see :class:`Node`.
        steps: k.

    Raises:
        GraphError: if ``steps`` is not positive.
    """

    inputs = {"value": None, "previous": "value"}
    outputs = {"held": "value"}

    def __init__(self, place: Place, *, steps: int):
        super().__init__(place)
        self._steps = _positive("steps", steps, place)

    def drives(self, port: str) -> tuple[int, ...] | None:
        """Return the actuators of the value."""
        return self.place.sources["value"].drives

    def idle(self, step: Step) -> Collection[str]:
        """Return the one input that is not passed on."""
        return ("previous",) if self._renews(step) else ("value",)

    def forward(self, step: Step, *values: Tensor) -> Tensor:
        """[B, width], [B, width] -> [B, width]."""
        value, previous = values
        return value if self._renews(step) else previous

    def _renews(self, step: Step) -> bool:
        return step.t % self._steps == 0 or step.t == step.start


class History(Node):
    r"""A value and those of the steps before: :math:`h_t = (v_t, v_{t-1}, \dots, v_{t-n+1})`.

    ``past`` is a carry of ``history`` itself.

    Args:
        place: see :class:`Node`.
        steps: n, the present one included.
        fill: what stands for steps before the first: the first value, repeated, or what the carry
            is initially.

    Raises:
        GraphError: if ``steps`` is not positive.
    """

    inputs = {"value": None, "past": "history"}
    outputs = {"history": None}

    def __init__(self, place: Place, *, steps: int, fill: Literal["repeat", "initial"] = "repeat"):
        super().__init__(place)
        self._steps, self._repeats = _positive("steps", steps, place), fill == "repeat"
        self._entries = max(place.widths["value"], 1)

    def width(self, port: str) -> int:
        """Return n times the width of the value."""
        return self._steps * self._entries

    def forward(self, step: Step, *values: Tensor) -> Tensor:
        """[B, width], [B, n width] -> [B, n width]."""
        value, past = values
        value = value if value.ndim == 2 else value[:, None]
        if step.t == step.start and self._repeats:
            return value.repeat(1, self._steps)
        return torch.cat([value, past[:, : -self._entries]], dim=1)


class Phase(Node):
    r"""A clock for periodic motion.

    .. math:: (\sin k \phi_t, \cos k \phi_t)_{k=1}^{n}, \qquad \phi_t = 2 \pi t / T.

    Args:
        place: see :class:`Node`; of the input only the number of rows matters.
        period: T, in steps.
        harmonics: n.

    Raises:
        GraphError: if a number is not positive.
    """

    inputs = {"observation": None}
    outputs = {"phase": None}
    uses_time = True

    def __init__(self, place: Place, *, period: float, harmonics: int = 1):
        super().__init__(place)
        self._period = _positive("period", period, place)
        self._harmonics = _positive("harmonics", harmonics, place)

    def width(self, port: str) -> int:
        """Return two numbers per harmonic."""
        return 2 * self._harmonics

    def forward(self, step: Step, *values: Tensor) -> Tensor:
        """[B, any] -> [B, 2 n]: all sines, then all cosines."""
        angle = 2 * math.pi * step.t / self._period
        angles = angle * torch.arange(1, self._harmonics + 1, dtype=torch.float64)
        return torch.cat([angles.sin(), angles.cos()]).expand(len(values[0]), -1)


def _positive(name: str, value: Number, place: Place) -> Number:
    if not value > 0:
        raise GraphError(f"graph.nodes.{place.name}.{name} must be positive, got {value}")
    return value
