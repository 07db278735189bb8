"""The results of a sweep in one table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mbrl.reporting.groups import Group, grouped
from mbrl.reporting.runs import RunRecord
from mbrl.reporting.statistics import mean_interval

_RESULT = "eval_return_mean"


class SweepRow(NamedTuple):
    """What the runs of a configuration, which differ in their seeds, have come to."""

    configuration: str  # what is told apart: key=value, ...
    runs: int  # how many there are
    finished: int  # of them, those that came to their end
    mean: float  # of the evaluation returns of those that are finished; NaN where none is
    low: float  # the ends of its 95 % interval; the mean itself where one is
    high: float
    worst: float
    best: float
    best_run: str  # its folder; empty where there is none


def sweep_rows(run_dirs: Sequence[str | Path]) -> list[SweepRow]:
    """Return a row for every configuration among runs, in the order of the first of each.

    Raises:
        ConfigError: if a folder is none of a run, or is given twice.
    """
    return [group_row(group) for group in grouped([RunRecord.read(path) for path in run_dirs])]


def group_row(group: Group) -> SweepRow:
    """Return the row of runs that differ in their seeds alone."""
    results = [(run.result(_RESULT), run) for run in group.runs]
    found = [(float(value), run) for value, run in results if value is not None]
    if not found:
        nothing = math.nan, math.nan, math.nan, math.nan, math.nan, ""
        return SweepRow(group.label, len(results), 0, *nothing)
    values = np.array([value for value, _ in found])
    mean, low, high = map(float, mean_interval(values))
    best, run = max(found, key=lambda pair: pair[0])
    worst = float(values.min())
    return SweepRow(
        group.label, len(results), len(found), mean, low, high, worst, best, str(run.path)
    )


def sweep_columns(rows: Sequence[SweepRow]) -> Mapping[str, Sequence[str | float]]:
    """Return the table as columns."""
    columns = zip(*rows, strict=True) if rows else ([] for _ in SweepRow._fields)
    return dict(zip(SweepRow._fields, map(list, columns), strict=True))


def sweep_text(rows: Sequence[SweepRow]) -> str:
    """Return the table as lines of aligned text, the best configuration marked."""
    best = max((row.mean for row in rows if not math.isnan(row.mean)), default=math.nan)
    lines = [("configuration", "runs", "mean", "95 % interval", "best", "")]
    for row in rows:
        lines.append(
            (
                row.configuration,
                str(row.runs) if row.runs == row.finished else f"{row.finished} of {row.runs}",
                _number(row.mean),
                f"[{_number(row.low)}, {_number(row.high)}]" if row.finished > 1 else "",
                _number(row.best),
                "<- best mean" if row.mean == best and len(rows) > 1 else "",
            )
        )
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(
        "  ".join(
            cell.ljust(width) if i in (0, 5) else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        + "\n"
        for line in lines
    )


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.6g}"
