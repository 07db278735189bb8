"""What a run shows of its updates beside numbers: pictures and videos, files of its folder."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable

from mbrl.algorithms import Algorithm
from mbrl.errors import one_line
from mbrl.monitoring import (
    Filmstrip,
    MonitorOptions,
    draw_chart,
    draw_open_loop,
    write_columns,
    write_video,
)
from mbrl.run_folder import RunFolder, whole
from mbrl.signals import Interrupted
from mbrl.tasks import Playback, Task
from mbrl.types import Exhibits


class Gallery:
    """Shows the exhibits of an algorithm, of every so many updates.

    It is an extra: whatever fails is said once, on standard error and in the log, and then nothing
    more of that kind is tried in this run, which goes on.

    Args:
        folder: of the run.
        task: what its episodes are of.
        options: what to show, and when.
        check: called now and then while that takes long; raises Interrupted if the run is to stop.
    """

    def __init__(
        self, folder: RunFolder, task: Task, options: MonitorOptions, check: Callable[[], None]
    ):
        self._folder, self._task, self._check = folder, task, check
        every: dict[str, tuple[int, Callable[[int, Exhibits], None]]] = {
            "plots": (options.plots.every, self._plot),
            "videos": (options.video.every, self._record),
            "charts": (options.plots.every, self._chart),
        }
        self._kinds = {kind: found for kind, found in every.items() if found[0]}

    def show(self, update: int, algorithm: Algorithm) -> None:
        """Show what ``algorithm`` has to show of an update, as far as it is time for it."""
        exhibits: Callable[[], Exhibits] | None = getattr(algorithm, "exhibits", None)
        if exhibits is None:
            return
        for kind, (every, show) in list(self._kinds.items()):
            # Charts are of all updates so far, and so never without the last.
            if update % every and not (kind == "charts" and update == algorithm.updates):
                continue
            try:
                show(update, exhibits())
            except Interrupted:
                raise
            except Exception as error:
                self._give_up(kind, f"no more {kind} in this run: {one_line(error)}")

    def _plot(self, update: int, exhibits: Exhibits) -> None:
        if exhibits.open_loop is None:
            return
        with whole(self._folder.plot(f"open_loop_{update:04}.png")) as path:
            draw_open_loop(exhibits.open_loop, path, f"open-loop prediction, update {update}")

    def _chart(self, update: int, exhibits: Exhibits) -> None:
        chart = exhibits.chart
        if chart is None:
            return
        with (
            whole(self._folder.plot(f"{chart.name}.csv")) as table,
            whole(self._folder.plot(f"{chart.name}.png")) as picture,
        ):
            write_columns(chart.columns, table)
            draw_chart(chart, picture)

    def _record(self, update: int, exhibits: Exhibits) -> None:
        if exhibits.episode is None:
            return
        film = Playback(self._task, exhibits.episode, before=self._check)
        strip = Filmstrip(len(film))
        with (
            whole(self._folder.video(f"update_{update:04}.mp4")) as video,
            whole(self._folder.video(f"update_{update:04}.png")) as picture,
            contextlib.closing(strip.watched(film)) as frames,
        ):
            write_video(frames, video, fps=film.fps)
            strip.write(picture)

    def _give_up(self, kind: str, warning: str) -> None:
        del self._kinds[kind]
        print(f"warning: {warning}", file=sys.stderr, flush=True)
        with contextlib.suppress(OSError):  # a full disk, perhaps
            self._folder.log(warning)
