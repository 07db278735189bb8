"""The sinks that a run can do without."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from mbrl.monitoring.csv_file import read_metrics
from mbrl.monitoring.options import MonitorOptions
from mbrl.monitoring.stream import Dispensable, Sink
from mbrl.monitoring.tensorboard import TensorBoard
from mbrl.monitoring.visdom import Visdom, environment_name


def dashboards(
    options: MonitorOptions,
    run: Path,
    *,
    done: int,
    store: Path,
    warn: Callable[[str], None],
    say: Callable[[str], None],
) -> list[Sink]:
    """Return what a configuration asks for; none of it can hurt the run.

    Args:
        options: the ``monitor`` section.
        run: its folder, <name of the configuration>/<name of the run>.
        done: updates made already; metrics.csv has no others.
        store: where a visdom server that is started keeps what it was told.
        warn: says a line about a failure.
        say: says where to look.
    """
    sinks: list[Sink] = []
    if options.tensorboard:
        make = partial(TensorBoard, run / "tensorboard", done)
        sinks.append(Dispensable("TensorBoard", make, warn))
    if options.visdom.is_wanted:

        def make_visdom() -> Sink:
            past = read_metrics(run / "metrics.csv") if done else None
            env = environment_name(run.resolve().parts[-2:])
            sink = Visdom(options.visdom, env, warn=warn, say=say, store=store, past=past)
            if not done and (options.video.every or options.video.final):
                sink.tell("video", "none yet")  # keeps its place among the first windows
            return sink

        sinks.append(Dispensable("visdom", make_visdom, warn))
    return sinks
