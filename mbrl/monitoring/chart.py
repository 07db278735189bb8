"""Charts of results: the picture and the table."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mbrl.types import Chart, Panel

_WIDTH, _HEIGHT, _DPI = 5.6, 4.0, 130  # inches of a panel, pixels per inch
_COLORS = (  # repeated where they run out
    "#d1495b", "#2e6f95", "#4f9d69", "#8d6a9f", "#c58b2a",
    "#5f6b7a", "#d98cb3", "#3aa6a6", "#8a5a3c", "#a3b34a",
)  # fmt: skip
_MOST_MARKED = 60  # points of a curve that are told apart
_MOST_NAMED = 12  # curves of a panel


def draw_chart(chart: Chart, path: str | os.PathLike[str]) -> None:
    """Write the picture of :func:`chart_figure`; the suffix says the format (png, svg, pdf)."""
    chart_figure(chart).savefig(path, dpi=_DPI)


def chart_figure(chart: Chart) -> Figure:
    """Return a figure with the panels side by side, a line and a band for every curve."""
    count = len(chart.panels)
    figure = Figure(figsize=(count * _WIDTH, _HEIGHT), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, count, squeeze=False)[0]
    for one, panel in zip(axes, chart.panels, strict=True):
        _draw_panel(one, panel)
    return figure


def write_columns(
    columns: Mapping[str, Sequence[str | float]], path: str | os.PathLike[str]
) -> None:
    """Write a CSV file with a row for every entry of the columns; numbers round-trip."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


def _draw_panel(axes: Any, panel: Panel) -> None:
    for index, curve in enumerate(panel.curves):
        color = _COLORS[index % len(_COLORS)]
        marker = "o" if len(curve.x) <= _MOST_MARKED else ""
        axes.plot(
            curve.x, curve.mean, color=color, marker=marker, markersize=3, linewidth=1.6,
            label=curve.label,
        )  # fmt: skip
        if (curve.low != curve.high).any():
            axes.fill_between(curve.x, curve.low, curve.high, color=color, alpha=0.2, linewidth=0)
    axes.set_title(panel.title, fontsize=10)
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    if panel.x is not None:
        axes.set_xscale("log", base=panel.x)
    if panel.y is not None:
        axes.set_yscale("log", base=panel.y)
    axes.grid(linewidth=0.3, alpha=0.6)
    if len(panel.curves) <= _MOST_NAMED:
        axes.legend(fontsize=8)
