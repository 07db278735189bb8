"""What a dashboard shows: windows, of which a later one of the same title takes the place."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np

from mbrl.monitoring.stream import Picture, Row
from mbrl.types import Array, Diagnostics

_MOST = 1000  # points of a curve over updates; twice as many are thinned out
_NO_CURVES = ("update", "env_steps", "wall_s")
# A page is laid out in the order in which its windows come.
_FIRST = (
    "return_mean", "video", "configuration", "graph",
    "gradient_norm", "action_gradient_norm", "action_mean",
)  # fmt: skip


class Lines(NamedTuple):
    """Curves that share their x."""

    title: str
    x_label: str
    x: Array  # [n]
    y: Array  # [n, curves]; NaN where there is nothing
    legend: tuple[str, ...]


class Image(NamedTuple):
    """A picture or a video, in a file."""

    title: str
    path: Path
    caption: str


class Text(NamedTuple):
    """A text as it is."""

    title: str
    text: str


Window: TypeAlias = Lines | Image | Text


class Board:
    """Collects what is said of a run, and says which windows have changed.

    Args:
        past: columns of the rows of an earlier part of the run.
    """

    def __init__(self, past: Mapping[str, Array] | None = None):
        self._histories: dict[str, _History] = {}
        self._fixed: dict[str, Window] = {}
        self._changed: dict[str, None] = {}  # in order
        columns = past or {}
        for values in zip(*columns.values(), strict=True):
            self.write(dict(zip(columns, values, strict=True)))

    @property
    def has_rows(self) -> bool:
        """Whether a row of an update has come."""
        return bool(self._histories)

    def write(self, row: Row) -> None:
        """Take the row of an update."""
        for name, value in row.items():
            if name not in _NO_CURVES:
                self._add(name, row["update"], value)

    def diagnose(self, update: int, found: Diagnostics) -> None:
        """Take what was seen inside an update: numbers join curves, curves replace others."""
        for name, value in found.items():
            if not value.ndim:
                self._add(name, update, float(value))
                continue
            y = value.reshape(len(value), -1)
            legend = tuple(map(str, range(y.shape[1]))) if value.ndim > 1 else (name,)
            steps: Array = np.arange(len(y), dtype=np.float64)
            self._place(Lines(name, "step of a rollout", steps, _finite(y), legend))

    def show(self, picture: Picture) -> None:
        """Take a picture."""
        caption = f"after update {picture.update}" if picture.update else ""
        self._place(Image(picture.name, picture.path, caption))

    def tell(self, name: str, text: str) -> None:
        """Take a text."""
        self._place(Text(name, text))

    def changed(self) -> list[Window]:
        """Return the windows that have changed since this was last asked, the main ones first."""
        titles, self._changed = sorted(self._changed, key=_place_of), {}
        return [self._window(title) for title in titles]

    def _add(self, name: str, x: float, y: float) -> None:
        self._histories.setdefault(name, _History()).add(x, y)
        self._changed[name] = None

    def _place(self, window: Window) -> None:
        self._fixed[window.title] = window
        self._changed[window.title] = None

    def _window(self, title: str) -> Window:
        if title in self._fixed:
            return self._fixed[title]
        points = self._histories[title].points()
        return Lines(title, "update", points[:, 0], _finite(points[:, 1:]), (title,))


class _History:
    """A curve that grows: all of it, thinned out as it becomes long, and its last point."""

    def __init__(self) -> None:
        self._kept: list[tuple[float, float]] = []
        self._stride = self._count = 1
        self._last = (0.0, 0.0)

    def add(self, x: float, y: float) -> None:
        self._last = (float(x), float(y))
        if (self._count - 1) % self._stride == 0:
            self._kept.append(self._last)
        self._count += 1
        if len(self._kept) > 2 * _MOST:
            self._kept, self._stride = self._kept[::2], 2 * self._stride

    def points(self) -> Array:
        """Return x and y, [n, 2]."""
        ends = [] if self._kept[-1] == self._last else [self._last]
        return np.array(self._kept + ends)


def _place_of(title: str) -> int:
    return _FIRST.index(title) if title in _FIRST else len(_FIRST)


def _finite(values: Array) -> Array:
    return np.where(np.isfinite(values), values, np.nan)  # JSON has no word for infinity
