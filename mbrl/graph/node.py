"""What a node of a computation graph is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from mbrl.errors import GraphError
from mbrl.types import Step

# A width is a number, a symbol of the task (below), or None for "whatever comes"; the width of a
# value that is one number per row, such as a reward, is 0.
Width = int | str | None
SCALAR = 0


class Sizes(Protocol):
    """The sizes of a problem: all that a policy needs to know of it."""

    state_size: int
    observation_size: int
    action_low: Tensor
    action_high: Tensor

    @property
    def action_size(self) -> int:
        """Nu."""


def resolved(width: Width, sizes: Sizes) -> int | None:
    """Return a width as a number: the symbols are nx, nu and n_obs."""
    if not isinstance(width, str):
        return width
    symbols = {"nx": sizes.state_size, "nu": sizes.action_size, "n_obs": sizes.observation_size}
    return symbols[width]


class Place(NamedTuple):
    """Where a node stands: what it may look at while it is built."""

    name: str
    task: Any  # a Task, or only its Sizes when a policy is rebuilt without its task
    widths: Mapping[str, int]  # of the node's input ports
    generator: torch.Generator | None  # for initial weights


class Node(nn.Module):
    """A named function from input values to output values, run once per step.

    A subclass names its ports and their widths, takes its options as keyword-only arguments, and
    computes outputs from inputs in ``forward``. For instance::

        class Gain(Node):
            inputs = {"value": None}
            outputs = {"scaled": None}

            def __init__(self, place, *, factor: float = 1.0):
                super().__init__(place)
                self.factor = factor

            def width(self, port):
                return self.place.widths["value"]

            def forward(self, step, value):
                return self.factor * value

    Args:
        place: name, task, input widths and generator.
    """

    inputs: ClassVar[Mapping[str, Width]] = {}
    outputs: ClassVar[Mapping[str, Width]] = {}

    def __init__(self, place: Place):
        super().__init__()
        # The generator was for initial weights; a node that is kept or copied has no use for it.
        self.place = place._replace(generator=None)

    def width(self, port: str) -> int:
        """Return the width of an output port; override when it depends on inputs or options."""
        width = resolved(self.outputs[port], self.place.task)
        if width is None:
            raise GraphError(
                f"graph.nodes.{self.place.name}: the width of its output {port!r} is not fixed; "
                f"{type(self).__name__} must override width()"
            )
        return width

    def forward(self, step: Step, *values: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Compute the outputs, in the order of ``outputs``, from inputs in the order of ``inputs``.

        Args:
            step: index of the step, noise, and the context of the episodes.
            *values: [B, width] each, or [B] for width 0.
        """
        raise NotImplementedError
