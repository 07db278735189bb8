"""One run from start to end: seed, loop, checkpoint, resume, evaluate, report."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import platform
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import torch

from mbrl import checkpoint
from mbrl.algorithms import Algorithm, Setting
from mbrl.config import Config, from_mapping
from mbrl.errors import CheckpointError, ConfigError, MbrlError
from mbrl.graph import GraphPolicy, parse
from mbrl.monitoring import Console, CsvFile, MetricStream
from mbrl.registry import ALGORITHMS
from mbrl.run_folder import RunFolder
from mbrl.tasks import Evaluation, Task, evaluate, make_task

_EVALUATION_SEED = 10_000
_VERSIONED = ("torch", "mujoco", "gymnasium", "numpy", "mbrl-mujoco")


class Result(NamedTuple):
    """What :func:`run` returns."""

    summary: dict[str, Any]
    run_dir: Path


class Interrupted(MbrlError):
    """A run was asked to stop by a signal, and has saved itself.

    Attributes:
        signum: the signal.
        run_dir: where to resume.
    """

    def __init__(self, signum: int, run_dir: Path):
        super().__init__(
            f"stopped by {signal.Signals(signum).name}; resume with --resume {run_dir}"
        )
        self.signum, self.run_dir = signum, run_dir


def run(config: Config, *, resume: str | Path | None = None) -> Result:
    """Train, evaluate in the real environment, and leave a run folder behind.

    Args:
        config: what to run.
        resume: the folder of a run to continue from its newest checkpoint, bit for bit as if it
            had never stopped.

    Returns:
        The summary (summary.json) and the folder.

    Raises:
        MbrlError: whatever goes wrong; everything up to then is saved.
        Interrupted: after SIGINT or SIGTERM, with a checkpoint written.
    """
    run_ = _Run(config, resume)
    try:
        with _signals(run_):
            return run_.execute()
    except MbrlError as error:
        run_.folder.log(f"{type(error).__name__}: {error}")
        raise


def import_packages(names: tuple[str, ...] | list[str]) -> None:
    """Import the packages that register a user's environments, nodes and algorithms.

    Raises:
        ConfigError: naming the package that cannot be imported.
    """
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise ConfigError(
                f"--import: cannot import {name!r} ({type(error).__name__}: {reason}); "
                "it must be importable from here, e.g. by PYTHONPATH"
            ) from error


def load_policy(run_dir: str | Path, which: str = "latest") -> GraphPolicy:
    """Return the trained policy of a run, ready to act; no simulator is made.

    Args:
        run_dir: the folder of the run.
        which: "latest" or "best".

    Raises:
        ConfigError: if it is no run folder.
        CheckpointError: if there is no undamaged checkpoint.
    """
    folder = RunFolder.open(run_dir)
    if which not in ("latest", "best"):
        raise ConfigError(f"which must be 'latest' or 'best', got {which!r}")
    content = checkpoint.load(folder.latest if which == "latest" else folder.best)
    stored = folder.read_config()
    import_packages(stored.get("imports") or [])
    policy = GraphPolicy(parse(stored["graph"]), _StoredSizes(content["sizes"]))
    wanted = policy.state_dict()
    weights = content["algorithm"]["graph"]
    missing = [name for name in wanted if name not in weights]
    if missing:
        raise CheckpointError(f"{run_dir}: the checkpoint lacks {', '.join(missing[:3])}")
    policy.load_state_dict({name: weights[name] for name in wanted})
    return policy


class _StoredSizes:
    """Sizes and bounds of a task, as a checkpoint keeps them."""

    def __init__(self, stored: dict[str, Any]):
        self.state_size = int(stored["state_size"])
        self.observation_size = int(stored["observation_size"])
        self.action_low: torch.Tensor = stored["action_low"]
        self.action_high: torch.Tensor = stored["action_high"]

    @property
    def action_size(self) -> int:
        return len(self.action_low)


class _Run:
    """The state of a run in progress."""

    def __init__(self, config: Config, resume: str | Path | None):
        self._started = time.perf_counter()
        self.config = config
        import_packages(list(config.imports))
        torch.set_num_threads(config.torch_threads)
        self._task = make_task(config.task, threads=config.threads, **config.task_args)
        self._eval_task = self._make_eval_task()
        generator = torch.Generator().manual_seed(config.seed)
        options = dict(config.algorithm)
        self._kind = options.pop("kind")
        self._algorithm: Algorithm = ALGORITHMS.get(self._kind)(
            Setting(self._task, config.graph, generator), **options
        )
        self._update, self._env_steps, self._wall, self._best = 0, 0, 0.0, float("-inf")
        self._saved = -1
        self._signum: int | None = None
        if resume is None:
            self.folder = RunFolder.create(
                Path(config.output_dir), config.name or "run", config.seed
            )
            self.folder.write_config(config.as_dict())
        else:
            self.folder = RunFolder.open(resume)
            self._restore(checkpoint.load(self.folder.latest))

    def execute(self) -> Result:
        """Run the loop, then evaluate and summarise."""
        total = self._algorithm.updates
        self.folder.log(
            f"training {self._kind} on {self.config.task}, update {self._update}/{total}"
        )
        stream = MetricStream(
            [CsvFile(self.folder.metrics, keep=self._update), Console(total, self._update)]
        )
        try:
            self._train(stream, total)
        finally:
            stream.close()
            # Whatever went wrong, the last complete update is kept.
            self._save()
        evaluation = self._final_evaluation()
        summary = self._summary(evaluation)
        self.folder.write_summary(summary)
        self.folder.log(f"eval_return_mean={summary['eval_return_mean']}")
        return Result(summary, self.folder.path)

    def stop(self, signum: int, frame: FrameType | None) -> None:
        """Note a signal; the loop stops after the update at hand. A second one stops at once."""
        if self._signum is not None:
            raise KeyboardInterrupt
        self._signum = signum

    def _train(self, stream: MetricStream, total: int) -> None:
        while self._update < total:
            if self._signum is not None:
                self._save()
                raise Interrupted(self._signum, self.folder.path)
            start = time.perf_counter()
            measured = self._algorithm.update()
            self._update += 1
            self._env_steps += int(measured.pop("env_steps"))
            self._wall += time.perf_counter() - start
            row = {"update": self._update, "env_steps": self._env_steps, "wall_s": self._wall}
            stream.write({**row, **measured})
            self._look_back(measured)

    def _look_back(self, measured: dict[str, float]) -> None:
        """After an update: evaluate if it is time, keep the best, write a checkpoint."""
        every = self.config.evaluation.every
        if every == 0:
            score = measured.get("return_mean", float("-inf"))
        elif self._update % every == 0:
            score = float(self._evaluate().returns.mean())
            self.folder.log(f"update {self._update}: evaluation return {score}")
        else:
            score = float("-inf")
        if self._update % self.config.checkpoint.every == 0:
            self._save()
        if score > self._best:
            self._best = score
            checkpoint.save(self.folder.best, self._content())

    def _save(self) -> None:
        if self._saved != self._update:
            checkpoint.save(self.folder.latest, self._content(), keep_previous=True)
            self._saved = self._update

    def _content(self) -> dict[str, Any]:
        task = self._task
        return {
            "update": self._update,
            "env_steps": self._env_steps,
            "wall_s": self._wall,
            "best": self._best,
            "algorithm": self._algorithm.state_dict(),
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
            self._wall, self._best = float(content["wall_s"]), float(content["best"])
        except (KeyError, ValueError, RuntimeError, TypeError) as error:
            reason = " ".join(str(error).split())
            raise CheckpointError(
                f"{self.folder.path}: the checkpoint does not fit the configuration: {reason}"
            ) from error
        self._saved = self._update

    def _make_eval_task(self) -> Task:
        config = self.config
        if config.eval_task is None and not config.eval_task_args:
            return self._task
        task = make_task(config.eval_task or config.task, **config.eval_task_args)
        if task.observation_size != self._task.observation_size:
            raise ConfigError(
                f"eval_task: {task.name} has observations of width {task.observation_size}, "
                f"the policy is trained on {self._task.observation_size}"
            )
        if task.action_size != self._task.action_size:
            raise ConfigError(
                f"eval_task: {task.name} has actions of width {task.action_size}, "
                f"the policy is trained on {self._task.action_size}"
            )
        return task

    def _final_evaluation(self) -> Evaluation:
        if self.config.evaluation.policy == "best":
            self._algorithm.load_state_dict(checkpoint.load(self.folder.best)["algorithm"])
        return self._evaluate()

    def _evaluate(self) -> Evaluation:
        options = self.config.evaluation
        seed = _EVALUATION_SEED + self.config.seed if options.seed is None else options.seed
        actor = self._algorithm.actor()
        actor.reset()
        return evaluate(self._eval_task, actor.act, episodes=options.episodes, seed=seed)

    def _summary(self, evaluation: Evaluation) -> dict[str, Any]:
        returns = evaluation.returns
        return {
            "algorithm": self._kind,
            "task": self._task.name,
            "eval_task": self._eval_task.name,
            "seed": self.config.seed,
            "updates": self._update,
            "env_steps": self._env_steps,
            "wall_s": self._wall,
            "total_s": time.perf_counter() - self._started,
            "eval_return_mean": float(returns.mean()),
            "eval_return_std": float(returns.std()),
            "eval_episodes": len(returns),
            "eval_length_mean": float(evaluation.lengths.mean()),
            "versions": versions(),
        }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that results depend on."""
    found = {"python": platform.python_version()}
    for name in _VERSIONED:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def resumed_config(run_dir: str | Path) -> Config:
    """Return the configuration of a run that is to be continued."""
    folder = RunFolder.open(run_dir)
    content = folder.read_config()
    import_packages(content.get("imports") or [])
    return from_mapping(content)


@contextlib.contextmanager
def _signals(run_: _Run) -> Iterator[None]:
    """Route SIGINT and SIGTERM to the run, where this thread may."""
    before = {}
    try:
        for signum in (signal.SIGINT, signal.SIGTERM):
            before[signum] = signal.signal(signum, run_.stop)
    except ValueError:  # not the main thread: the caller handles signals
        pass
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
