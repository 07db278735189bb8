"""What a landscape asks of a loss."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from torch import Tensor


class Loss(Protocol):
    r"""A function of n parameters, about a solution.

    Attributes:
        solution: where the landscape has its middle, [n] float64.
        layout: shapes of the parameters, by name, in the order of their entries.
        unit: what an entry is measured in, [n]: half the range of a control; 1 of a network.
        at_once: how many points to evaluate in one call: what fits into memory.
    """

    solution: Tensor
    layout: Mapping[str, tuple[int, ...]]
    unit: Tensor
    at_once: int

    def values(self, points: Tensor) -> Tensor:
        """Return the losses [K] at points [K, n]; infinite where a rollout diverges."""

    def gradients(self, points: Tensor) -> Tensor:
        """Return the gradients [K, n] at points [K, n]; not finite where a rollout diverges."""

    def filtered(self, direction: Tensor) -> Tensor:
        """Return a direction [n] scaled as the parameters are: see ``landscape.normalize``."""
