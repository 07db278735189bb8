"""One stream of what a run has to say, many sinks."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from mbrl.errors import one_line
from mbrl.types import Diagnostics

Row = Mapping[str, float]


class Picture(NamedTuple):
    """A file to be looked at: a plot, a filmstrip, a video."""

    name: str  # of what it shows; a later one of the same name takes its place
    path: Path  # its suffix says the format
    update: int  # after which it was made


class Sink:
    """Something that takes what a run says while it is made; what it has no use for it ignores.

    Attributes:
        wants_diagnostics: whether :meth:`diagnose` does anything, so that they need not be
            computed for nobody.
        wants_pictures: the same of :meth:`show`.
    """

    wants_diagnostics = False
    wants_pictures = False

    def write(self, row: Row) -> None:
        """Take the row of an update; the keys of all rows are the same."""

    def diagnose(self, update: int, found: Diagnostics) -> None:
        """Take what was seen inside an update."""

    def show(self, picture: Picture) -> None:
        """Take a picture, whose file is complete."""

    def tell(self, name: str, text: str) -> None:
        """Take a text: the configuration, the summary."""

    def close(self) -> None:
        """Release files and threads."""


class MetricStream(Sink):
    """Hands everything to every sink.

    Args:
        sinks: where it goes.
    """

    def __init__(self, sinks: Sequence[Sink]):
        self._sinks = list(sinks)
        self.wants_diagnostics = any(sink.wants_diagnostics for sink in self._sinks)
        self.wants_pictures = any(sink.wants_pictures for sink in self._sinks)

    def write(self, row: Row) -> None:
        """Hand on one row."""
        for sink in self._sinks:
            sink.write(row)

    def diagnose(self, update: int, found: Diagnostics) -> None:
        """Hand on what was seen inside an update."""
        for sink in self._sinks:
            sink.diagnose(update, found)

    def show(self, picture: Picture) -> None:
        """Hand on a picture."""
        for sink in self._sinks:
            sink.show(picture)

    def tell(self, name: str, text: str) -> None:
        """Hand on a text."""
        for sink in self._sinks:
            sink.tell(name, text)

    def close(self) -> None:
        """Close every sink, even if one of them cannot be."""
        with ExitStack() as stack:
            for sink in self._sinks:
                stack.callback(sink.close)


class Dispensable(Sink):
    """A sink that a run can do without: its first failure is said, and then it is left alone.

    Args:
        name: of the sink, for the warning.
        make: makes it; may fail, too.
        warn: says a line.
    """

    def __init__(self, name: str, make: Callable[[], Sink], warn: Callable[[str], None]):
        self._name, self._warn = name, warn
        self._sink: Sink | None = None
        try:
            self._sink = made = make()
        except Exception as error:
            self._give_up(error)
        else:
            self.wants_diagnostics, self.wants_pictures = (
                made.wants_diagnostics,
                made.wants_pictures,
            )

    def write(self, row: Row) -> None:
        """Hand on one row."""
        self._attempt(lambda sink: sink.write(row))

    def diagnose(self, update: int, found: Diagnostics) -> None:
        """Hand on what was seen inside an update."""
        self._attempt(lambda sink: sink.diagnose(update, found))

    def show(self, picture: Picture) -> None:
        """Hand on a picture."""
        self._attempt(lambda sink: sink.show(picture))

    def tell(self, name: str, text: str) -> None:
        """Hand on a text."""
        self._attempt(lambda sink: sink.tell(name, text))

    def close(self) -> None:
        """Close it."""
        self._attempt(lambda sink: sink.close())

    def _attempt(self, call: Callable[[Sink], None]) -> None:
        if self._sink is None:
            return
        try:
            call(self._sink)
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._sink = None
        self._warn(f"no more {self._name} in this run: {one_line(error)}")
