"""The picture of an open-loop prediction: what was observed, and what a model foretold."""

from __future__ import annotations

import math
import os
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mbrl.types import Array, OpenLoop

_MOST = 24  # axes of a picture
_WORST = 4  # columns that are highlighted
_COLUMNS = 5  # of axes
_WIDTH, _HEIGHT, _DPI = 2.5, 1.55, 110  # inches of the place of one axes, pixels per inch
_LEFT, _RIGHT, _TOP, _BOTTOM = 0.45, 0.15, 0.75, 0.65  # inches around all of them
_STILL = 1e-7  # what deviates less has never varied, but for rounding
_BEYOND = 1.0  # extents of what was observed that are shown on either side of it
_OBSERVED, _PREDICTED, _MARKED = "#222222", "#d1495b", "#fdf0e6"


def draw_open_loop(open_loop: OpenLoop, path: str | os.PathLike[str], title: str) -> None:
    """Write the picture of :func:`open_loop_figure`.

    Args:
        open_loop: what to draw.
        path: where to; the suffix says the format (png, svg, pdf).
        title: of the picture.
    """
    open_loop_figure(open_loop, title).savefig(path, dpi=_DPI)


def open_loop_figure(open_loop: OpenLoop, title: str) -> Figure:
    """Return a figure with one axes a column, in their order, the four worst on a tinted ground.

    Of more than 24 columns, the 24 worst are drawn. A prediction that goes far astray leaves its
    axes, which keep to the range of what was observed.

    Args:
        open_loop: what to draw.
        title: of the figure; the median of the columns' errors follows.
    """
    errors = column_errors(open_loop)
    descending = np.argsort(-errors, kind="stable")
    drawn = sorted(descending[:_MOST].tolist())
    worst = set(descending[:_WORST].tolist()) if len(errors) > _WORST else set()
    figure, axes = _grid(len(drawn))
    names = open_loop.names or [f"column {column}" for column in range(len(errors))]
    dt = 1.0 if open_loop.dt is None else open_loop.dt
    time: Array = np.arange(len(open_loop.observed), dtype=np.float64) * dt
    for one, column in zip(axes, drawn, strict=True):
        _draw_column(one, time, open_loop.observed[:, column], open_loop.predicted[:, column])
        # Its place is given: looking for one takes a third of the time of the picture.
        one.set_title(f"{names[column]}, error {errors[column]:.2g}", fontsize=8, y=1.02)
        if column in worst:
            one.set_facecolor(_MARKED)
            one.title.set_fontweight("bold")
    some = "" if len(drawn) == len(errors) else f"; the worst {len(drawn)} of {len(errors)} columns"
    figure.suptitle(
        f"{title}\nmedian error {np.median(errors):.3g} deviations of what was observed{some}",
        fontsize=10,
    )
    figure.supxlabel("steps" if open_loop.dt is None else "time [s]", fontsize=9)
    figure.legend(handles=axes[0].get_lines(), loc="lower right", ncols=2, fontsize=8)
    return figure


def column_errors(open_loop: OpenLoop) -> Array:
    """Return how wrong the prediction of each column is, (n).

    It is the root mean square over all steps in deviations of what was observed; of what never
    varied, the root mean square itself; infinite where a prediction is no number.
    """
    observed, predicted = open_loop.observed, open_loop.predicted
    deviation = observed.std(axis=0)
    with np.errstate(over="ignore", invalid="ignore"):
        rms = np.sqrt(np.square(predicted - observed)[1:].mean(axis=0))
        errors: Array = rms / np.where(deviation < _STILL, 1.0, deviation)
    return np.where(np.isfinite(errors), errors, np.inf)


def _grid(count: int) -> tuple[Figure, list[Any]]:
    """Return a figure and its axes, row by row."""
    across = min(_COLUMNS, count)
    down = math.ceil(count / across)
    width, height = max(across, 2) * _WIDTH + _LEFT, down * _HEIGHT + _TOP + _BOTTOM
    figure = Figure(figsize=(width, height))
    FigureCanvasAgg(figure)
    # A layout that is computed takes longer than all the rest.
    figure.subplots_adjust(
        left=_LEFT / width,
        right=1 - _RIGHT / width,
        top=1 - _TOP / height,
        bottom=_BOTTOM / height,
        wspace=0.28,
        hspace=0.35,
    )
    axes = figure.subplots(down, across, sharex=True, squeeze=False).ravel().tolist()
    for one in axes[count:]:
        one.remove()
    for one in axes[max(count - across, 0) : count]:  # the lowest of each column
        one.tick_params(labelbottom=True)
    return figure, axes[:count]


def _draw_column(axes: Any, time: Array, observed: Array, predicted: Array) -> None:
    axes.plot(time, observed, color=_OBSERVED, linewidth=1.2, label="observed")
    axes.plot(
        time, predicted, color=_PREDICTED, linewidth=1.2, linestyle=(0, (4, 1.5)), label="predicted"
    )
    axes.set_xlim(time[0], time[-1])
    axes.set_ylim(*_limits(observed, predicted))
    axes.tick_params(labelsize=7, length=2)
    axes.locator_params(nbins=4)
    axes.grid(linewidth=0.3, alpha=0.6)


def _limits(observed: Array, predicted: Array) -> tuple[float, float]:
    """Return the range of both, but not far beyond that of what was observed."""
    low, high = float(observed.min()), float(observed.max())
    extent = high - low
    if extent < _STILL * max(1.0, abs(low), abs(high)):
        extent = max(1.0, abs(low), abs(high))
    finite = predicted[np.isfinite(predicted)]
    low, high = low - 0.05 * extent, high + 0.05 * extent
    return (
        max(min(low, float(finite.min(initial=low)) - 0.05 * extent), low - _BEYOND * extent),
        min(max(high, float(finite.max(initial=high)) + 0.05 * extent), high + _BEYOND * extent),
    )
