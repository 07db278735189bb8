"""The part of a graph that acts: from an observation to an action, without a simulator."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mbrl.errors import ArgumentError, GraphError, NotFiniteError
from mbrl.graph.building import build_nodes, initial_carry
from mbrl.graph.graph import Graph
from mbrl.graph.node import Sizes
from mbrl.graph.schedule import Schedule
from mbrl.graph.wiring import OBSERVED, GraphSpec, NodeSpec, kind_of
from mbrl.types import Array, Step


@dataclass
class PlainSizes:
    """Sizes and bounds of a task without the task."""

    state_size: int
    observation_size: int
    action_low: Tensor
    action_high: Tensor

    @property
    def action_size(self) -> int:
        """Nu."""
        return len(self.action_low)

    @classmethod
    def of(cls, sizes: Sizes) -> PlainSizes:
        """Return a task's."""
        return cls(sizes.state_size, sizes.observation_size, sizes.action_low, sizes.action_high)


class _Memory(NamedTuple):
    """What an acting policy remembers of its episodes."""

    t: int = 0  # steps taken
    start: int = 0  # the step at which carried values began
    rows: int | None = None  # episodes in lockstep; None: none yet
    carried: Mapping[str, Tensor] = {}


class GraphPolicy(nn.Module):
    """Nodes between the observation and the action of a graph, with the carries they use.

    It acts without noise, keeps its carried values from call to call, and needs to know of the task
    only sizes and bounds. A pickle of it holds weights and memory; where it is read, user's kinds
    must be registered.

    Args:
        spec: the graph.
        sizes: sizes and bounds of the task.
        nodes: the nodes themselves, to share them with a graph; None: new ones are built.

    Raises:
        GraphError: if the action depends on something an agent cannot observe.
    """

    def __init__(self, spec: GraphSpec, sizes: Sizes, nodes: Mapping[str, Any] | None = None):
        super().__init__()
        self._spec, self._sizes = spec, sizes
        self._given, chosen, carries = _acting_part(spec)
        self._carry = {name: spec.carry[name] for name in carries}
        generator = torch.Generator().manual_seed(0)  # for weights that are loaded over
        built, self._widths = build_nodes(
            chosen, self._carry, sizes, generator, observed=self._given, made=nodes
        )
        self.nodes = nn.ModuleDict(built)
        self._schedule = Schedule(chosen, built)
        self._roots = {"action", *(carry.source for carry in self._carry.values())}
        self.reset()

    @classmethod
    def of(cls, graph: Graph) -> GraphPolicy:
        """Return the acting part of a graph, sharing its nodes."""
        return cls(graph.spec, graph.task, dict(graph.nodes))

    def reset(self, t: int = 0) -> None:
        """Forget carried values: an episode begins, or is joined at step ``t``."""
        self._memory = _Memory(t, t)

    @property
    def on_states(self) -> bool:
        """Whether it is given states, because one of its nodes acts on the state itself."""
        return "state" in self._given

    @torch.no_grad()
    def act(
        self,
        observation: NDArray[Any],
        t: int | None = None,
        contexts: Array | None = None,
        running: NDArray[np.bool_] | None = None,
    ) -> Array:
        """Return the noise-free action.

        Args:
            observation: [n_obs], or [B, n_obs] for B episodes in lockstep; another B than before
                begins new memories, as after :meth:`reset`, but at this step of the episodes.
                With :attr:`on_states`, the states instead, [nx] or [B, nx].
            t: counted here, whatever is given.
            contexts: [B, n] of the episodes, for nodes that act on states.
            running: which rows still matter; the others are computed all the same.

        Returns:
            [nu] or [B, nu].

        Raises:
            ArgumentError: on a wrong shape.
        """
        name = "state" if self.on_states else "observation"
        width = self._sizes.state_size if self.on_states else self._sizes.observation_size
        try:
            given = np.asarray(observation, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise ArgumentError(f"{name} must hold numbers, got {observation!r}") from error
        if given.ndim not in (1, 2) or given.shape[-1] != width:
            raise ArgumentError(
                f"{name} must have shape [{width}] or [B, {width}], got {list(given.shape)}"
            )
        if not np.isfinite(given).all():
            raise NotFiniteError(f"{name} must be finite, got NaN or infinity")
        rows = torch.from_numpy(np.atleast_2d(given))
        context = None if contexts is None else torch.from_numpy(np.asarray(contexts))
        seen = self._seen(rows, context)
        memory = self._memory if self._memory.rows == len(rows) else self._begun(seen)
        values = self._schedule.run(
            {**dict.fromkeys(self._given, seen), **self._stated(rows), **memory.carried},
            Step(memory.t, context=context, start=memory.start),
            self._roots,
        )
        carried = {name: values[carry.source] for name, carry in self._carry.items()}
        self._memory = memory._replace(t=memory.t + 1, carried=carried)
        action = values["action"].numpy()
        return action[0] if given.ndim == 1 else action

    def _seen(self, rows: Tensor, context: Tensor | None) -> Tensor:
        """Return what is observed of the rows that are given."""
        if not self.on_states:
            return rows
        task: Any = self._sizes  # nodes that act on states have one
        observation: Tensor = task.observe(rows, t=self._memory.t, context=context)
        return observation

    def _stated(self, rows: Tensor) -> dict[str, Tensor]:
        return {"state": rows} if self.on_states else {}

    def _begun(self, rows: Tensor) -> _Memory:
        """Return the memory before the first step of these episodes."""
        carried = {
            name: rows
            if carry.initial == OBSERVED
            else initial_carry(self._widths[name], carry.initial, len(rows))
            for name, carry in self._carry.items()
        }
        return _Memory(self._memory.t, self._memory.t, len(rows), carried)

    def __deepcopy__(self, memo: dict[int, Any]) -> GraphPolicy:
        twin = GraphPolicy(self._spec, self._sizes, copy.deepcopy(dict(self.nodes), memo))
        twin._memory = self._memory
        return twin

    def __reduce__(self) -> tuple[Any, ...]:
        sizes = PlainSizes.of(self._sizes)
        return _restored, (self._spec, sizes, self.state_dict(), self._memory)


def _restored(
    spec: GraphSpec, sizes: PlainSizes, weights: Mapping[str, Tensor], memory: _Memory
) -> GraphPolicy:
    policy = GraphPolicy(spec, sizes)
    policy.load_state_dict(weights)
    policy._memory = memory
    return policy


def _acting_part(spec: GraphSpec) -> tuple[list[str], list[NodeSpec], list[str]]:
    """Return the given values, the nodes that lead from them to the action, and the carries.

    Given are the values that are observed, and the state itself where a node acts on it.
    """
    producer = {value: s for s in spec.nodes for value in s.outputs.values()}
    observed = _observed(spec, producer)
    wanted, seen, carries, names = ["action"], set(), [], set()
    on_state: list[str] = []
    while wanted:
        value = wanted.pop()
        if value in seen or value in observed:
            continue
        seen.add(value)
        if value in producer:
            maker = producer[value]
            names.add(maker.name)
            taken = [
                v for v in maker.inputs.values() if v != "state" or not kind_of(maker).on_state
            ]
            if len(taken) < len(maker.inputs):
                on_state = ["state"]
            wanted += taken
        elif value == "state":
            raise GraphError(
                "graph: the action depends on the state itself, which no agent observes; "
                "what it may depend on is the output of an 'observe' node of the state"
            )
        else:
            carries.append(value)
            wanted.append(spec.carry[value].source)
    return observed + on_state, [s for s in spec.nodes if s.name in names], sorted(carries)


def _observed(spec: GraphSpec, producer: Mapping[str, NodeSpec]) -> list[str]:
    """Return the values that an agent is given: the observation of the present state.

    Either it is made of the state, or the step before made it of what is now the state.
    """
    following = spec.carry["state"].source

    def of_next(value: str) -> bool:
        maker = producer.get(value)
        if maker is None:
            return False
        if maker.kind == "step":
            is_it = maker.outputs["next_observation"] == value
            return is_it and maker.outputs["next_state"] == following
        return maker.kind == "observe" and maker.inputs["state"] == following

    made = [v for v, s in producer.items() if s.kind == "observe" and s.inputs["state"] == "state"]
    return made + [
        name
        for name, carry in spec.carry.items()
        if carry.initial == OBSERVED and of_next(carry.source)
    ]
