"""metrics.csv: one row per update, flushed as it goes, cut back on resume."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from mbrl.errors import StorageError
from mbrl.monitoring.stream import Row, Sink
from mbrl.types import Array


class CsvFile(Sink):
    """Appends rows to a CSV file; integers are written as integers, floats so that they round-trip.

    Args:
        path: the file; continued if it exists.
        keep: rows whose ``update`` exceeds this are dropped first: they came after the checkpoint
            that is being resumed.
    """

    def __init__(self, path: Path, keep: int = 0):
        self._columns: list[str] | None = None
        if path.exists():
            header, *rows = path.read_text(errors="replace").splitlines() or [""]
            columns = header.split(",")
            kept = [row for row in rows if _update_of(row, len(columns)) <= keep]
            if kept:
                self._columns = columns
            temporary = path.with_suffix(".tmp")
            temporary.write_text("".join(f"{line}\n" for line in ([header, *kept] if kept else [])))
            os.replace(temporary, path)
        self._file = path.open("a")

    def write(self, row: Row) -> None:
        """Write one row, and the header before the first."""
        if self._columns is None:
            self._columns = list(row)
            self._file.write(",".join(self._columns) + "\n")
        self._file.write(",".join(_number(row[name]) for name in self._columns) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path) -> dict[str, Array]:
    """Return the columns of a metrics.csv, [rows] each; none where there is no whole row yet.

    A line that is just being written is left out, and so is one that was torn by a crash.

    Raises:
        StorageError: if the file cannot be read.
    """
    try:
        text = path.read_text(errors="replace")
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror}") from error
    header, *lines = text.splitlines(keepends=True) or [""]
    names = header.strip().split(",")
    rows = [
        line.split(",")
        for line in lines
        if line.endswith("\n") and _update_of(line, len(names)) < math.inf
    ]
    if not rows:
        return {}
    return {name: _numbers(row[i] for row in rows) for i, name in enumerate(names)}


def _numbers(texts: Iterable[str]) -> Array:
    """Return what was written by :func:`_number`, or by hand; what is no number is NaN."""
    found = []
    for text in texts:
        try:
            found.append(float(text))
        except ValueError:
            found.append(math.nan)
    return np.array(found)


def _update_of(row: str, width: int) -> float:
    """The row's first column; a row torn by a crash counts as after everything."""
    values = row.split(",")
    try:
        return int(values[0]) if len(values) == width else float("inf")
    except ValueError:
        return float("inf")


def _number(value: float) -> str:
    return (
        str(int(value)) if float(value).is_integer() and abs(value) < 2**53 else repr(float(value))
    )
