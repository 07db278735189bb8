"""The nodes of one step, run in order; what nobody looks at in this step is left out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from mbrl.graph.node import Node
from mbrl.graph.wiring import NodeSpec
from mbrl.types import Step


class _Stage(NamedTuple):
    node: Node
    inputs: dict[str, str]  # port -> value
    outputs: tuple[str, ...]
    is_taken: bool  # whether another node takes any of its outputs


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
                spec.inputs,
                tuple(spec.outputs.values()),
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
        """
        values: dict[str, Any] = dict(given)
        for stage, idle in self._wanted(step, roots):
            inputs = [None if port in idle else values[v] for port, v in stage.inputs.items()]
            result = stage.node(step, *inputs)
            outputs = (result,) if isinstance(result, Tensor) else result
            values.update(zip(stage.outputs, outputs, strict=True))
        return values

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
