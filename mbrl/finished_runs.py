"""What can be done with runs that are finished: load their policies, evaluate them again."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from mbrl import checkpoint
from mbrl.algorithms import Actor, Algorithm, Setting, StateActor
from mbrl.config import Config, from_mapping
from mbrl.errors import (
    ArgumentError,
    CheckpointError,
    ConfigError,
    MbrlError,
    ModelError,
    TaskError,
    one_line,
)
from mbrl.graph import GraphPolicy, kind_of, parse
from mbrl.landscape import LandscapeOptions, Loss, surface
from mbrl.monitoring import Progress, draw_surface
from mbrl.physics.digest import model_digest
from mbrl.ranks import ALONE, Ranks
from mbrl.recording import film, played, plot_trajectory
from mbrl.registry import ALGORITHMS
from mbrl.run_folder import RunFolder, whole
from mbrl.seeding import seeded
from mbrl.tasks import Evaluation, Task, evaluate, make_task
from mbrl.types import Array

_EVALUATION_SEED = 10_000
# What may be changed when a run is continued: what its past updates did not depend on.
RESUMABLE = ("algorithm.updates", "evaluation", "checkpoint", "monitor", "threads", "imports")
# What loading the state of something else raises.
UNFIT = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


def resumed_config(run_dir: str | Path) -> Config:
    """Return the configuration of a run.

    Raises:
        ConfigError: if it is no run folder, or its configuration is not legal here.
    """
    return from_mapping(RunFolder.open(run_dir).read_config())


def check_resumable(before: Mapping[str, Any], now: Mapping[str, Any], where: str = "") -> None:
    """Refuse changes that would make a run's configuration lie about its past.

    Args:
        before: the configuration.
        now: what it is to become.
        where: the prefix of its keys.

    Raises:
        ConfigError: naming a key that may not change.
    """
    for key in {**before, **now}:
        path = f"{where}{key}"
        old, new = before.get(key), now.get(key)
        if old == new or path in RESUMABLE:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            check_resumable(old, new, f"{path}.")
            continue
        raise ConfigError(
            f"--resume: {path} was {old!r} and cannot become {new!r}; what may change: "
            f"{', '.join(RESUMABLE)}"
        )


def load_policy(run_dir: str | Path, which: str = "latest") -> Actor | StateActor:
    """Return the policy of a run, ready to act.

    A trained policy needs no simulator. A planner, which has ``on_states``, does, and acts on
    states: see ``mbrl.planning.RecedingHorizon.act``.

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
    config = resumed_config(run_dir)
    content = checkpoint.load(folder.latest if which == "latest" else folder.best)
    try:
        weights = content["algorithm"].get("graph")
        if weights is None:
            return _planner_of(config, content["algorithm"])
        spec = parse(config.graph)
        on_state = any(kind_of(node).on_state for node in spec.nodes)
        sizes = training_task(config) if on_state else _StoredSizes(content["sizes"])
        policy = GraphPolicy(spec, sizes)
        policy.load_state_dict({name: weights[name] for name in policy.state_dict()})
    except UNFIT as error:
        if isinstance(error, MbrlError):
            raise
        raise unfit(run_dir, error) from error
    return policy


def _planner_of(config: Config, state: Mapping[str, Any]) -> Actor | StateActor:
    generator = torch.Generator().manual_seed(config.seed)  # whose number may name its policies
    algorithm = made_algorithm(config, training_task(config), generator)
    algorithm.load_state_dict(state)
    return algorithm.actor()


def made_algorithm(
    config: Config,
    task: Task,
    generator: torch.Generator,
    pause: Callable[[str], None] = lambda doing: None,
    folder: Callable[[], Path | None] = lambda: None,
    ranks: Ranks = ALONE,
) -> Algorithm:
    """Return the algorithm of a configuration, not yet begun; for the rest see ``Setting``.

    Raises:
        ConfigError: if it cannot be shared by so many ranks.
    """
    options = dict(config.algorithm)
    kind = options.pop("kind")
    entry = ALGORITHMS.get(kind)
    if ranks.size > 1 and not _shared(entry):
        legal = ", ".join(sorted(name for name in ALGORITHMS if _shared(ALGORITHMS.get(name))))
        raise ConfigError(
            f"algorithm.kind: {kind} runs in one process, and there are {ranks.size}; legal under "
            f"torchrun: {legal}"
        )
    setting = Setting(task, config.graph, generator, load_policy, pause, folder, ranks)
    algorithm: Algorithm = entry(setting, **options)
    return algorithm


def _shared(entry: object) -> bool:
    return bool(getattr(entry, "shares_ranks", False))


def evaluate_run(run_dir: str | Path, config: Config) -> Evaluation:
    """Evaluate the policy of a run as the run itself does at its end.

    Args:
        run_dir: the folder of the run.
        config: its configuration, perhaps with another evaluation.

    Raises:
        MbrlError: if there is no such run, or it cannot be evaluated.
    """
    with _torch_threads(config.torch_threads):
        return evaluate_actor(
            _task_of(run_dir, config),
            load_policy(run_dir, config.evaluation.policy),
            config.evaluation.episodes,
            evaluation_seed(config),
        )


def _task_of(run_dir: str | Path, config: Config) -> Task:
    """Return what a run is evaluated in; warn if it is its own, and no longer what it was."""
    other = evaluation_task(config)
    if other is not None:
        return other
    folder, task, before = RunFolder.open(run_dir), training_task(config), resumed_config(run_dir)
    if task.simulator is None or (before.task, before.task_args) != (config.task, config.task_args):
        return task
    content = checkpoint.load(folder.best if config.evaluation.policy == "best" else folder.latest)
    if content.get("model") not in (None, model_digest(task.simulator.model)):
        warnings.warn(
            f"the model of {config.task} is not the one of the run: its file, or the version of "
            "MuJoCo, has changed",
            RuntimeWarning,
            stacklevel=2,
        )
    return task


@contextlib.contextmanager
def _torch_threads(threads: int) -> Iterator[None]:
    """Compute with as many threads as the run did: the last bit of a product depends on them."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def evaluate_actor(
    task: Task,
    actor: Actor | StateActor,
    episodes: int,
    seed: int,
    *,
    before: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Run complete episodes of an actor, from their beginning.

    Args:
        task: what is evaluated in.
        actor: what acts, on observations or on states.
        episodes: how many, in lockstep.
        seed: see ``mbrl.tasks.evaluate``.
        before: called before every step; what it raises ends the evaluation.
    """
    actor.reset()
    method: Callable[..., Array] = actor.act

    def act(*seen: Any) -> Array:
        before()
        return method(*seen)

    on_states = getattr(actor, "on_states", False)
    with seeded(seed):
        return evaluate(task, act, episodes=episodes, seed=seed, on_states=on_states)


def record_run(run_dir: str | Path, config: Config) -> Path:
    """Record the first episode that the policy of a run is evaluated on.

    It leaves videos/episode.mp4, a filmstrip beside it, and the trajectory as plots/trajectory.png
    and .csv.

    Args:
        run_dir: the folder of the run.
        config: its configuration, perhaps with another evaluation or other arguments of its task.

    Returns:
        The video.

    Raises:
        MbrlError: if there is no such run, or nothing can be drawn here.
    """
    folder, task = RunFolder.open(run_dir), _task_of(run_dir, config)
    with _torch_threads(config.torch_threads):
        actor = load_policy(run_dir, config.evaluation.policy)
        episode = played(task, actor, evaluation_seed(config), seconds=config.monitor.video.seconds)
    plot_trajectory(folder, "trajectory", task, episode)
    return film(folder, "episode", task, episode)[0]


def draw_landscape(run_dir: str | Path, config: Config, options: LandscapeOptions) -> Path:
    """Evaluate the loss around the solution of a run, and draw it.

    What was computed goes to plots/landscape.npz, see :class:`~mbrl.landscape.Surface`; it and the
    picture are written together, when all is done.

    Args:
        run_dir: the folder of the run.
        config: its configuration.
        options: the grid.

    Returns:
        The picture, plots/landscape.png.

    Raises:
        MbrlError: if there is no such run, or it has no loss to draw.
    """
    folder, generator = RunFolder.open(run_dir), torch.Generator().manual_seed(options.seed)
    progress = Progress(options.points**2, "point")
    with _torch_threads(config.torch_threads), contextlib.closing(progress):
        loss = _loss(folder, config, options, generator)
        found = surface(loss, options, generator, evaluated=progress.advance)
    picture, archive = folder.plot("landscape.png"), folder.plot("landscape.npz")
    with whole(archive) as data, whole(picture) as image:
        found.save(data)
        draw_surface(found, image, f"{config.name} {folder.path.name}", options.scale)
    return picture


def _loss(
    folder: RunFolder, config: Config, options: LandscapeOptions, generator: torch.Generator
) -> Loss:
    """Return the loss of a run, at the parameters of a checkpoint."""
    kind = config.algorithm["kind"]
    if not hasattr(ALGORITHMS.get(kind), "loss"):
        legal = [name for name in ALGORITHMS if hasattr(ALGORITHMS.get(name), "loss")]
        raise ConfigError(
            f"--mode landscape: {folder.path} is a run of {kind!r}, which has no loss to draw; "
            f"legal: runs of {', '.join(legal)}"
        )
    which = options.policy or config.evaluation.policy
    content = checkpoint.load(folder.latest if which == "latest" else folder.best)
    algorithm: Any = made_algorithm(config, training_task(config), torch.Generator())
    try:
        algorithm.load_state_dict(content["algorithm"])
    except UNFIT as error:
        raise unfit(folder.path, error) from error
    loss: Loss = algorithm.loss(generator, options.batch)
    return loss


def training_task(config: Config) -> Task:
    """Return the task of a configuration; errors name its key."""
    return _made("task", config.task, {"threads": config.threads, **config.task_args})


def evaluation_task(config: Config) -> Task | None:
    """Return what is evaluated in, if it is not the task itself."""
    if config.eval_task is None and not config.eval_task_args:
        return None
    if config.eval_task is None:  # the task itself, but for these arguments
        return _made("eval_task_args", config.task, {**config.task_args, **config.eval_task_args})
    return _made("eval_task", config.eval_task, config.eval_task_args)


def fitting_evaluation_task(config: Config, task: Task) -> Task:
    """Return what is evaluated in, where a policy of ``task`` can act and episodes end.

    Raises:
        TaskError: if they might never end.
        ConfigError: if its widths are others.
    """
    found = evaluation_task(config) or task
    if found.max_episode_steps is None:
        raise TaskError(
            f"eval_task: {found.name} has no max_episode_steps: its episodes might never end"
        )
    for what, there, here in (
        ("observations", found.observation_size, task.observation_size),
        ("actions", found.action_size, task.action_size),
    ):
        if there != here:
            raise ConfigError(
                f"eval_task: {found.name} has {what} of width {there}, the policy is trained on "
                f"{here}"
            )
    return found


def check_states(found: Task, task: Task, algorithm: Algorithm, kind: str) -> None:
    """What acts on states must be evaluated on states like those it was made for.

    Raises:
        ConfigError: if it is not.
    """
    if found.state_size != task.state_size and getattr(algorithm.actor(), "on_states", False):
        raise ConfigError(
            f"eval_task: {found.name} has states of width {found.state_size}, algorithm {kind} "
            f"plans for those of task {task.name}, {task.state_size}"
        )


def _made(key: str, name: str, arguments: Mapping[str, Any]) -> Task:
    try:
        return make_task(name, **arguments)
    except (ArgumentError, ConfigError, ModelError, TaskError) as error:
        own = "eval_task_args" if key.startswith("eval_") else "task_args"
        text, named = re.subn(r"\btask_args\b", own, str(error))
        # Where the task names a key of its own arguments, that says it all.
        raise type(error)(text if named else f"{key}: {text}") from error


def evaluation_seed(config: Config) -> int:
    """Return the seed of the first episode of a run's last evaluation."""
    given = config.evaluation.seed
    # Far apart: episode i uses the seed plus i, and runs of other seeds other episodes.
    return _EVALUATION_SEED * (1 + config.seed) if given is None else given


def unfit(run_dir: str | Path, error: Exception) -> CheckpointError:
    """Return the error of a checkpoint whose content is not what its run needs."""
    return CheckpointError(
        f"{run_dir}: the checkpoint does not fit the configuration: {one_line(error)}"
    )


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
