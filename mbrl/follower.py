"""The ranks of a run that are not its first."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import torch

from mbrl import checkpoint
from mbrl.config import Config
from mbrl.errors import RankError
from mbrl.finished_runs import UNFIT, made_algorithm, training_task, unfit
from mbrl.ranks import Ranks
from mbrl.run_folder import RunFolder
from mbrl.signals import Interrupted, Stop


class Follower:
    """A rank that computes with the others, and leaves files, words and evaluations to rank 0.

    It takes part in whatever rank 0 asks of all: whether to stop before an update and where one
    pauses, the updates themselves, and at the end the results.

    Args:
        config: what to run.
        resume: the folder of a run to continue, or None.
        stop: whether a signal asked for the end.
        ranks: all of them.
    """

    def __init__(self, config: Config, resume: str | Path | None, stop: Stop, ranks: Ranks):
        self._stop, self._ranks = stop, ranks
        torch.set_num_threads(config.torch_threads)
        self._algorithm = made_algorithm(
            config,
            training_task(config),
            torch.Generator().manual_seed(config.seed),
            lambda doing: self._stop_if_any_is_asked(),
            ranks=ranks,
        )
        self._update = 0
        if resume is not None:
            content = checkpoint.load(RunFolder.open(resume).latest)
            try:
                self._algorithm.load_state_dict(content["algorithm"])
                self._update = int(content["update"])
            except UNFIT as error:
                raise unfit(resume, error) from error
        self._path = Path(ranks.told(""))

    def execute(self) -> tuple[dict[str, Any], Path]:
        """Make the updates, and hear of the summary and the folder."""
        try:
            while self._update < self._algorithm.updates:
                self._stop_if_any_is_asked()
                self._algorithm.update()
                self._update += 1
            return json.loads(self._ranks.told("")), self._path
        except RankError:
            # Rank 0 stops on its own in the middle of an evaluation.
            if self._stop.signum is not None:
                raise Interrupted(self._stop.signum, self._path) from None
            raise

    def _stop_if_any_is_asked(self) -> None:
        agree_to_stop(self._stop, self._ranks)
        if self._stop.signum is not None:
            raise Interrupted(self._stop.signum, self._path)


def agree_to_stop(stop: Stop, ranks: Ranks) -> None:
    """Make a request to stop that one rank got one to all of them."""
    if ranks.any(stop.signum is not None) and stop.signum is None:
        stop.signum = signal.SIGTERM
