"""One run from start to end: seed, loop, checkpoint, resume, evaluate, report."""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import math
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch

from mbrl import checkpoint
from mbrl.config import Config, from_mapping
from mbrl.errors import (
    ArgumentError,
    ConfigError,
    DivergenceError,
    MbrlError,
    RankError,
    StorageError,
    one_line,
)
from mbrl.finished_runs import (
    UNFIT,
    check_resumable,
    check_states,
    evaluate_actor,
    evaluation_seed,
    fitting_evaluation_task,
    made_algorithm,
    resumed_config,
    training_task,
    unfit,
)
from mbrl.follower import Follower, agree_to_stop, evaluation_is_due
from mbrl.physics.digest import model_digest
from mbrl.ranks import Ranks, joined
from mbrl.recording import played
from mbrl.resources import located
from mbrl.run_folder import RunFolder
from mbrl.seeding import reseed, seeded
from mbrl.showing import Showing
from mbrl.signals import Interrupted, Stop, routed
from mbrl.tasks import Evaluation
from mbrl.types import RecordedEpisode

_CHOOSING = 5_000  # added to the seed of evaluations during training
_VERSIONED = ("torch", "mujoco", "gymnasium", "numpy", "mbrl-mujoco")
_NOTHING = (float("-inf"), float("-inf"))  # a score below every other


class Result(NamedTuple):
    """What :func:`run` returns."""

    summary: dict[str, Any]  # summary.json
    run_dir: Path  # the run's folder


def run(config: Config | Mapping[str, Any], *, resume: str | Path | None = None) -> Result:
    """Train, evaluate in the real environment, and leave a run folder behind.

    Args:
        config: what to run: a loaded configuration, or a mapping with the same keys.
        resume: the folder of a run to continue from its newest checkpoint, bit for bit as if it
            had never stopped; only the keys in ``finished_runs.RESUMABLE`` may differ.

    Returns:
        The summary (summary.json) and the folder.

    Raises:
        MbrlError: whatever goes wrong. Everything before it is saved, except where the disk itself
            is the trouble: then what was saved before stays.
        Interrupted: after SIGINT or SIGTERM, with a checkpoint written. A second signal raises
            KeyboardInterrupt at once.

    Under ``torchrun`` all ranks call this alike. They share the algorithm's work (see
    :class:`~mbrl.ranks.Ranks`); rank 0 has the folder, evaluates, and tells the others the result.
    """
    if isinstance(config, Config):
        config = config.as_dict()
    config = from_mapping(located(config) if isinstance(config, Mapping) else config)
    stop, threads = Stop(), torch.get_num_threads()
    with routed(stop), seeded(config.seed):
        try:
            with joined() as ranks:
                if ranks.leads:
                    return _Run(config, resume, stop, ranks).execute()
                return Result(*Follower(config, resume, stop, ranks).execute())
        except MbrlError:
            raise
        except OSError as error:
            place, file = Path(config.output_dir if resume is None else resume), error.filename
            if file is not None and not Path(str(file)).absolute().is_relative_to(place.absolute()):
                raise  # not the run's: of a node's or an environment's code
            raise StorageError(f"cannot write the run: {one_line(error)}") from error
        finally:
            torch.set_num_threads(threads)


class _Run:
    """The state of a run in progress."""

    def __init__(self, config: Config, resume: str | Path | None, stop: Stop, ranks: Ranks):
        self._started = time.perf_counter()
        self.config, self._stop, self._ranks = config, stop, ranks
        torch.set_num_threads(config.torch_threads)
        self._task = training_task(config)
        simulator = self._task.simulator
        self._model = None if simulator is None else model_digest(simulator.model)
        self._began_with = self._model
        self._eval_task = fitting_evaluation_task(config, self._task)
        self._generator = torch.Generator().manual_seed(config.seed)
        self._kind = config.algorithm["kind"]
        self._algorithm = made_algorithm(
            config,
            self._task,
            self._generator,
            self._pause,
            lambda: self.folder.latest.parent,
            ranks,
        )
        check_states(self._eval_task, self._task, self._algorithm, self._kind)
        self._update, self._env_steps, self._wall = 0, 0, 0.0
        self._pauses = 0  # in the middle of updates
        self._tell: Callable[[str], None] = lambda doing: None
        self._best = _NOTHING
        self._saved, self._saved_at = -1, time.perf_counter()  # the update of latest.pt, and when
        self._counted_at = 0.0  # up to when the time of the update in progress is part of the wall
        self._whole = self._drawn()  # where they were when the algorithm's state was whole
        self._owed = False  # an evaluation that is due has not come to its end
        if resume is None:
            self.folder = RunFolder.create(
                Path(config.output_dir), config.name or "run", config.seed
            )
        else:
            self.folder = RunFolder.open(resume)
        self.folder.claim()
        try:
            if resume is None:
                self.folder.write_config(config.as_dict())
            else:
                self._go_on(resumed_config(resume))
            ranks.told(str(self.folder.path))
        except BaseException:
            self.folder.release()
            raise

    def _go_on(self, before: Config) -> None:
        """Begin where the newest checkpoint is."""
        config = self.config
        # Completed: an option that came with a later version had its default value before.
        check_resumable(before.as_dict(), config.as_dict())
        self._restore(checkpoint.load(self.folder.latest))
        if self._algorithm.updates < self._update:
            raise ConfigError(
                f"--resume: algorithm.updates must be at least {self._update}, which are made, "
                f"got {self._algorithm.updates}"
            )
        if self.folder.read_config() != config.as_dict():
            self.folder.write_config(config.as_dict())
            self.folder.log("resumed with another configuration: see config.yaml")

    def execute(self) -> Result:
        """Run the loop, then evaluate and summarise; errors are logged."""
        try:
            return self._execute()
        except Exception as error:
            if isinstance(error, DivergenceError):
                error.run_dir = self.folder.path
            with contextlib.suppress(OSError):  # a full disk, perhaps: the error itself says more
                self.folder.log(f"{type(error).__name__}: {error}")
            raise
        finally:
            self.folder.release()

    def _execute(self) -> Result:
        total = self._algorithm.updates
        self.folder.log(
            f"training {self._kind} on {self.config.task}, update {self._update}/{total}"
        )
        self._save()  # so that a run can be resumed from its beginning on
        checkpoint.load(self.folder.latest)  # not found out when it is needed
        showing = Showing(
            self.folder,
            self.config,
            self._algorithm,
            self._task,
            self._eval_task,
            done=self._update,
            check=self._stop_if_asked,
            play=self._played,
        )
        self._tell = showing.note
        if self._model != self._began_with:
            showing.warn(
                f"the model of {self.config.task} is not the one of the last checkpoint: its file, "
                "or the version of MuJoCo, has changed"
            )
        try:
            showing.begin()
            self._train(showing)
            self._save()
            with self._ranks.together():
                evaluation = self._final_evaluation()
            summary = self._summary(evaluation)
            self.folder.write_summary(summary)
            self.folder.log(f"eval_return_mean={summary['eval_return_mean']}")
            showing.finish(self._update, summary)
        except RankError as error:
            self._save()
            raise RankError(f"{error}; resume with --resume {self.folder.path}") from error
        finally:
            showing.close()
        self._ranks.told(json.dumps(summary))
        return Result(summary, self.folder.path)

    def _train(self, showing: Showing) -> None:
        if self._owed:
            self._saved = -1  # latest.pt owes it, too
            self._look_back({})
        while self._update < self._algorithm.updates:
            self._stop_if_any_is_asked()
            self._counted_at = time.perf_counter()
            before = self._wall
            showing.before_update()
            measured = self._measured_update()
            self._update += 1
            self._env_steps += int(measured.pop("env_steps"))
            self._count_time()
            row = {"update": self._update, "env_steps": self._env_steps, "wall_s": self._wall}
            showing.after_update({**row, **measured}, self._wall - before)
            self._look_back(measured)
            showing.exhibit(self._update)

    def _played(self) -> RecordedEpisode:
        """Return the first episode of the last evaluation, by the present policy."""
        drawn = self._drawn()
        try:
            return played(
                self._eval_task,
                self._algorithm.actor(),
                evaluation_seed(self.config),
                seconds=self.config.monitor.video.seconds,
                before=self._end_if_asked,
            )
        except Interrupted:
            self._draw_from(drawn)
            self._save()
            raise
        finally:
            self._draw_from(drawn)  # as if nobody had looked

    def _measured_update(self) -> dict[str, float]:
        """Make an update; if it fails, save what was whole before, random numbers included."""
        if self._ranks.size > 1:
            reseed(self.config.seed, self._update, self._ranks.rank)
        self._whole, paused = self._drawn(), self._pauses
        try:
            measured = self._algorithm.update()
        except Interrupted:  # saved where it stopped
            raise
        except MbrlError:  # of anything else nobody knows what it leaves half done
            self._draw_from(self._whole)
            if self._pauses > paused:
                self._saved = -1  # there is more to save than what was before the update
            self._save()
            raise
        if not isinstance(measured, dict) or "env_steps" not in measured:
            raise ArgumentError(
                f"algorithm {self._kind}: update() must return a dict of numbers with env_steps, "
                f"got {measured!r}"
            )
        return measured

    def _drawn(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return where the run's random numbers are, and those of torch that nodes may draw."""
        return self._generator.get_state(), torch.get_rng_state()

    def _draw_from(self, drawn: tuple[torch.Tensor, torch.Tensor]) -> None:
        self._generator.set_state(drawn[0])
        torch.set_rng_state(drawn[1])

    def _pause(self, doing: str) -> None:
        """In the middle of an update: stop if asked to, and save if it has been long."""
        stops = agree_to_stop(self._stop, self._ranks)
        self._tell(doing)
        self._count_time()
        self._whole = self._drawn()
        self._pauses += 1
        long = time.perf_counter() - self._saved_at > self.config.checkpoint.seconds
        if long or stops:
            self._saved = -1  # that was of the update's beginning
            self._save()
        if stops:
            self._stop_if_asked()

    def _count_time(self) -> None:
        now = time.perf_counter()
        self._wall += now - self._counted_at
        self._counted_at = now

    def _stop_if_any_is_asked(self) -> None:
        """For what all ranks do together."""
        if agree_to_stop(self._stop, self._ranks):
            self._stop_if_asked()

    def _stop_if_asked(self) -> None:
        if self._stop.signum is not None:
            self._save()
        self._end_if_asked()

    def _end_if_asked(self) -> None:
        """In the middle of an episode, whose random numbers are not what is to be saved."""
        if self._stop.signum is not None:
            raise Interrupted(self._stop.signum, self.folder.path)

    def _look_back(self, measured: dict[str, float]) -> None:
        """After an update: evaluate if it is time, keep the best, write a checkpoint."""
        every = self.config.evaluation.every
        score = _NOTHING
        state = self._algorithm.state_dict
        if every == 0:
            state = getattr(self._algorithm, "measured_state_dict", state)
            # Returns over rollouts of different lengths do not compare: longer ones rank first.
            value = measured.get("return_mean", float("nan"))
            if math.isfinite(value):
                score = measured.get("horizon", 0.0), value
        elif evaluation_is_due(self.config, self._update):
            with self._ranks.together():
                score = float("inf"), self._intermediate_evaluation()
            self.folder.log(f"update {self._update}: evaluation return {score[1]}")
        # The best first: latest.pt must not know of a best.pt that a crash kept from being written.
        if score > self._best:
            self._best = score
            checkpoint.save(self.folder.best, self._content(state()))
        if self._update % self.config.checkpoint.every == 0:
            self._save()

    def _save(self) -> None:
        if self._saved != self._update:
            checkpoint.save(self.folder.latest, self._content(), keep_previous=True)
            self._saved, self._saved_at = self._update, time.perf_counter()

    def _content(self, state: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Return what a checkpoint holds; ``state``: of the algorithm, None: the present one."""
        task = self._task
        return {
            "update": self._update,
            "env_steps": self._env_steps,
            "wall_s": self._wall,
            "model": self._model,
            "best": list(self._best),
            "owed": self._owed,
            "torch_numbers": torch.get_rng_state(),
            "algorithm": self._algorithm.state_dict() if state is None else state,
            "sizes": {
                "state_size": task.state_size,
                "observation_size": task.observation_size,
                "action_low": task.action_low,
                "action_high": task.action_high,
            },
        }

    def _restore(self, content: dict[str, Any]) -> None:
        try:
            self._algorithm.load_state_dict(content["algorithm"])
            self._update, self._env_steps = int(content["update"]), int(content["env_steps"])
            self._began_with = content.get("model", self._model)
            self._wall = float(content["wall_s"])
            rank, score = map(float, content["best"])
            self._best = rank, score
            self._owed = bool(content.get("owed", False))
            torch.set_rng_state(content.get("torch_numbers", torch.get_rng_state()))
        except UNFIT as error:
            raise unfit(self.folder.path, error) from error
        self._saved = self._update

    def _final_evaluation(self) -> Evaluation:
        if self._best == _NOTHING:  # nothing was measured: the best known is the latest
            checkpoint.save(self.folder.best, self._content())
        if self.config.evaluation.policy == "best":
            self._algorithm.load_state_dict(checkpoint.load(self.folder.best)["algorithm"])
        return self._evaluate(evaluation_seed(self.config))

    def _intermediate_evaluation(self) -> float:
        """Evaluate during training; what cuts it short is saved, and resuming makes up for it."""
        self._owed = True
        try:
            # Other episodes than the last evaluation's: what chooses the best must not flatter it.
            evaluation = self._evaluate(evaluation_seed(self.config) + _CHOOSING)
        except Exception:
            self._save()
            raise
        self._owed = False
        return float(evaluation.returns.mean())

    def _evaluate(self, seed: int) -> Evaluation:
        """Evaluate the current policy; a signal ends it midway."""
        self._actor = self._algorithm.actor()
        episodes = self.config.evaluation.episodes
        try:
            return evaluate_actor(
                self._eval_task, self._actor, episodes, seed, before=self._end_if_asked
            )
        except Interrupted:
            self._save()
            raise

    def _summary(self, evaluation: Evaluation) -> dict[str, Any]:
        returns, successes = evaluation.returns, evaluation.successes
        rate = {} if successes is None else {"eval_success_rate": float(successes.mean())}
        return {
            "algorithm": self._kind,
            "task": self._task.name,
            "eval_task": self._eval_task.name,
            "seed": self.config.seed,
            "updates": self._update,
            "env_steps": self._env_steps,
            "ranks": self._ranks.size,
            "wall_s": self._wall,
            "total_s": time.perf_counter() - self._started,
            "eval_return_mean": float(returns.mean()),
            "eval_return_std": float(returns.std()),
            "eval_episodes": len(returns),
            "eval_length_mean": float(evaluation.lengths.mean()),
            **rate,
            **getattr(self._actor, "measured", dict)(),
            "versions": versions(),
        }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that results depend on."""
    found = {"python": platform.python_version()}
    for name in _VERSIONED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
