"""Drawings of a computation graph: Mermaid text and a picture."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from mbrl.graph.wiring import GraphSpec

_INK, _PAPER, _BOX, _CARRY = "#22303c", "#ffffff", "#e8f0fa", "#c0562f"
_WIRES = ("#22303c", "#2f6f8f", "#5b7f2f", "#7a4b94", "#8a6d1f", "#3d6b64")
_COLUMN, _ROW, _LANE = 3.1, 0.95, 0.3
_WIDTH, _HEIGHT = 1.5, 0.6
# Between two columns: names of values on the left, wires that turn up or down on the right.
_TURNS, _ARROW = 0.55, 0.15
Place = tuple[float, float]


def mermaid(spec: GraphSpec, widths: Mapping[str, int] | None = None) -> str:
    """Return the graph of one step as Mermaid text; dotted arrows lead to the next step.

    Args:
        spec: the graph.
        widths: width of each value, shown beside its name.
    """
    lines = ["flowchart LR"]
    lines += [f'    carry_{name}(["{name} (t)"])' for name in spec.carry]
    lines += [f'    {node.name}["{node.name}<br/><i>{node.kind}</i>"]' for node in spec.nodes]
    for node in spec.nodes:
        for value in node.inputs.values():
            lines.append(f"    {_producer(spec, value)} -->|{_label(value, widths)}| {node.name}")
    for name, carry in spec.carry.items():
        lines.append(f"    {_producer(spec, carry.source)} -.->|{carry.source}| carry_{name}")
    return "\n".join(lines) + "\n"


def draw(
    spec: GraphSpec, path: str | os.PathLike[str], widths: Mapping[str, int] | None = None
) -> None:
    """Write a picture of the graph of one step.

    Every value is a wire of its own. Wires between neighbouring columns run straight; those that
    skip columns run in lanes above the boxes; carries run back to the next step below them.

    Args:
        spec: the graph.
        path: where to; the suffix says the format (png, svg, pdf).
        widths: width of each value, shown beside its name.
    """
    place = _layout(spec)
    long = _long_wires(spec, place)
    turns = _turns(spec, place)
    right = max(x for x, _ in place.values()) + _WIDTH / 2
    top = max(y for _, y in place.values()) + _HEIGHT / 2 + 0.35 + _LANE * len(long)
    bottom = min(y for _, y in place.values()) - _HEIGHT / 2 - 0.3 - 0.35 * len(spec.carry)
    left = -_WIDTH / 2 - 0.25 - 0.15 * len(spec.carry)
    figure = Figure(
        figsize=(1.15 * (right + 0.3 - left), 1.15 * (top - bottom + 0.2)), facecolor=_PAPER
    )
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set_xlim(left, right + 0.3)
    axes.set_ylim(bottom, top)
    for i, value in enumerate(dict.fromkeys(v for n in spec.nodes for v in n.inputs.values())):
        colour = _WIRES[i % len(_WIRES)]
        lane = top - 0.15 - _LANE * (1 + long.index(value)) if value in long else 0.0
        for wire in _routes(spec, place, turns, value, lane):
            _polyline(axes, wire, colour)
        x, y = place[_producer(spec, value)]
        axes.text(
            x + _WIDTH / 2 + 0.05, y + 0.04, _label(value, widths), ha="left", va="bottom",
            color=colour, fontsize=7.5, zorder=5,
        )  # fmt: skip
    _carries(axes, spec, place, bottom)
    for key, (x, y) in place.items():
        kind = next((node.kind for node in spec.nodes if node.name == key), None)
        _box(axes, x, y, key, kind)
    figure.savefig(path, dpi=150)


def _label(value: str, widths: Mapping[str, int] | None) -> str:
    if widths is None:
        return value
    return f"{value} [B]" if widths[value] == 0 else f"{value} [B,{widths[value]}]"


def _producer(spec: GraphSpec, value: str) -> str:
    for node in spec.nodes:
        if value in node.outputs.values():
            return node.name
    return f"carry_{value}"


def _layout(spec: GraphSpec) -> dict[str, Place]:
    """Column: longest path from a carry. Rows: spread around the middle."""
    depth: dict[str, int] = {f"carry_{name}": 0 for name in spec.carry}
    for node in spec.nodes:  # in running order: producers come first
        sources = [_producer(spec, value) for value in node.inputs.values()]
        depth[node.name] = 1 + max((depth[s] for s in sources), default=0)
    columns: dict[int, list[str]] = {}
    for name, column in depth.items():
        columns.setdefault(column, []).append(name)
    return {
        name: (_COLUMN * column, _ROW * ((len(names) - 1) / 2 - i))
        for column, names in columns.items()
        for i, name in enumerate(names)
    }


def _is_long(place: Mapping[str, Place], source: str, target: str) -> bool:
    return place[target][0] - place[source][0] > 1.5 * _COLUMN


def _long_wires(spec: GraphSpec, place: Mapping[str, Place]) -> list[str]:
    """Values that some consumer takes from further away than the column before it."""
    return list(
        dict.fromkeys(
            value
            for node in spec.nodes
            for value in node.inputs.values()
            if _is_long(place, _producer(spec, value), node.name)
        )
    )


def _turns(spec: GraphSpec, place: Mapping[str, Place]) -> dict[tuple[int, str], float]:
    """Return where wires turn: x by the column left of which they do, and the value."""
    turning: dict[int, list[str]] = {}
    for node in spec.nodes:
        column = round(place[node.name][0] / _COLUMN)
        for value in node.inputs.values():
            source = _producer(spec, value)
            first = 1 + round(place[source][0] / _COLUMN)  # the column right of where it starts
            for at in {first, column}:
                if value not in turning.setdefault(at, []):
                    turning[at].append(value)
    return {
        (column, value): column * _COLUMN
        - _WIDTH / 2
        - _ARROW
        - _TURNS * (1 - (i + 0.5) / len(values))
        for column, values in turning.items()
        for i, value in enumerate(values)
    }


def _routes(
    spec: GraphSpec,
    place: Mapping[str, Place],
    turns: Mapping[tuple[int, str], float],
    value: str,
    lane: float,
) -> list[list[Place]]:
    """Return the wires of a value, one for every port that takes it; long ones run at ``lane``."""
    source = _producer(spec, value)
    x0, y0 = place[source]
    out = turns[1 + round(x0 / _COLUMN), value]
    routes = []
    for node in spec.nodes:
        ports = list(node.inputs.values())
        x1, middle = place[node.name]
        back = turns.get((round(x1 / _COLUMN), value), out)
        for port in [k for k, v in enumerate(ports) if v == value]:
            y1 = middle + (0.5 - (port + 0.5) / len(ports)) * 0.8 * _HEIGHT
            ends = (x0 + _WIDTH / 2, y0), (x1 - _WIDTH / 2, y1)
            corners = [(out, y0), (out, y1)]
            if _is_long(place, source, node.name):
                corners = [(out, y0), (out, lane), (back, lane), (back, y1)]
            routes.append([ends[0], *corners, ends[1]])
    return routes


def _carries(axes: Any, spec: GraphSpec, place: Mapping[str, Place], bottom: float) -> None:
    """Wires back to the next step: below everything, and into the left of the carried value."""
    count = len(spec.carry)
    for i, (name, carry) in enumerate(spec.carry.items()):  # the first, highest, outermost
        x0, y0 = place[_producer(spec, carry.source)]
        x1, y1 = place[f"carry_{name}"]
        lane, share = bottom + 0.25 + 0.35 * i, 0.5 - (i + 1) / (count + 1)
        down, up = x0 + 0.6 * share * _WIDTH, x1 - _WIDTH / 2 - 0.2 - 0.15 * (count - 1 - i)
        begin = [(down, y0 - _HEIGHT / 2)]
        if any(x == x0 and y < y0 for x, y in place.values()):  # not through the box below
            edge, down = x0 - _WIDTH / 2, x0 - _WIDTH / 2 - _ARROW / 2
            begin = [(edge, y0 - 0.45 * _HEIGHT), (down, y0 - 0.45 * _HEIGHT)]
        points = [*begin, (down, lane), (up, lane), (up, y1), (x1 - _WIDTH / 2, y1)]
        _polyline(axes, points, _CARRY, dashed=True)
        axes.text(
            (x0 + x1) / 2, lane + 0.04, f"{carry.source} becomes {name} (t+1)", ha="center",
            va="bottom", color=_CARRY, fontsize=8,
        )  # fmt: skip


def _polyline(axes: Any, points: list[Place], colour: str, dashed: bool = False) -> None:
    axes.plot(
        [x for x, _ in points], [y for _, y in points], color=colour, linewidth=1.2, zorder=2,
        linestyle=(0, (4, 3)) if dashed else "-", solid_joinstyle="round",
    )  # fmt: skip
    style = {"arrowstyle": "-|>", "color": colour, "shrinkA": 0, "shrinkB": 0, "linewidth": 1.2}
    axes.annotate("", xy=points[-1], xytext=points[-2], arrowprops=style, zorder=2)


def _box(axes: Any, x: float, y: float, key: str, kind: str | None) -> None:
    carried = kind is None
    axes.add_patch(
        FancyBboxPatch(
            (x - _WIDTH / 2, y - _HEIGHT / 2), _WIDTH, _HEIGHT, zorder=3, linewidth=1.3,
            boxstyle=f"round,pad=0,rounding_size={0.28 if carried else 0.08}",
            facecolor=_PAPER if carried else _BOX, edgecolor=_CARRY if carried else _INK,
        )
    )  # fmt: skip
    centred = {"ha": "center", "va": "center", "zorder": 4}
    if kind is None:
        axes.text(x, y, f"{key.removeprefix('carry_')} (t)", color=_CARRY, fontsize=10, **centred)
    elif kind == key:
        axes.text(x, y, key, color=_INK, fontsize=10, **centred)
    else:
        axes.text(x, y + 0.1, key, color=_INK, fontsize=10, **centred)
        axes.text(x, y - 0.15, kind, color=_INK, fontsize=7.5, style="italic", **centred)
