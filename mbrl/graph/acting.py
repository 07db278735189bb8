"""The part of a graph that acts: from an observation to an action, without a simulator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mbrl.errors import ArgumentError, GraphError
from mbrl.graph.graph import Graph, build_node, initial_carry
from mbrl.graph.node import Node, Sizes
from mbrl.graph.wiring import OBSERVED, GraphSpec, NodeSpec, carry_width
from mbrl.types import Array, Step

_OBSERVE = "observe"


class GraphPolicy(nn.Module):
    """Nodes between the observation and the action of a graph, with the carries they use.

    It acts without noise, keeps its carried values from call to call, and needs to know of the task
    only sizes and bounds.

    Args:
        spec: the graph.
        sizes: sizes and bounds of the task.
        nodes: the nodes themselves, to share them with a graph; None: new ones are built.

    Raises:
        GraphError: if the action depends on something an agent cannot observe.
    """

    def __init__(self, spec: GraphSpec, sizes: Sizes, nodes: Mapping[str, nn.Module] | None = None):
        super().__init__()
        self._sizes = sizes
        self._given, chosen, carries = _acting_part(spec)
        self._carry = {name: spec.carry[name] for name in carries}
        self._widths = dict.fromkeys(self._given, sizes.observation_size)
        self._widths |= {name: carry_width(name, c, sizes) for name, c in self._carry.items()}
        self.nodes = nn.ModuleDict()
        generator = torch.Generator().manual_seed(0)  # for weights that are loaded over
        for node_spec in chosen:
            node = nodes[node_spec.name] if nodes else None
            if node is None:
                node = build_node(node_spec, sizes, self._widths, generator)
            self.nodes[node_spec.name] = node
            if isinstance(node, Node):
                for port, value in node_spec.outputs.items():
                    self._widths[value] = node.width(port)
        self._stages = [
            (self.nodes[s.name], tuple(s.inputs.values()), tuple(s.outputs.values()))
            for s in chosen
        ]
        self.reset()

    @classmethod
    def of(cls, graph: Graph) -> GraphPolicy:
        """Return the acting part of a graph, sharing its nodes."""
        return cls(graph.spec, graph.task, {name: graph.nodes[name] for name in graph.nodes})

    def reset(self) -> None:
        """Forget carried values: an episode begins."""
        self._t = 0
        self._carried: dict[str, Tensor] = {}

    @torch.no_grad()
    def act(self, observation: NDArray[Any]) -> Array:
        """Return the noise-free action.

        Args:
            observation: [n_obs], or [B, n_obs] for B episodes in lockstep.

        Returns:
            [nu] or [B, nu].

        Raises:
            ArgumentError: on a wrong shape.
        """
        given = np.asarray(observation, dtype=np.float64)
        if given.ndim not in (1, 2) or given.shape[-1] != self._sizes.observation_size:
            raise ArgumentError(
                f"observation must have shape [{self._sizes.observation_size}] or "
                f"[B, {self._sizes.observation_size}], got {list(given.shape)}"
            )
        rows = torch.from_numpy(np.atleast_2d(given))
        values = dict.fromkeys(self._given, rows)
        for name, carry in self._carry.items():
            before = self._carried.get(name)
            if before is None or len(before) != len(rows):
                before = initial_carry(self._widths[name], carry.initial, len(rows))
            values[name] = before
        for node, inputs, outputs in self._stages:
            result = node(Step(self._t, None), *[values[name] for name in inputs])
            values.update(
                zip(outputs, (result,) if isinstance(result, Tensor) else result, strict=True)
            )
        self._carried = {name: values[carry.source] for name, carry in self._carry.items()}
        self._t += 1
        action = values["action"].numpy()
        return action[0] if given.ndim == 1 else action


def _acting_part(spec: GraphSpec) -> tuple[list[str], list[NodeSpec], list[str]]:
    """Return the observed values, the nodes that lead from them to the action, and the carries."""
    producer = {value: s for s in spec.nodes for value in s.outputs.values()}
    observed = [
        v for v, s in producer.items() if s.kind == _OBSERVE and s.inputs["state"] == "state"
    ]
    observed += [name for name, carry in spec.carry.items() if carry.initial == OBSERVED]
    wanted, seen, carries, names = ["action"], set(), [], set()
    while wanted:
        value = wanted.pop()
        if value in seen or value in observed:
            continue
        seen.add(value)
        if value in producer:
            names.add(producer[value].name)
            wanted += producer[value].inputs.values()
        elif value == "state":
            raise GraphError(
                "graph: the action depends on the state itself, which no agent observes; "
                "what it may depend on is the output of an 'observe' node of the state"
            )
        else:
            carries.append(value)
            wanted.append(spec.carry[value].source)
    return observed, [s for s in spec.nodes if s.name in names], sorted(carries)
