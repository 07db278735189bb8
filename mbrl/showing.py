"""What is shown of a run while it is made: numbers, texts, pictures, and where they go."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mbrl.algorithms import Algorithm
from mbrl.config import Config
from mbrl.errors import one_line
from mbrl.gallery import Gallery
from mbrl.monitoring import Console, CsvFile, MetricStream, Row, dashboards
from mbrl.run_folder import RunFolder
from mbrl.tasks import Task
from mbrl.types import Array, RecordedEpisode

_SECONDS_BETWEEN_DIAGNOSES = 1.0


class Showing:
    """Shows a run; nothing of it changes its results.

    Args:
        folder: of the run.
        config: its configuration.
        algorithm: what is trained.
        task: what it is trained on.
        eval_task: what it is evaluated in.
        done: updates made already.
        check: called now and then while something takes long; may raise Interrupted.
        play: plays an episode by the present policy; may raise Interrupted.
    """

    def __init__(
        self,
        folder: RunFolder,
        config: Config,
        algorithm: Algorithm,
        task: Task,
        eval_task: Task,
        *,
        done: int,
        check: Callable[[], None],
        play: Callable[[], RecordedEpisode],
    ):
        self._folder, self._algorithm, self._task = folder, algorithm, task
        self._console = Console(algorithm.updates, done)
        # Before dashboards, which show what it has kept of an earlier part of the run.
        table = CsvFile(folder.metrics, keep=done)
        store = Path(config.output_dir) / ".visdom"
        extras = dashboards(
            config.monitor, folder.path, done=done, store=store, warn=self.warn, say=_say
        )
        self._stream = MetricStream([table, self._console, *extras])
        self._gallery = Gallery(
            folder,
            task,
            eval_task,
            config.monitor,
            sink=self._stream,
            warn=self.warn,
            check=check,
            play=play,
        )
        self._engine_before = 0.0
        self._diagnosed_at = float("-inf")
        self._is_undiagnosed = False  # as that has failed

    def begin(self) -> None:
        """Show what is known before the first update."""
        self._stream.tell("configuration", self._folder.config_text())
        self._gallery.begin(self._algorithm)

    def note(self, doing: str) -> None:
        """Show what the update in progress is at."""
        self._console.note(doing)

    def before_update(self) -> None:
        """Look at the engine's clock."""
        self._engine_before = self._engine_seconds()

    def after_update(self, row: Row, seconds: float) -> None:
        """Show the numbers of an update.

        Args:
            row: what metrics.csv is to hold.
            seconds: that the update took.
        """
        self._stream.write(row)
        if self._stream.wants_diagnostics:
            update = int(row["update"])
            self._stream.diagnose(update, self._diagnostics(update, seconds))

    def exhibit(self, update: int) -> None:
        """Show the pictures of an update, as far as it is time for them."""
        self._gallery.show(update, self._algorithm)

    def finish(self, update: int, summary: Mapping[str, Any]) -> None:
        """Show how it ended."""
        self._stream.tell("summary", json.dumps(summary, indent=2))
        self._gallery.finish(update)

    def warn(self, line: str) -> None:
        """Say what the run can do with, on the console and in its log."""
        _say(f"warning: {line}")
        with contextlib.suppress(OSError):  # a full disk, perhaps
            self._folder.log(line)

    def close(self) -> None:
        """Release files and threads."""
        self._stream.close()

    def _diagnostics(self, update: int, seconds: float) -> dict[str, Array]:
        """Return what the algorithm knows of its last update, and the engine's share of it."""
        found: dict[str, Array] = {}
        # Of these the latest counts; computing them takes up to a hundredth of a short update.
        now, is_last = time.perf_counter(), update >= self._algorithm.updates
        if is_last or now - self._diagnosed_at > _SECONDS_BETWEEN_DIAGNOSES:
            self._diagnosed_at = now
            found |= self._of_algorithm()
        if self._task.simulator is not None:
            share = (self._engine_seconds() - self._engine_before) / seconds
            found["engine_share"] = np.array(share)
        return found

    def _of_algorithm(self) -> dict[str, Array]:
        if self._is_undiagnosed:
            return {}
        try:
            return dict(getattr(self._algorithm, "diagnostics", dict)())
        except Exception as error:  # a run can do without
            self._is_undiagnosed = True
            self.warn(f"no more diagnostics in this run: {one_line(error)}")
            return {}

    def _engine_seconds(self) -> float:
        return 0.0 if self._task.simulator is None else self._task.simulator.engine_seconds


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
