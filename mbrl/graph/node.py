"""What a node of a computation graph is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from mbrl.errors import GraphError
from mbrl.types import Step

# A width is a number, a symbol of the task, the name of a port of the same node (as wide as that),
# or None for "whatever comes"; the width of a value that is one number per row, such as a reward,
# is 0.
Width = int | str | None
SCALAR = 0
SYMBOLS = ("nx", "nu", "n_obs")


class Sizes(Protocol):
    """The sizes of a problem: all that a policy needs to know of it."""

    state_size: int
    observation_size: int
    action_low: Tensor
    action_high: Tensor

    @property
    def action_size(self) -> int:
        """Nu."""


def symbol_width(symbol: str, sizes: Sizes) -> int:
    """Return the number that a symbol (nx, nu or n_obs) stands for."""
    widths = (sizes.state_size, sizes.action_size, sizes.observation_size)
    return dict(zip(SYMBOLS, widths, strict=True))[symbol]


class Source(NamedTuple):
    """What is known of a value when a node that takes it is built."""

    value: str
    width: int
    node: str | None = None  # what makes it; None: it is carried, or observed
    drives: tuple[int, ...] | None = None  # see Node.drives


class Place(NamedTuple):
    """Where a node stands: what it may look at while it is built."""

    name: str  # of the node
    task: Any  # a Task, or only its Sizes when a policy is rebuilt without its task
    widths: Mapping[str, int]  # of the node's input ports, but those as wide as an output
    generator: torch.Generator | None  # for initial weights
    sources: Mapping[str, Source] = {}  # of the node's input ports of open width (None)


class Node(nn.Module):
    """A named function from input values to output values, run once per step.

    A subclass names its ports and their widths, takes its options as keyword-only arguments, and
    computes outputs from inputs in ``forward``. For instance::

        class Decay(Node):
            inputs = {"value": None, "before": "value"}
            outputs = {"smoothed": "value"}

            def __init__(self, place, *, share: float = 0.5):
                super().__init__(place)
                self.share = share

            def forward(self, step, value, before):
                return before + self.share * (value - before)

    Args:
        place: name, task, input widths and generator.
    """

    inputs: ClassVar[Mapping[str, Width]] = {}
    outputs: ClassVar[Mapping[str, Width]] = {}
    # Whether the last input port takes a list of values, one or more: the ports "port[0]", ...
    variadic: ClassVar[bool] = False
    uses_time: bool = False  # whether its outputs depend on the index of the step in the episode
    # Whether it takes the state itself where a policy acts, not only where a graph is unrolled.
    on_state: ClassVar[bool] = False
    # Whether row i of its outputs depends on row i of its inputs alone, and on no step, noise or
    # context: one call may then serve the rows of many steps.
    is_rowwise: bool = False
    # Whether its next state is a model's: the steps of a graph are no real transitions then.
    is_imagined: bool = False

    def __init__(self, place: Place):
        super().__init__()
        # The generator was for initial weights; a node that is kept or copied has no use for it.
        self.place = place._replace(generator=None)

    def width(self, port: str) -> int:
        """Return the width of an output port; override where its declared width is None."""
        width = declared_width(self.outputs[port], self.place.task, self.place.widths)
        if width is None:
            raise GraphError(
                f"graph.nodes.{self.place.name}: the width of its output {port!r} is not fixed; "
                f"{type(self).__name__} must override width()"
            )
        return width

    def drives(self, port: str) -> tuple[int, ...] | None:
        """Return the actuators that an output port has an entry for; None: it is no action.

        As it stands, whatever is declared as wide as an action is one.
        """
        return tuple(range(self.place.task.action_size)) if self.outputs[port] == "nu" else None

    def idle(self, step: Step) -> Collection[str]:
        """Return the input ports not looked at in this step, which get None: saves their making."""
        return ()

    def forward(self, step: Step, *values: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Compute the outputs, in the order of ``outputs``, from inputs in the order of ``inputs``.

        Args:
            step: index of the step, noise, and the context of the episodes.
            *values: [B, width] each, or [B] for width 0.
        """
        raise NotImplementedError


def declared_width(width: Width, sizes: Sizes, ports: Mapping[str, int]) -> int | None:
    """Return a declared width as a number, if it is known: ports are those whose width is."""
    if not isinstance(width, str):
        return width
    return symbol_width(width, sizes) if width in SYMBOLS else ports.get(width)
