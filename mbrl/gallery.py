"""What a run shows of its updates beside numbers: pictures and videos, files of its folder."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from mbrl.algorithms import Algorithm
from mbrl.errors import one_line
from mbrl.graph import Graph, draw
from mbrl.monitoring import (
    MonitorOptions,
    Picture,
    Sink,
    draw_chart,
    draw_open_loop,
    write_columns,
)
from mbrl.recording import cut, film, plot_trajectory
from mbrl.run_folder import RunFolder, whole
from mbrl.signals import Interrupted
from mbrl.tasks import Task
from mbrl.types import Exhibits, RecordedEpisode


class Gallery:
    """Shows the exhibits of an algorithm, of every so many updates.

    It is an extra: whatever fails is said once, and then nothing more of that kind is tried in this
    run, which goes on.

    Args:
        folder: of the run.
        task: what the algorithm's episodes are of.
        eval_task: what those of ``play`` are of.
        options: what to show, and when.
        sink: is shown every picture, too.
        warn: says a line about a failure.
        check: called now and then while that takes long; raises Interrupted if the run is to stop.
        play: plays an episode by the present policy; may raise Interrupted.
    """

    def __init__(
        self,
        folder: RunFolder,
        task: Task,
        eval_task: Task,
        options: MonitorOptions,
        *,
        sink: Sink,
        warn: Callable[[str], None],
        check: Callable[[], None],
        play: Callable[[], RecordedEpisode],
    ):
        self._folder, self._task, self._eval_task = folder, task, eval_task
        self._options, self._sink, self._warn = options, sink, warn
        self._check, self._play = check, play
        every: dict[str, tuple[int, Callable[[int, Exhibits], None]]] = {
            "plots": (options.plots.every, self._plot),
            "videos": (options.video.every, self._record),
            "charts": (options.plots.every, self._chart),
        }
        self._kinds = {kind: found for kind, found in every.items() if found[0]}
        self._given_up: set[str] = set()

    def begin(self, algorithm: Algorithm) -> None:
        """Show the algorithm's computation graph, if there is one and somebody to see it."""
        graph = getattr(algorithm, "graph", None)
        if self._sink.wants_pictures and isinstance(graph, Graph):
            self._attempt("graphs", self._draw_graph, graph)

    def show(self, update: int, algorithm: Algorithm) -> None:
        """Show what ``algorithm`` has to show of an update, as far as it is time for it."""
        exhibits: Callable[[], Exhibits] = getattr(algorithm, "exhibits", Exhibits)
        for kind, (every, show) in self._kinds.items():
            # Charts are of all updates so far, and so never without the last.
            if update % every and not (kind == "charts" and update == algorithm.updates):
                continue
            self._attempt(kind, _exhibit, show, update, exhibits)

    def finish(self, update: int) -> None:
        """Show the first episode of the last evaluation, if asked to."""
        if self._options.video.final:
            self._attempt("videos", self._record_final, update)

    def _draw_graph(self, graph: Graph) -> None:
        with whole(self._folder.plot("graph.png")) as path:
            draw(graph.spec, path, graph.widths)
        self._announce("graph", self._folder.plot("graph.png"), 0)

    def _plot(self, update: int, exhibits: Exhibits) -> None:
        if exhibits.open_loop is None:
            return
        picture = self._folder.plot(f"open_loop_{update:04}.png")
        with whole(picture) as path:
            draw_open_loop(exhibits.open_loop, path, f"open-loop prediction, update {update}")
        self._announce("open_loop", picture, update)

    def _chart(self, update: int, exhibits: Exhibits) -> None:
        chart = exhibits.chart
        if chart is None:
            return
        final = self._folder.plot(f"{chart.name}.png")
        with whole(self._folder.plot(f"{chart.name}.csv")) as table, whole(final) as picture:
            write_columns(chart.columns, table)
            draw_chart(chart, picture)
        self._announce(chart.name, final, update)

    def _record(self, update: int, exhibits: Exhibits) -> None:
        if exhibits.episode is None:
            self._film(f"update_{update:04}", update, self._eval_task, self._play())
        else:
            episode = cut(self._task, exhibits.episode, self._options.video.seconds)
            self._film(f"update_{update:04}", update, self._task, episode)

    def _record_final(self, update: int) -> None:
        episode = self._play()
        plot = plot_trajectory(self._folder, "trajectory", self._eval_task, episode)
        self._announce("trajectory", plot, update)
        self._film("episode", update, self._eval_task, episode)

    def _film(self, name: str, update: int, task: Task, episode: RecordedEpisode) -> None:
        video, strip = film(self._folder, name, task, episode, self._check)
        self._announce("video", video, update)
        self._announce("filmstrip", strip, update)

    def _announce(self, name: str, path: Path, update: int) -> None:
        self._sink.show(Picture(name, path, update))

    def _attempt(self, kind: str, show: Callable[..., None], *arguments: Any) -> None:
        if kind in self._given_up:
            return
        try:
            show(*arguments)
        except Interrupted:
            raise
        except Exception as error:
            self._given_up.add(kind)
            self._warn(f"no more {kind} in this run: {one_line(error)}")


def _exhibit(
    show: Callable[[int, Exhibits], None], update: int, exhibits: Callable[[], Exhibits]
) -> None:
    show(update, exhibits())
