"""A computation graph and its unrolling over a horizon."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mbrl.errors import ArgumentError, suggestion
from mbrl.graph.building import build_nodes, initial_carry
from mbrl.graph.node import Node
from mbrl.graph.nodes import PolicyNode
from mbrl.graph.schedule import Schedule, parted
from mbrl.graph.wiring import OBSERVED, GraphSpec, parse
from mbrl.nn import RunningNormalizer
from mbrl.ops import check_real
from mbrl.tasks import Task
from mbrl.types import Step, Trajectory


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
        shared: the nodes themselves, by name; None: new ones are built.

    Raises:
        GraphError: if widths do not fit.
    """

    def __init__(
        self,
        spec: GraphSpec,
        task: Any,
        generator: torch.Generator,
        shared: Mapping[str, Node] | None = None,
    ):
        super().__init__()
        self.spec, self.task = spec, task
        nodes, self._widths = build_nodes(spec.nodes, spec.carry, task, generator, made=shared)
        self.nodes = nn.ModuleDict(nodes)
        self._linking = {"action", "terminated"} | {c.source for c in spec.carry.values()}
        stepping, waiting = parted(spec.nodes, nodes, self._linking)
        self._steps, self._afterwards = Schedule(stepping, nodes), Schedule(waiting, nodes)
        made = {value for s in waiting for value in s.outputs.values()}
        taken = {value for s in waiting for value in s.inputs.values()}
        self._made_afterwards, self._taken_afterwards = made, taken - made

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
        watch: Callable[[int, Tensor], None] | None = None,
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
            record: names of further values to keep. What makes them runs at every step, even where
                a ``hold`` has no use for it.
            watch: called with the index of every step, from 0, and its actions [B, nu] as later
                values depend on them, so that it may hook their gradients.
            **sampling: what an estimator asks of stochastic policies: the fields ``draws``,
                ``gain``, ``replay`` and ``part`` of :class:`mbrl.types.Step`.

        Returns:
            The trajectory; ``values`` holds what ``record`` names, [T, B, ...].

        Raises:
            ArgumentError: on a wrong shape or horizon, or an unknown value.
            DivergenceError: if the physics diverge.
        """
        self._check(state, horizon, record)
        step = Step(start, generator, context, start=start, **sampling)
        first = self._first(state.to(torch.float64), step)
        kept = {"action", "reward", *record} - self._made_afterwards | self._taken_afterwards
        series: dict[str, list[Tensor]] = {name: [] for name in sorted(kept)}
        roots = kept | self._linking
        carries, alive = first, torch.ones(len(state), dtype=torch.bool)
        all_alive = True
        states, alives = [first["state"]], []
        for t in range(horizon):
            live = carries if all_alive else _choose(alive, carries, first)
            values = self._steps.run(live, step._replace(t=start + t), roots)
            for name, steps in series.items():
                steps.append(values[name])
            if watch is not None:
                watch(t, values["action"])
            following = {name: values[c.source] for name, c in self.spec.carry.items()}
            carries = following if all_alive else _choose(alive, following, carries)
            alives.append(alive)
            states.append(carries["state"])
            if "terminated" in values and values["terminated"].any():
                alive, all_alive = alive & ~values["terminated"], False
        stacked = self._completed({name: torch.stack(steps) for name, steps in series.items()})
        alive = torch.stack(alives)
        if not all_alive:
            for name in ("action", "reward"):
                stacked[name] = torch.where(_rows(alive, stacked[name]), stacked[name], 0.0)
        return Trajectory(
            torch.stack(states),
            stacked["action"],
            stacked["reward"],
            alive,
            {name: stacked[name] for name in record},
        )

    def normalizers(self) -> dict[str, list[RunningNormalizer]]:
        """Return the running normalisers, by the value that each of them normalises."""
        found: dict[str, list[RunningNormalizer]] = {}
        for spec in self.spec.nodes:
            node = self.nodes[spec.name]
            if isinstance(node, PolicyNode) and node.policy.normalizer is not None:
                found.setdefault(spec.inputs["observation"], []).append(node.policy.normalizer)
        return found

    def _completed(self, stacked: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add to values [T, B, ...] of all steps those that are made of them afterwards."""
        rows = {name: stacked[name].flatten(0, 1) for name in self._taken_afterwards}
        made = self._afterwards.run(rows, Step(), self._made_afterwards)
        shape = stacked["action"].shape[:2]
        return stacked | {name: made[name].unflatten(0, shape) for name in self._made_afterwards}

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
        check_real(state=state)
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
    if not isinstance(task, Task):
        raise ArgumentError(f"task must be a Task, see mbrl.make_task; got {type(task).__name__}")
    if generator is not None and not isinstance(generator, torch.Generator):
        raise ArgumentError(
            f"generator must be a torch.Generator or None, got {type(generator).__name__}"
        )
    section = getattr(config, "graph", config)
    if isinstance(section, Mapping) and "graph" in section:
        section = section["graph"]
    return Graph(parse(section), task, generator or torch.Generator().manual_seed(0))


def _choose(
    alive: Tensor, chosen: Mapping[str, Tensor], other: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Rows of ``chosen`` that are alive, of ``other`` (as a constant) elsewhere."""
    return {
        name: torch.where(_rows(alive, value), value, other[name]) for name, value in chosen.items()
    }


def _rows(alive: Tensor, value: Tensor) -> Tensor:
    return alive if value.ndim == alive.ndim else alive[..., None]
