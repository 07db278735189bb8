"""Returns of a policy in the real environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from mbrl.errors import TaskError
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
        TaskError: if the environment has no time limit, so that an episode might never end.
    """
    if task.max_episode_steps is None:
        raise TaskError(f"{task.name} has no max_episode_steps: its episodes might never end")
    envs = [task.make_env() for _ in range(episodes)]
    try:
        observations = np.stack([env.reset(seed=seed + i)[0] for i, env in enumerate(envs)])
        returns, lengths = np.zeros(episodes), np.zeros(episodes)
        running = np.ones(episodes, dtype=bool)
        while running.any():
            actions = act(observations)
            for i in np.flatnonzero(running):
                observations[i], reward, terminated, truncated, _ = envs[i].step(actions[i])
                returns[i] += float(reward)
                lengths[i] += 1
                running[i] = not (terminated or truncated)
    finally:
        for env in envs:
            env.close()
    return Evaluation(returns, lengths)
