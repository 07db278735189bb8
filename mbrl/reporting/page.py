"""The page: tables, curves, pictures and videos of runs in one HTML file."""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from mbrl.errors import MbrlError, StorageError, one_line
from mbrl.graph import draw, parse
from mbrl.monitoring import chart_figure
from mbrl.registry import ALGORITHMS
from mbrl.reporting.groups import Group, curve, grouped
from mbrl.reporting.html import (
    Embedding,
    caption,
    details,
    document,
    image_of,
    link,
    section,
    table,
    video_of,
)
from mbrl.reporting.options import ReportOptions
from mbrl.reporting.runs import RunRecord
from mbrl.reporting.sweep_table import group_row
from mbrl.run_folder import whole
from mbrl.types import Chart, Panel

_RETURN = "return_mean"
_CLOCKS = {"update": "update", "env_steps": "environment steps", "wall_s": "seconds of training"}
_RESULTS = ("eval_return_mean", "eval_return_std", "eval_success_rate", "wall_s")
# The same page for the same runs, whose names and columns are no formulas.
_DRAWN: Any = {"svg.fonttype": "none", "svg.hashsalt": "mbrl", "text.parse_math": False}
_FILES = ("config.yaml", "metrics.csv", "summary.json", "log.txt")


def write_report(run_dirs: Sequence[str | Path], options: ReportOptions | None = None) -> Path:
    """Write one page about runs, finished or not; it opens without any other file or network.

    Runs that differ in their seeds alone are drawn as their mean with a 95 % interval.

    Args:
        run_dirs: the folders.
        options: where to; None: the defaults.

    Returns:
        The page.

    Raises:
        ConfigError: if a folder is none of a run, or given twice.
        StorageError: if the page cannot be written.
    """
    groups = grouped([RunRecord.read(run_dir) for run_dir in run_dirs])
    file = None if options is None else options.file
    path = Path(file or Path(run_dirs[0]) / "report.html")
    embedding = Embedding(path.parent)
    title = ", ".join(dict.fromkeys(run.name for group in groups for run in group.runs))
    text = document(title, "".join(_parts(groups, embedding)))
    try:
        with whole(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror}") from error
    return path


def _parts(groups: Sequence[Group], embedding: Embedding) -> Iterator[str]:
    runs = [run for group in groups for run in group.runs]
    yield section("Runs", _run_table(runs))
    if any(len(group.runs) > 1 for group in groups):
        yield section("Over seeds", _group_table(groups))
    yield section("Curves", *_curves(groups))
    graphs: dict[str, list[str]] = {}
    for group in groups:
        picture = _graph(group.runs[0])
        if picture is not None:
            graphs.setdefault(picture, []).append(group.label)
    for picture, labels in graphs.items():
        yield section(f"Computation graph: {'; '.join(labels)}", picture)
    for run in runs:
        yield section(f"{run.name}, {run.path.resolve().name}", *_run_parts(run, embedding))


def _run_table(runs: Sequence[RunRecord]) -> str:
    measured = [
        name
        for name in _RESULTS
        if name == "wall_s" or any(run.result(name) is not None for run in runs)
    ]
    head = [
        "run", "task", "algorithm", "seed", "state", "updates", "env_steps", _RETURN, *measured,
    ]  # fmt: skip
    rows = []
    for run in runs:
        known: dict[str, Any] = {name: run.result(name) for name in measured}
        known["wall_s"] = run.last("wall_s") if run.summary is None else known["wall_s"]
        rows.append(
            [
                run.path.resolve().name,
                run.config.get("task"),
                run.algorithm.get("kind"),
                run.config.get("seed"),
                run.state,
                run.updates,
                run.last("env_steps"),
                run.last(_RETURN),
                *known.values(),
            ]
        )
    return table(head, rows)


def _group_table(groups: Sequence[Group]) -> str:
    rows = []
    for group in groups:
        row = group_row(group)
        interval = f"{row.low:.4g} to {row.high:.4g}" if row.finished > 1 else None
        known = [row.mean, interval, row.worst, row.best] if row.finished else [None] * 4
        rows.append([row.configuration, row.runs, row.finished, *known])
    head = ["configuration", "seeds", "finished", "eval_return_mean", "95 % interval"]
    return table([*head, "worst", "best"], rows)


def _curves(groups: Sequence[Group]) -> Iterator[str]:
    for x, label in _CLOCKS.items():
        yield _chart(groups, _RETURN, x, label)
    runs = [run for group in groups for run in group.runs]
    still = {}
    for column in dict.fromkeys(column for run in runs for column in run.metrics):
        if column != _RETURN and column not in _CLOCKS:
            found = [run.metrics[column] for run in runs if column in run.metrics]
            values = np.unique(np.concatenate(found))
            of_all = len(found) == sum(bool(run.metrics) for run in runs)
            if not np.isfinite(values).any():
                continue
            if len(values) == 1 and of_all and max(map(len, found)) > 1:
                still[column] = values[0]
            else:
                yield _chart(groups, column, "update", "update")
    if still:
        yield caption("the same all the time: " + ", ".join(f"{n} {v:g}" for n, v in still.items()))


def _chart(groups: Sequence[Group], column: str, x: str, x_label: str) -> str:
    curves = [found for group in groups if (found := curve(group, column, x)) is not None]
    if not curves:
        return ""
    panel = Panel(column, x_label, column, curves)
    picture = io.StringIO()
    with matplotlib.rc_context(_DRAWN):
        chart_figure(Chart(column, [panel], {})).savefig(
            picture, format="svg", metadata={"Date": None}
        )
    return image_of(_without_references(picture.getvalue()).encode(), "svg", column)


def _without_references(svg: str) -> str:
    """Leave out what names other places, though nothing would be fetched from there."""
    for part in (r"<!DOCTYPE.*?>", r"<metadata>.*?</metadata>"):
        svg = re.sub(part, "", svg, flags=re.DOTALL)
    return svg


def _graph(run: RunRecord) -> str | None:
    """Return a drawing of the graph of a run, if it has one that is known here."""
    entry = ALGORITHMS.get(run.algorithm.get("kind")) if _is_known(run) else None
    if not getattr(entry, "uses_graph", False):
        return None
    drawn = run.path / "plots" / "graph.png"
    if drawn.is_file():  # with the widths of its values
        return image_of(drawn.read_bytes(), "png", "computation graph")
    with tempfile.TemporaryDirectory() as folder:
        try:
            draw(parse(run.config.get("graph")), Path(folder, "graph.png"))
        except MbrlError as error:  # of nodes that somebody else registers
            return caption(f"not drawn: {one_line(error)}")
        return image_of(Path(folder, "graph.png").read_bytes(), "png", "computation graph")


def _is_known(run: RunRecord) -> bool:
    return run.algorithm.get("kind") in ALGORITHMS


def _run_parts(run: RunRecord, embedding: Embedding) -> Iterator[str]:
    video = run.video()
    if video is not None:
        yield video_of(video, embedding)
        strip = video.with_suffix(".png")
        if strip.is_file():
            yield embedding.picture(strip, "filmstrip")
    for plot in run.plots():
        if plot.stem != "graph":
            yield embedding.picture(plot, plot.stem)
    yield details("configuration", run.config_text)
    files = [run.path / name for name in _FILES if (run.path / name).is_file()]
    yield caption("files: ", *(link(file, embedding.folder) for file in files))
