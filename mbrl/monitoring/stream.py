"""One stream of metrics, many sinks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Protocol

Row = Mapping[str, float]


class Sink(Protocol):
    """Something that takes the rows of a run, one per update."""

    def write(self, row: Row) -> None:
        """Take one row; the keys of all rows are the same."""

    def close(self) -> None:
        """Release files and threads."""


class MetricStream:
    """Hands each row to every sink.

    Args:
        sinks: where rows go.
    """

    def __init__(self, sinks: Sequence[Sink]):
        self._sinks = list(sinks)

    def write(self, row: Row) -> None:
        """Hand on one row."""
        for sink in self._sinks:
            sink.write(row)

    def close(self) -> None:
        """Close every sink, even if one of them cannot be."""
        with ExitStack() as stack:
            for sink in self._sinks:
                stack.callback(sink.close)
