"""The nodes of one step, run in order; what nobody looks at in this step is left out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mbrl.errors import GraphError, MbrlError, NotFiniteError, one_line, raised_at
from mbrl.graph.node import SCALAR, SYMBOLS, Node, Width
from mbrl.graph.wiring import NodeSpec, kind_of
from mbrl.types import Step


class _Stage(NamedTuple):
    node: Node
    where: str  # for messages
    inputs: dict[str, str]  # port -> value
    outputs: dict[str, tuple[int, ...]]  # value -> shape of a row of it
    is_taken: bool  # whether another node takes any of its outputs

    def run(self, step: Step, inputs: Sequence[Tensor | None], rows: int) -> dict[str, Tensor]:
        """Return the outputs by value.

        Raises:
            GraphError: if the node's code raises, or returns anything but [rows, width] each.
        """
        try:
            result = self.node(step, *inputs)
        except (MbrlError, MemoryError):
            raise
        except Exception as error:
            where = raised_at(error)
            # In a node of ours its traceback says more; what torch lacks is told by the caller.
            if not where or "allocate memory" in str(error):
                raise
            raise GraphError(
                f"{self.where} raised {type(error).__name__}: {one_line(error)}; at {where}"
            ) from error
        made = (result,) if isinstance(result, Tensor) else result
        if not isinstance(made, tuple | list) or len(made) != len(self.outputs):
            got = len(made) if isinstance(made, tuple | list) else type(made).__name__
            raise GraphError(
                f"{self.where} must return tensors for {', '.join(self.outputs)}, got {got}"
            )
        for (value, row), output in zip(self.outputs.items(), made, strict=True):
            if not isinstance(output, Tensor) or output.shape != (rows, *row):
                found = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
                raise GraphError(
                    f"{self.where}: {value!r} must be a tensor of shape {[rows, *row]}, got {found}"
                )
            if value == "terminated" and output.dtype != torch.bool:
                raise GraphError(f"{self.where}: 'terminated' must be boolean, got {output.dtype}")
        return dict(zip(self.outputs, made, strict=True))


def parted(
    specs: Sequence[NodeSpec], nodes: Mapping[str, Node], linking: Collection[str]
) -> tuple[list[NodeSpec], list[NodeSpec]]:
    """Return the nodes that run at every step, and those that run once, after the last one.

    A node can wait if it may see all steps together (:attr:`Node.is_rowwise`) and no node that
    runs at every step takes what it makes.

    Args:
        specs: the nodes, in an order in which they can run.
        nodes: the nodes themselves, by name.
        linking: values that every step hands to the next.
    """
    needed, stepping, waiting = set(linking), [], []
    for spec in reversed(specs):
        if nodes[spec.name].is_rowwise and needed.isdisjoint(spec.outputs.values()):
            waiting.append(spec)
        else:
            stepping.append(spec)
            needed.update(spec.inputs.values())
    return stepping[::-1], waiting[::-1]


class Schedule:
    """Nodes in running order.

    Args:
        specs: the nodes, in an order in which they can run.
        nodes: the nodes themselves, by name.
    """

    def __init__(self, specs: Sequence[NodeSpec], nodes: Mapping[str, Node]):
        taken = {value for spec in specs for value in spec.inputs.values()}
        self._stages = [
            _Stage(
                nodes[spec.name],
                f"graph.nodes.{spec.name} ({spec.kind})",
                spec.inputs,
                {
                    value: _row(nodes[spec.name].width(port), kind_of(spec).outputs[port])
                    for port, value in spec.outputs.items()
                },
                not taken.isdisjoint(spec.outputs.values()),
            )
            for spec in specs
        ]

    def run(
        self, given: Mapping[str, Tensor], step: Step, roots: Collection[str]
    ) -> dict[str, Tensor]:
        """Return the values of one step.

        A node is left out if other nodes take its outputs, but all of them are idle there in this
        step (:meth:`Node.idle`) or left out themselves.

        Args:
            given: the carried and observed values.
            step: what nodes may use beside their inputs.
            roots: values that are wanted in any case.

        Raises:
            GraphError: naming the node that fails, or returns what it must not.
            NotFiniteError: naming the node that made NaN or infinity of which a node takes none.
        """
        values: dict[str, Any] = dict(given)
        rows = next((len(value) for value in given.values()), 0)
        for stage, idle in self._wanted(step, roots):
            inputs = [None if port in idle else values[v] for port, v in stage.inputs.items()]
            try:
                values |= stage.run(step, inputs, rows)
            except NotFiniteError as error:
                raise NotFiniteError(f"{error}{self._first_in(values)}", error.rows) from error
        return values

    def _first_in(self, values: Mapping[str, Tensor]) -> str:
        """Say which node made the first value that is not finite of inputs that are, if any did."""

        def spoilt(names: Collection[str]) -> list[str]:
            return [n for n in names if n in values and not values[n].isfinite().all()]

        try:
            for stage in self._stages:
                if not spoilt(stage.inputs.values()):
                    for value in spoilt(stage.outputs):
                        return f"; {stage.where} made {value!r} so"
        except RuntimeError:  # inside of torch.func.vmap nobody can look
            pass
        return ""

    def _wanted(self, step: Step, roots: Collection[str]) -> list[tuple[_Stage, Collection[str]]]:
        """Return the nodes that run in this step, each with its idle ports."""
        used, wanted = set(roots), []
        for stage in reversed(self._stages):
            if stage.is_taken and used.isdisjoint(stage.outputs):
                continue
            idle = stage.node.idle(step)
            used.update(value for port, value in stage.inputs.items() if port not in idle)
            wanted.append((stage, idle))
        return wanted[::-1]


def _row(width: int, declared: Width) -> tuple[int, ...]:
    """Return the shape of a row of an output; a model without actuators has actions of width 0."""
    return () if width == SCALAR and declared not in SYMBOLS else (width,)
