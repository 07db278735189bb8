"""metrics.csv: one row per update, flushed as it goes, cut back on resume."""

from __future__ import annotations

import os
from pathlib import Path

from mbrl.monitoring.stream import Row


class CsvFile:
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
