"""Returns of a policy in the real environment."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mbrl.errors import DivergenceError, TaskError, users_code
from mbrl.tasks.task import Task
from mbrl.types import Array


class Evaluation(NamedTuple):
    """Undiscounted returns and lengths of complete episodes."""

    returns: Array  # (episodes,)
    lengths: Array  # (episodes,)


def evaluate(task: Task, act: Callable[[Array], Array], *, episodes: int, seed: int) -> Evaluation:
    """Run complete episodes in the Gymnasium environment, all of them in lockstep.

    Args:
        task: what to make environments of.
        act: observations [episodes, n_obs] -> actions [episodes, nu]; may keep a state per row.
        episodes: how many.
        seed: episode i is reset with seed + i.

    Raises:
        TaskError: if the environment has no time limit, so that an episode might never end; if it
            raises, naming it and what it raised.
        DivergenceError: if an observation, an action or a reward is NaN or infinite.
    """
    if task.max_episode_steps is None:
        raise TaskError(f"{task.name} has no max_episode_steps: its episodes might never end")
    envs = [task.make_env() for _ in range(episodes)]
    try:
        with users_code(f"{task.name}: reset"):
            observations = np.stack([env.reset(seed=seed + i)[0] for i, env in enumerate(envs)])
        returns, lengths = np.zeros(episodes), np.zeros(episodes)
        running = np.ones(episodes, dtype=bool)
        while running.any():
            _require_finite(task, "observation", observations[running])
            actions = act(observations)
            _require_finite(task, "action", actions[running])
            for i in np.flatnonzero(running):
                with users_code(f"{task.name}: step {lengths[i] + 1:.0f} of an evaluation"):
                    observations[i], reward, terminated, truncated, _ = envs[i].step(actions[i])
                    returns[i] += float(reward)
                lengths[i] += 1
                running[i] = not (terminated or truncated)
            _require_finite(task, "reward", returns)
    finally:
        for env in envs:
            with contextlib.suppress(Exception):  # no result depends on it, and it may hide why
                env.close()
    return Evaluation(returns, lengths)


def _require_finite(task: Task, name: str, value: Array) -> None:
    if not np.isfinite(value).all():
        raise DivergenceError(f"{task.name}: an evaluation met NaN or infinity in: {name}")
