"""The picture of a loss landscape."""

from __future__ import annotations

import os
from typing import Any, Literal

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from mbrl.landscape import Surface
from mbrl.types import Array

Scale = Literal["auto", "linear", "log"]

_FILLED, _LABELLED = 40, 10  # bands of colour; contour lines
_DECADES = 4.0  # below the highest loss, where the lowest band of a log scale ends
_LOG_FROM = 0.02  # auto: log if half of the losses lie within this share of their range
_HATCH, _BLANK = "#8a8f98", "#e9ebee"


def draw_surface(
    surface: Surface, path: str | os.PathLike[str], name: str, scale: Scale = "auto"
) -> None:
    """Write a picture: filled contours, labelled lines, the solution; diverged points hatched.

    Args:
        surface: what to draw.
        path: where to; the suffix says the format (png, svg, pdf).
        name: of the run, for the title.
        scale: of the contours, see ``LandscapeOptions``.
    """
    figure = Figure(figsize=(7.2, 6.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.patch.set(facecolor=_BLANK, edgecolor=_HATCH, hatch="///")
    finite = np.isfinite(surface.losses)
    if finite.any():
        _contours(figure, axes, surface, scale)
    handles: list[Any] = [
        axes.scatter(
            [0], [0], marker="*", s=180, color="white", edgecolor="black", zorder=5,
            label=f"solution: {surface.loss:.5g}",
        )
    ]  # fmt: skip
    if not finite.all():
        label = f"diverged: {100 * (1 - finite.mean()):.2g} % of the points"
        handles.append(Patch(facecolor=_BLANK, edgecolor=_HATCH, hatch="///", label=label))
    axes.legend(handles=handles, loc="upper right", fontsize=8)
    axes.set(
        title=f"Loss around the solution of\n{name}",
        xlim=(surface.alpha[0], surface.alpha[-1]),
        ylim=(surface.beta[0], surface.beta[-1]),
        xlabel=_label(r"\alpha", "1", surface, 0),
        ylabel=_label(r"\beta", "2", surface, 1),
    )
    figure.savefig(path, dpi=150)


def _label(symbol: str, index: str, surface: Surface, axis: int) -> str:
    norm, share = np.linalg.norm(surface.directions[axis]), surface.shares[axis]
    kind = "" if np.isnan(share) else f", {100 * share:.0f} % of the gradients' square"
    return rf"${symbol}$, along $d_{index}$ (|$d_{index}$| = {norm:.3g}{kind})"


def _contours(figure: Figure, axes: Any, surface: Surface, scale: Scale) -> None:
    losses = np.ma.masked_invalid(surface.losses)
    levels = contour_levels(losses.compressed(), scale, _FILLED)
    norm = BoundaryNorm(levels, 256)
    style = {"cmap": "viridis", "norm": norm}
    # Contours need four finite neighbours: the cells below them show the others.
    axes.pcolormesh(surface.alpha, surface.beta, losses, shading="nearest", **style)
    filled = axes.contourf(surface.alpha, surface.beta, losses, levels=levels, **style)
    bar = figure.colorbar(filled, ax=axes, label="loss", spacing="uniform")
    step = _FILLED // _LABELLED
    chosen = levels[step:-1:step]
    bar.set_ticks([levels[0], *chosen, levels[-1]])
    bar.ax.set_yticklabels([f"{level:.4g}" for level in (levels[0], *chosen, levels[-1])])
    inside = chosen[(chosen > losses.min()) & (chosen < losses.max())]
    if len(inside):
        lines = axes.contour(
            surface.alpha, surface.beta, losses, levels=inside, colors="white", linewidths=0.6
        )
        axes.clabel(lines, fmt=lambda level: f"{level:.4g}", fontsize=7)


def contour_levels(losses: Array, scale: Scale, bands: int) -> Array:
    """Return bands + 1 ascending levels that enclose all losses.

    Args:
        losses: finite ones, of any shape.
        scale: linear, or log: spaced evenly in the logarithm of the distance from the lowest loss,
            over four decades; auto: log where half of the losses lie within a fiftieth of their
            range from the lowest one.
        bands: how many.
    """
    lowest, highest = float(losses.min()), float(losses.max())
    least = 1e-9 * max(1.0, abs(lowest), abs(highest))  # a plain, but for rounding
    extent = max(highest - lowest, least)
    if scale == "auto":
        scale = "log" if np.median(losses) - lowest < _LOG_FROM * extent else "linear"
    if scale == "linear":
        share = np.linspace(0.0, 1.0, bands + 1)
    else:
        share = np.concatenate([[0.0], np.logspace(-_DECADES, 0.0, bands)])
    return lowest + extent * share
