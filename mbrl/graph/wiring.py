"""From the ``graph:`` section to a checked plan: which node runs when, on which values."""

from __future__ import annotations

import copy
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from torch import nn

from mbrl.errors import ConfigError, GraphError, suggestion
from mbrl.graph.node import SYMBOLS, Node
from mbrl.graph.nodes import VANILLA, PolicyNode
from mbrl.options import completed, schema
from mbrl.registry import NODES, POLICIES

OBSERVED = "observe"  # the initial value of a carry that is an observation
BASES: dict[str, dict[str, Any]] = {"vanilla": VANILLA, "empty": {"nodes": {}, "carry": {}}}
_MODULES = nn.ModuleDict()  # where nodes live, by name
_SECTION_KEYS = ("base", "nodes", "carry")
_NODE_KEYS = ("kind", "inputs", "outputs")


class NodeSpec(NamedTuple):
    """One node as declared."""

    name: str
    kind: str
    inputs: dict[str, str]  # port -> value
    outputs: dict[str, str]  # port -> value
    options: dict[str, Any]  # complete, with defaults


@dataclass(frozen=True)
class CarrySpec:
    """A value handed from one step to the next.

    Attributes:
        source: the value of this step that the next one sees.
        width: its width (a number, nx, nu or n_obs); null: that of its source, which must be known
            without it.
        initial: what it is before the first step: a number for every entry, or "observe", what the
            task observes of the initial state.
    """

    source: str
    width: int | str | None = None
    initial: float | Literal["observe"] = 0.0


class GraphSpec(NamedTuple):
    """A checked graph, its nodes in an order in which they can run."""

    nodes: list[NodeSpec]
    carry: dict[str, CarrySpec]


def parse(section: Mapping[str, Any] | None) -> GraphSpec:
    """Return the checked graph of a ``graph:`` section.

    Args:
        section: ``base`` ("vanilla", the default: the nodes and carries given are merged over it,
            null removes one; or "empty"), ``nodes`` and ``carry``.

    Raises:
        GraphError: naming the node, what is wrong and what is legal.
        ConfigError: if a node's options do not fit its kind.
    """
    section = merged(section)
    specs = [_node(name, entry) for name, entry in section["nodes"].items()]
    carry = {name: _carry(name, entry) for name, entry in section["carry"].items()}
    return GraphSpec(_ordered(specs, carry), carry)


def merged(section: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the section with its base's nodes and carries filled in, unchecked beyond its keys."""
    if section is not None and not isinstance(section, Mapping):
        raise GraphError(f"graph must be a mapping of {', '.join(_SECTION_KEYS)}, got {section!r}")
    given = dict(section or {})
    for key in given:
        if key not in _SECTION_KEYS:
            raise GraphError(f"unknown key 'graph.{key}'; {suggestion(key, _SECTION_KEYS)}")
    base = given.get("base", "vanilla")
    if not isinstance(base, str) or base not in BASES:
        raise GraphError(f"graph.base: unknown graph {base!r}; {suggestion(base, BASES)}")
    result = copy.deepcopy(BASES[base])
    for name, entry in (_mapping(given, "nodes") or {}).items():
        if not isinstance(name, str) or not name.isidentifier() or hasattr(_MODULES, name):
            raise GraphError(
                "graph.nodes: the name of a node must be a word of letters, digits and underscores "
                f"that torch has no use for itself, got {name!r}"
            )
        if entry is None:  # not this one of the base
            result["nodes"].pop(name, None)
            continue
        if not isinstance(entry, Mapping):
            raise GraphError(f"graph.nodes.{name} must be a mapping with a kind, got {entry!r}")
        before = result["nodes"].get(name, {})
        if "kind" not in entry and not before and BASES[base]["nodes"]:
            raise GraphError(
                f"graph.nodes.{name} has no kind (one of {', '.join([*NODES, *POLICIES])}), and "
                f"the {base} graph that it is merged over no node of this name; "
                f"{suggestion(name, BASES[base]['nodes'])}"
            )
        # Another kind has other options: those of the base's node go with its kind.
        keep = before if entry.get("kind", before.get("kind")) == before.get("kind") else {}
        result["nodes"][name] = {**keep, **entry}
    result["carry"] |= _mapping(given, "carry") or {}
    result["carry"] = {k: entry for k, entry in result["carry"].items() if entry is not None}
    return result


def completed_section(section: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a section that says everything, defaults included: what a run records."""
    graph = parse(section)
    return {
        "base": "empty",
        "nodes": {
            node.name: {
                "kind": node.kind,
                "inputs": _said(node),
                "outputs": dict(node.outputs),
                **node.options,
            }
            for node in graph.nodes
        },
        "carry": {name: asdict(carry) for name, carry in graph.carry.items()},
    }


def _mapping(section: Mapping[str, Any], key: str) -> Mapping[str, Any] | None:
    value = section.get(key)
    if value is not None and not isinstance(value, Mapping):
        raise GraphError(f"graph.{key} must be a mapping, got {value!r}")
    return value


def kind_of(spec: NodeSpec) -> type[Node]:
    """Return the class of a node; that of every policy is :class:`PolicyNode`."""
    return PolicyNode if spec.kind in POLICIES else NODES.get(spec.kind)


def _node(name: str, entry: Mapping[str, Any]) -> NodeSpec:
    where = f"graph.nodes.{name}"
    kind = entry.get("kind")
    if kind is None:
        raise GraphError(f"{where} has no kind; {suggestion('', [*NODES, *POLICIES])}")
    if kind not in POLICIES and kind not in NODES:
        raise GraphError(
            f"{where}.kind: unknown node kind {kind!r}; {suggestion(kind, [*NODES, *POLICIES])}"
        )
    spec = NodeSpec(name, str(kind), {}, {}, {})
    ports, given = kind_of(spec), entry.get("inputs")
    names = list(ports.inputs)
    if ports.variadic:
        given, names = _spread(given, names, f"{where}.inputs")
    return spec._replace(
        inputs=_wires(given, names, f"{where}.inputs"),
        outputs=_wires(entry.get("outputs"), list(ports.outputs), f"{where}.outputs"),
        options=_options(spec, {k: v for k, v in entry.items() if k not in _NODE_KEYS}, where),
    )


def _options(spec: NodeSpec, given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the complete options of a node; those of a policy include those of its node."""
    if spec.kind not in POLICIES:
        return completed(NODES.get(spec.kind), given, where)
    policy = POLICIES.get(spec.kind)
    legal, of_node = [*schema(policy), *schema(PolicyNode)], schema(PolicyNode)
    for key in given:
        if key not in legal:
            raise ConfigError(f"unknown key '{where}.{key}'; {suggestion(key, legal)}")
    return {
        **completed(policy, {k: v for k, v in given.items() if k not in of_node}, where),
        **completed(PolicyNode, {k: v for k, v in given.items() if k in of_node}, where),
    }


def _said(spec: NodeSpec) -> dict[str, str] | list[str]:
    """Return a node's inputs as a section says them."""
    return list(spec.inputs.values()) if kind_of(spec).variadic else dict(spec.inputs)


def _spread(given: Any, ports: Sequence[str], where: str) -> tuple[dict[str, Any], list[str]]:
    """Return wires and ports of a variadic node with its last port once for each of its values."""
    *fixed, last = ports
    if isinstance(given, Mapping):
        rest, several = {k: v for k, v in given.items() if k != last}, given.get(last)
    else:
        listed = [given] if isinstance(given, str) else given
        listed = listed if isinstance(listed, list | tuple) else []
        rest, several = dict(zip(fixed, listed, strict=False)), listed[len(fixed) :]
    several = [several] if isinstance(several, str) else several
    if not isinstance(several, list | tuple) or not several:
        raise GraphError(f"{where} must list one value or more as {last!r}, got {given!r}")
    names = [f"{last}[{i}]" for i in range(len(several))]
    return {**rest, **dict(zip(names, several, strict=True))}, [*fixed, *names]


def _wires(given: Any, ports: Sequence[str], where: str) -> dict[str, str]:
    """Return {port: value}; ports left out are wired to the value of their own name."""
    if given is None:
        given = {}
    if isinstance(given, str):
        given = [given]
    if isinstance(given, Sequence):
        if len(given) != len(ports):
            raise GraphError(f"{where} lists {len(given)} values for the ports {list(ports)}")
        given = dict(zip(ports, given, strict=True))
    if not isinstance(given, Mapping):
        raise GraphError(f"{where} must be a list of values or a map port: value, got {given!r}")
    for port, value in given.items():
        if port not in ports:
            raise GraphError(f"{where}: no port {port!r}; {suggestion(port, ports)}")
        if not isinstance(value, str):
            raise GraphError(f"{where}.{port} must name a value, got {value!r}")
    return {port: given.get(port, port) for port in ports}


def _carry(name: str, entry: Any) -> CarrySpec:
    if isinstance(entry, str):
        entry = {"source": entry}
    if not isinstance(entry, Mapping):
        raise GraphError(f"graph.carry.{name} must name a value, or be a mapping; got {entry!r}")
    options = completed(CarrySpec, entry, f"graph.carry.{name}")
    if isinstance(options["width"], str) and options["width"] not in SYMBOLS:
        raise GraphError(
            f"graph.carry.{name}.width must be a number or one of {', '.join(SYMBOLS)}, "
            f"got {options['width']!r}"
        )
    if name == "state":
        if options["width"] not in (None, "nx") or options["initial"] != 0.0:
            raise GraphError(
                "graph.carry.state takes a source alone, of width nx: it begins where the task does"
            )
        options["width"] = "nx"
    elif options["initial"] == OBSERVED:
        if options["width"] not in (None, "n_obs"):
            raise GraphError(
                f"graph.carry.{name}.width must be n_obs, or left out, where it begins as what is "
                f"observed; got {options['width']!r}"
            )
        options["width"] = "n_obs"
    return CarrySpec(**options)


def _ordered(specs: list[NodeSpec], carry: Mapping[str, CarrySpec]) -> list[NodeSpec]:
    """Return the nodes in an order in which every value is made before it is used."""
    if "state" not in carry:
        raise GraphError("graph.carry has no 'state': say which value is the next state")
    producer: dict[str, str] = dict.fromkeys(carry, "graph.carry")
    for spec in specs:
        for value in spec.outputs.values():
            if value in producer:
                raise GraphError(
                    f"graph.nodes.{spec.name}: value {value!r} is produced already, "
                    f"by {producer[value]}"
                )
            producer[value] = spec.name
    for spec in specs:
        for port, value in spec.inputs.items():
            if value not in producer:
                raise GraphError(
                    f"graph.nodes.{spec.name}: nothing produces {value!r}, the value of its port "
                    f"{port!r}; {suggestion(value, producer)}"
                )
    for name, entry in carry.items():
        if entry.source not in producer:
            raise GraphError(
                f"graph.carry.{name}: nothing produces {entry.source!r}; "
                f"{suggestion(entry.source, producer)}"
            )
    for needed in ("action", "reward"):
        if needed not in producer:
            raise GraphError(
                f"graph: no node produces {needed!r}, which every graph must; "
                f"{suggestion(needed, producer)}"
            )
    ready, waiting, ordered = set(carry), list(specs), []
    while waiting:
        runnable = next((s for s in waiting if ready.issuperset(s.inputs.values())), None)
        if runnable is None:
            raise GraphError(
                f"graph: nodes wait for each other in a circle, {_circle(waiting, ready)}; "
                "hand one of these values to the next step with graph.carry"
            )
        ordered.append(runnable)
        waiting.remove(runnable)
        ready.update(runnable.outputs.values())
    return ordered


def _circle(waiting: Sequence[NodeSpec], ready: Container[str]) -> str:
    """Return nodes that wait for each other, each with the value that the next one waits for."""
    makers = {value: spec for spec in waiting for value in spec.outputs.values()}
    path: list[tuple[str, str]] = []  # nodes, and what they wait for
    spec = waiting[0]
    while spec.name not in (name for name, _ in path):
        missing = next(value for value in spec.inputs.values() if value not in ready)
        path.append((spec.name, missing))
        spec = makers[missing]
    loop = path[[name for name, _ in path].index(spec.name) :]
    return " <- ".join([*(f"{name} <- {value!r}" for name, value in loop), loop[0][0]])
