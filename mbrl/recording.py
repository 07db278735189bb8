"""Episodes of a policy on record: a video, a filmstrip, the trajectory as a picture and a table."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mbrl.algorithms import Actor, StateActor
from mbrl.errors import TaskError
from mbrl.monitoring import Filmstrip, draw_chart, write_columns, write_video
from mbrl.run_folder import RunFolder, whole
from mbrl.seeding import seeded
from mbrl.tasks import Collection, Playback, Task
from mbrl.types import Array, Chart, Curve, Panel, RecordedEpisode

_SECONDS_OF_A_STEP = 1 / 25  # of tasks without time, as they are played


def played(
    task: Task,
    actor: Actor | StateActor,
    seed: int,
    *,
    seconds: float | None = None,
    before: Callable[[], None] = lambda: None,
) -> RecordedEpisode:
    """Return an episode of an actor in the Gymnasium environment.

    Args:
        task: what to make the environment of.
        actor: what acts, on observations or on states.
        seed: that the environment is reset with.
        seconds: how much of the episode, in its own time; None: all of it.
        before: called before every step; what it raises ends the episode.

    Raises:
        TaskError: if the environment raises, or nothing limits the episode.
        DivergenceError: if an observation, an action or a reward is NaN or infinite.
    """
    on_states = getattr(actor, "on_states", False)
    steps = _steps(task, seconds)
    act: Callable[..., Array] = actor.act
    actor.reset()
    with (
        seeded(seed),
        Collection(
            task, [seed], steps=steps, space="states" if on_states else "observations"
        ) as collection,
    ):
        while not collection.is_over:
            before()
            seen = collection.observations
            more = (collection.t, collection.contexts, collection.running) if on_states else ()
            collection.step(act(seen, *more))
        return RecordedEpisode(seed, collection.episodes()[0].actions.numpy())


def cut(task: Task, episode: RecordedEpisode, seconds: float | None) -> RecordedEpisode:
    """Return the first seconds of an episode of a task; None: all of it."""
    if seconds is None:
        return episode
    return episode._replace(actions=episode.actions[: _length(task, seconds)])


def film(
    folder: RunFolder,
    name: str,
    task: Task,
    episode: RecordedEpisode,
    before: Callable[[], None] = lambda: None,
) -> tuple[Path, Path]:
    """Write videos/<name>.mp4 and a filmstrip beside it, both or neither.

    Args:
        folder: of the run.
        name: of the files.
        task: what the episode is of.
        episode: the episode.
        before: called before every frame; what it raises ends the recording.

    Returns:
        The video and the filmstrip.

    Raises:
        TaskError: if nothing can be drawn here, saying what that takes.
        StorageError: if the video cannot be written.
    """
    frames_of = Playback(task, episode, before=before)
    strip = Filmstrip(len(frames_of))
    paths = folder.video(f"{name}.mp4"), folder.video(f"{name}.png")
    with (
        whole(paths[0]) as video,
        whole(paths[1]) as picture,
        contextlib.closing(strip.watched(frames_of)) as frames,
    ):
        write_video(frames, video, fps=frames_of.fps)
        strip.write(picture)
    return paths


def plot_trajectory(folder: RunFolder, name: str, task: Task, episode: RecordedEpisode) -> Path:
    """Write plots/<name>.png and .csv: states, actions and rewards over time.

    Returns:
        The picture.
    """
    chart = trajectory_chart(name, task, episode)
    paths = folder.plot(f"{name}.csv"), folder.plot(f"{name}.png")
    with whole(paths[0]) as table, whole(paths[1]) as picture:
        write_columns(chart.columns, table)
        draw_chart(chart, picture)
    return paths[1]


def trajectory_chart(name: str, task: Task, episode: RecordedEpisode) -> Chart:
    """Return states, actions and rewards of an episode, by the steps' beginnings.

    Of a simulated task the state is that of the mechanism: positions, velocities, activations.
    """
    count = len(episode.actions)
    with Collection(task, [episode.seed], steps=count, space="states") as collection:
        for action in episode.actions:
            collection.step(action[None])
        found = collection.episodes()[0]
    dt = 1.0 if task.simulator is None else task.simulator.dt
    time: Array = np.arange(count, dtype=np.float64) * dt
    x_label = "step" if task.simulator is None else "time [s]"
    parts = [
        *_parts_of_state(task, found.observations.numpy()[:count]),
        ("actions", "action", episode.actions.reshape(count, -1).astype(np.float64)),
        ("rewards", "reward", found.rewards.numpy()[:, None]),
    ]
    panels, columns = [], {x_label: time.tolist()}
    for title, label, values in parts:
        named = {
            label if values.shape[1] == 1 else f"{label} {i}": values[:, i]
            for i in range(values.shape[1])
        }
        curves = [Curve(key, time, *(value,) * 3) for key, value in named.items()]
        panels.append(Panel(title, x_label, title, curves))
        columns |= {key: value.tolist() for key, value in named.items()}
    return Chart(name, panels, columns)


def _parts_of_state(task: Task, states: Array) -> Iterator[tuple[str, str, Array]]:
    if task.simulator is None:
        yield "states", "state", states
        return
    spec: Any = task.simulator.spec
    for (title, label), values in zip(
        (("positions", "q"), ("velocities", "v"), ("activations", "act")),
        np.split(states, [spec.nq, spec.nq + spec.nv], axis=1),
        strict=True,
    ):
        if values.shape[1]:
            yield title, label, values


def _steps(task: Task, seconds: float | None) -> int:
    limit = task.max_episode_steps
    if seconds is None:
        if limit is None:
            raise TaskError(f"{task.name} has no max_episode_steps: its episodes might never end")
        return limit
    return _length(task, seconds) if limit is None else min(limit, _length(task, seconds))


def _length(task: Task, seconds: float) -> int:
    dt = _SECONDS_OF_A_STEP if task.simulator is None else task.simulator.dt
    return max(1, math.ceil(seconds / dt))
