"""The ranks of a run that are not its first."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import torch

from mbrl import checkpoint
from mbrl.config import Config
from mbrl.errors import DivergenceError, RankError
from mbrl.finished_runs import UNFIT, made_algorithm, training_task, unfit
from mbrl.ranks import Ranks
from mbrl.run_folder import RunFolder
from mbrl.seeding import reseed
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
        self._config, self._stop, self._ranks = config, stop, ranks
        torch.set_num_threads(config.torch_threads)
        self._algorithm = made_algorithm(
            config,
            training_task(config),
            torch.Generator().manual_seed(config.seed),
            lambda doing: self._stop_if_any_is_asked(),
            ranks=ranks,
        )
        self._update, self._owed = 0, False
        if resume is not None:
            content = checkpoint.load(RunFolder.open(resume).latest)
            try:
                self._algorithm.load_state_dict(content["algorithm"])
                self._update = int(content["update"])
                self._owed = bool(content.get("owed", False))
            except UNFIT as error:
                raise unfit(resume, error) from error
        self._path = Path(ranks.told(""))

    def execute(self) -> tuple[dict[str, Any], Path]:
        """Make the updates, and hear of the summary and the folder."""
        try:
            if self._owed:
                self._look_back()
            while self._update < self._algorithm.updates:
                self._stop_if_any_is_asked()
                reseed(self._config.seed, self._update, self._ranks.rank)
                self._algorithm.update()
                self._update += 1
                self._look_back()
            with self._ranks.together():  # the last evaluation
                pass
            return json.loads(self._ranks.told("")), self._path
        except (RankError, DivergenceError):
            # Rank 0 stops on its own in the middle of an evaluation.
            if self._stop.signum is not None:
                raise Interrupted(self._stop.signum, self._path) from None
            raise

    def _look_back(self) -> None:
        """Wait for an evaluation of rank 0, and end if that does not come to its end."""
        if evaluation_is_due(self._config, self._update):
            with self._ranks.together():
                pass

    def _stop_if_any_is_asked(self) -> None:
        if agree_to_stop(self._stop, self._ranks) and self._stop.signum is not None:
            raise Interrupted(self._stop.signum, self._path)


def evaluation_is_due(config: Config, update: int) -> bool:
    """Whether an update is followed by an evaluation."""
    every = config.evaluation.every
    return every > 0 and update % every == 0


def agree_to_stop(stop: Stop, ranks: Ranks) -> bool:
    """Return whether any rank was asked to stop, and make that request one to all of them.

    A signal that comes while they agree counts the next time: what is returned is the same on all.
    """
    found = ranks.any(stop.signum is not None)
    if found and stop.signum is None:
        stop.signum = signal.SIGTERM
    return found
