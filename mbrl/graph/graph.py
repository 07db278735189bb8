"""A computation graph and its unrolling over a horizon."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mbrl.errors import ArgumentError, GraphError, suggestion
from mbrl.graph.node import Node, Place, resolved
from mbrl.graph.nodes import PolicyNode
from mbrl.graph.wiring import OBSERVED, GraphSpec, NodeSpec, carry_width, parse
from mbrl.nn import RunningNormalizer
from mbrl.registry import NODES, POLICIES
from mbrl.types import Step, Trajectory


class _Stage(NamedTuple):
    node: Node
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Graph(nn.Module):
    r"""Nodes run in order at every step; carried values link a step to the next.

    With v the values of a step, f_k its nodes and c the carries,

    .. math:: v_t^{out(k)} = f_k(v_t^{in(k)}), \qquad v_{t+1}^{name} = v_t^{c(name)},

    unrolled from a batch of initial states. The values named state, action, reward and (if there is
    one) terminated make up the trajectory.

    Args:
        spec: the checked graph.
        task: the task its nodes refer to.
        generator: where initial weights are drawn from.

    Raises:
        GraphError: if widths do not fit.
    """

    def __init__(self, spec: GraphSpec, task: Any, generator: torch.Generator):
        super().__init__()
        self.spec, self.task = spec, task
        self.nodes = nn.ModuleDict()
        self._widths = {name: carry_width(name, c, task) for name, c in spec.carry.items()}
        self._stages: list[_Stage] = []
        for node_spec in spec.nodes:
            node = build_node(node_spec, task, self._widths, generator)
            self.nodes[node_spec.name] = node
            for port, value in node_spec.outputs.items():
                self._widths[value] = node.width(port)
            self._stages.append(
                _Stage(node, tuple(node_spec.inputs.values()), tuple(node_spec.outputs.values()))
            )
        for name, carry in spec.carry.items():
            if self._widths[name] != self._widths[carry.source]:
                raise GraphError(
                    f"graph.carry.{name}: its width is {self._widths[name]}, but "
                    f"{carry.source!r} has width {self._widths[carry.source]}"
                )

    @property
    def widths(self) -> Mapping[str, int]:
        """Width of every value; 0 for one number per row."""
        return self._widths

    def unroll(
        self,
        state: Tensor,
        horizon: int,
        *,
        generator: torch.Generator | None = None,
        context: Tensor | None = None,
        start: int = 0,
        record: Sequence[str] = (),
        **sampling: Any,
    ) -> Trajectory:
        """Run the graph for ``horizon`` steps.

        A row whose episode ends keeps its last state from then on and earns nothing. It is frozen
        before the ops: they see its initial state instead, whose gradient is discarded, so that
        nothing that happens past the end can make a gradient infinite.

        Args:
            state: initial states, [B, nx].
            horizon: T.
            generator: noise of the nodes that draw any; None: none.
            context: goals and the like of the rows, [B, n], see ``Task.start``; None: what the task
                takes for it.
            start: index of the first step in its episode.
            record: names of further values to keep.

            **sampling: what an estimator asks of stochastic policies: the fields ``draws``,
                ``gain`` and ``replay`` of :class:`mbrl.types.Step`.

        Returns:
            The trajectory; ``values`` holds what ``record`` names, [T, B, ...].

        Raises:
            ArgumentError: on a wrong shape or horizon, or an unknown value.
            DivergenceError: if the physics diverge.
        """
        self._check(state, horizon, record)
        step = Step(start, generator, context, **sampling)
        first = self._first(state.to(torch.float64), step)
        carries, alive = first, torch.ones(len(state), dtype=torch.bool)
        all_alive = True
        states, alives = [first["state"]], []
        kept: dict[str, list[Tensor]] = {name: [] for name in ("action", "reward", *record)}
        for t in range(horizon):
            live = carries if all_alive else _choose(alive, carries, first)
            values = self._run(live, step._replace(t=start + t))
            following = {name: values[c.source] for name, c in self.spec.carry.items()}
            if not all_alive:
                following = _choose(alive, following, carries)
                for name in ("action", "reward"):
                    values[name] = _masked(alive, values[name])
            alives.append(alive)
            states.append(following["state"])
            for name, series in kept.items():
                series.append(values[name])
            if "terminated" in values:
                alive = alive & ~values["terminated"]
                all_alive = bool(alive.all())
            carries = following
        stacked = {name: torch.stack(steps) for name, steps in kept.items()}
        return Trajectory(
            torch.stack(states),
            stacked["action"],
            stacked["reward"],
            torch.stack(alives),
            {name: stacked[name] for name in record},
        )

    def normalizers(self) -> dict[str, list[RunningNormalizer]]:
        """Return the running normalisers, by the value that each of them normalises."""
        found: dict[str, list[RunningNormalizer]] = {}
        for stage in self._stages:
            if isinstance(stage.node, PolicyNode) and stage.node.policy.normalizer is not None:
                found.setdefault(stage.inputs[0], []).append(stage.node.policy.normalizer)
        return found

    def _run(self, carries: Mapping[str, Tensor], step: Step) -> dict[str, Tensor]:
        values = dict(carries)
        for node, inputs, outputs in self._stages:
            result = node(step, *[values[name] for name in inputs])
            if isinstance(result, Tensor):
                values[outputs[0]] = result
            else:
                values.update(zip(outputs, result, strict=True))
        return values

    def _first(self, state: Tensor, step: Step) -> dict[str, Tensor]:
        """Return the carried values before the first step."""
        found = {"state": state}
        for name, carry in self.spec.carry.items():
            if carry.initial == OBSERVED:
                found[name] = self.task.observe(state, t=step.t, context=step.context)
            elif name != "state":
                found[name] = initial_carry(self._widths[name], carry.initial, len(state))
        return found

    def _check(self, state: Tensor, horizon: int, record: Sequence[str]) -> None:
        nx = self._widths["state"]
        if state.ndim != 2 or state.shape[1] != nx:
            raise ArgumentError(f"state must have shape [B, {nx}], got {list(state.shape)}")
        if isinstance(horizon, bool) or not isinstance(horizon, int) or horizon < 1:
            raise ArgumentError(f"horizon must be a positive integer, got {horizon!r}")
        for name in record:
            if name not in self._widths:
                raise ArgumentError(f"record: no value {name!r}; {suggestion(name, self._widths)}")


def build_graph(
    config: Mapping[str, Any] | None, task: Any, *, generator: torch.Generator | None = None
) -> Graph:
    """Build the computation graph of a task.

    Args:
        config: a ``graph:`` section, or a mapping that has one under the key "graph"; None: the
            vanilla graph.
        task: a :class:`Task`.
        generator: where initial weights are drawn from; None: one with seed 0.

    Raises:
        GraphError: naming the node, what is wrong with its wiring and what is legal.
        ConfigError: if a node's options do not fit its kind.
    """
    section = getattr(config, "graph", config)
    if isinstance(section, Mapping) and "graph" in section:
        section = section["graph"]
    return Graph(parse(section), task, generator or torch.Generator().manual_seed(0))


def build_node(
    spec: NodeSpec, task: Any, widths: Mapping[str, int], generator: torch.Generator
) -> Node:
    """Build one node, checking the widths of what it is fed."""
    policy = POLICIES.get(spec.kind) if spec.kind in POLICIES else None
    kind: type[Node] = PolicyNode if policy is not None else NODES.get(spec.kind)
    given = {port: widths[value] for port, value in spec.inputs.items()}
    for port, wanted in kind.inputs.items():
        expected = resolved(wanted, task)
        if expected is not None and expected != given[port]:
            raise GraphError(
                f"graph.nodes.{spec.name}: port {port!r} takes width {expected}, but "
                f"{spec.inputs[port]!r} has width {given[port]}"
            )
    place = Place(spec.name, task, given, generator)
    if policy is None:
        return kind(place, **spec.options)
    network = policy(
        given["observation"], task.action_low, task.action_high, generator, **spec.options
    )
    return PolicyNode(place, network)


def initial_carry(width: int, value: float | str, batch: int) -> Tensor:
    """Return a carried value before the first step, [batch, width] or [batch]."""
    shape = (batch, width) if width else (batch,)
    return torch.full(shape, float(value), dtype=torch.float64)


def _choose(
    alive: Tensor, chosen: Mapping[str, Tensor], other: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Rows of ``chosen`` that are alive, of ``other`` (as a constant) elsewhere."""
    return {
        name: torch.where(_rows(alive, value), value, other[name]) for name, value in chosen.items()
    }


def _masked(alive: Tensor, value: Tensor) -> Tensor:
    return torch.where(_rows(alive, value), value, torch.zeros((), dtype=value.dtype))


def _rows(alive: Tensor, value: Tensor) -> Tensor:
    return alive if value.ndim == 1 else alive[:, None]
