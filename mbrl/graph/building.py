"""From a checked plan to nodes: which widths follow from which, and whether they fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mbrl.errors import GraphError, suggestion
from mbrl.graph.actuators import chosen
from mbrl.graph.node import (
    SCALAR,
    SYMBOLS,
    Node,
    Place,
    Sizes,
    Source,
    Width,
    declared_width,
)
from mbrl.graph.nodes import PolicyNode
from mbrl.graph.wiring import CarrySpec, NodeSpec, kind_of
from mbrl.nn import Policy
from mbrl.options import at_key, schema
from mbrl.registry import POLICIES

_ACTION = "action"


def build_nodes(
    specs: Sequence[NodeSpec],
    carry: Mapping[str, CarrySpec],
    sizes: Sizes,
    generator: torch.Generator,
    *,
    observed: Sequence[str] = (),
    made: Mapping[str, Node] | None = None,
) -> tuple[dict[str, Node], dict[str, int]]:
    """Build nodes, each as soon as the widths that it depends on are known.

    Args:
        specs: the nodes, in an order in which they can run.
        carry: the carries that they use.
        sizes: sizes and bounds of the task, or the task itself.
        generator: where initial weights are drawn from.
        observed: values that are given: observations, and perhaps the state itself.
        made: nodes that exist already; None: new ones are built.

    Returns:
        The nodes by name, in the order of ``specs``, and the width of every value.

    Raises:
        GraphError: if widths do not fit, or do not follow from each other.
        ConfigError: if a node's options do not fit.
    """
    given = {"state": sizes.state_size}
    known = {name: Source(name, given.get(name, sizes.observation_size)) for name in observed}
    known |= _declared(specs, carry, sizes)
    nodes: dict[str, Node] = {}
    waiting = list(specs)
    while waiting:
        _follow(carry, known)
        spec = next((s for s in waiting if not _unknown(s, known)), None)
        if spec is None:
            # What the first of them lacks is carried: all else that it takes is made before it.
            raise _unsaid(_unknown(waiting[0], known)[0], carry)
        waiting.remove(spec)
        _check_ports(spec, known, sizes)
        node = made[spec.name] if made else build_node(spec, sizes, known, generator)
        nodes[spec.name] = node
        for port, value in spec.outputs.items():
            output = Source(value, node.width(port), spec.name, node.drives(port))
            if value in known and known[value].width != output.width:
                raise GraphError(
                    f"graph.nodes.{spec.name}: {value!r} must have width {known[value].width}, "
                    f"but what it makes has width {output.width}"
                )
            _check_order(output, sizes)
            known[value] = output
    _follow(carry, known)
    _check_carries(carry, known)
    for spec in specs:
        _check_ports(spec, known, sizes)
    return {s.name: nodes[s.name] for s in specs}, {v: found.width for v, found in known.items()}


def _check_order(output: Source, sizes: Sizes) -> None:
    """Check that what is the action has the actuators in the task's order; widths say the rest."""
    if output.value != _ACTION or output.drives is None:
        return
    wanted = list(range(sizes.action_size))
    if sorted(output.drives) == wanted != list(output.drives):
        raise GraphError(
            f"graph.nodes.{output.node}: {_ACTION!r} has the actuators in order, {wanted}, and "
            f"what it makes is for {list(output.drives)}; 'assemble' puts them in order"
        )


def build_node(
    spec: NodeSpec, task: Sizes, known: Mapping[str, Source], generator: torch.Generator
) -> Node:
    """Build one node, given what is known of the values that it takes."""
    ports = _ports(spec)
    sources = {p: known[spec.inputs[p]] for p, wanted in ports.items() if wanted is None}
    widths = {port: source.width for port, source in sources.items()}
    for port, wanted in ports.items():
        width = declared_width(wanted, task, widths)
        if width is not None:
            widths[port] = width
    place = Place(spec.name, task, widths, generator, sources)
    if spec.kind not in POLICIES:
        with at_key(f"graph.nodes.{spec.name}", kind_of(spec)):
            return kind_of(spec)(place, **spec.options)
    of_node = {name: spec.options[name] for name in schema(PolicyNode)}
    driven = list(chosen(of_node["actuators"], spec.name, task))
    if widths["observation"] == SCALAR:
        raise GraphError(
            f"graph.nodes.{spec.name}: {spec.inputs['observation']!r} is a number, a policy takes "
            "a vector; 'concat' makes one of numbers"
        )
    kind = POLICIES.get(spec.kind)
    with at_key(f"graph.nodes.{spec.name}", kind):
        policy = kind(
            widths["observation"],
            task.action_low[driven],
            task.action_high[driven],
            generator,
            **{name: value for name, value in spec.options.items() if name not in of_node},
        )
    if not isinstance(policy, Policy):
        raise GraphError(
            f"graph.nodes.{spec.name}.kind: {spec.kind} must make a mbrl.nn.Policy, got "
            f"{type(policy).__name__}"
        )
    return PolicyNode(place, policy, **of_node)


def initial_carry(width: int, value: float | str, batch: int) -> Tensor:
    """Return a carried value before the first step, [batch, width] or [batch]."""
    shape = (batch, width) if width else (batch,)
    return torch.full(shape, float(value), dtype=torch.float64)


def _declared(
    specs: Sequence[NodeSpec], carry: Mapping[str, CarrySpec], sizes: Sizes
) -> dict[str, Source]:
    """Return what is known of values before any node is built."""
    everything = tuple(range(sizes.action_size))
    known = {_ACTION: Source(_ACTION, len(everything), None, everything)}
    for name, entry in carry.items():
        width = declared_width(entry.width, sizes, {})
        if width is not None:
            known[name] = Source(name, width)
    for spec in specs:
        for port, value in spec.outputs.items():
            declared = kind_of(spec).outputs[port]
            width, drives = declared_width(declared, sizes, {}), None
            if declared == "nu":
                drives = chosen(spec.options.get("actuators"), spec.name, sizes)
                width = len(drives)
            if width is not None:
                known[value] = Source(value, width, spec.name, drives)
    return known


def _follow(carry: Mapping[str, CarrySpec], known: dict[str, Source]) -> None:
    """Note what is known of carried values by what is known of their sources."""
    for _ in carry:  # one may carry another
        for name, entry in carry.items():
            if name not in known and entry.source in known:
                known[name] = known[entry.source]._replace(value=name)


def _ports(spec: NodeSpec) -> dict[str, Width]:
    """Return the declared widths of a node's input ports; a list's are all those of its port."""
    declared = kind_of(spec).inputs
    return {port: declared[port.partition("[")[0]] for port in spec.inputs}


def _unknown(spec: NodeSpec, known: Mapping[str, Source]) -> list[str]:
    """Return the values that a node cannot be built without, and whose width is not known yet."""
    return [
        spec.inputs[port]
        for port, declared in _ports(spec).items()
        if declared is None and spec.inputs[port] not in known
    ]


def _unsaid(name: str, carry: Mapping[str, CarrySpec]) -> GraphError:
    source = carry[name].source
    return GraphError(
        f"graph.carry.{name}: say its width (a number, nx, nu or n_obs), which does not follow "
        f"from {source!r}: e.g. {name}: {{source: {source}, width: 8}}"
    )


def _check_ports(spec: NodeSpec, known: Mapping[str, Source], sizes: Sizes) -> None:
    """Compare the widths of a node's inputs, as far as they are known, with those declared."""
    kind = kind_of(spec)
    wired = {**spec.inputs, **spec.outputs}
    widths = {port: known[value].width for port, value in wired.items() if value in known}
    for port, declared in _ports(spec).items():
        if isinstance(declared, str) and declared not in SYMBOLS and declared not in wired:
            raise GraphError(
                f"graph.nodes.{spec.name}: {kind.__name__} declares the width of {port!r} as "
                f"{declared!r}; {suggestion(declared, [*SYMBOLS, *wired])}"
            )
        expected = declared_width(declared, sizes, widths)
        if expected is not None and widths.get(port, expected) != expected:
            raise GraphError(
                f"graph.nodes.{spec.name}: port {port!r} takes width {expected}, but "
                f"{spec.inputs[port]!r} has width {widths[port]}"
            )


def _check_carries(carry: Mapping[str, CarrySpec], known: Mapping[str, Source]) -> None:
    for name, entry in carry.items():
        if name not in known:  # each carries the other
            raise _unsaid(name, carry)
        if known[name].width != known[entry.source].width:
            raise GraphError(
                f"graph.carry.{name}: its width is {known[name].width}, but "
                f"{entry.source!r} has width {known[entry.source].width}"
            )
