"""Returns of a policy in the real environment."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mbrl.errors import DivergenceError, TaskError, users_code
from mbrl.tasks.task import Task
from mbrl.types import Array


class Evaluation(NamedTuple):
    """Undiscounted returns and lengths of complete episodes, and which of them succeeded."""

    returns: Array  # (episodes,)
    lengths: Array  # (episodes,)
    successes: NDArray[np.bool_] | None = None  # (episodes,); None where the task has no criterion


def evaluate(
    task: Task,
    act: Callable[..., Array],
    *,
    episodes: int,
    seed: int,
    on_states: bool = False,
) -> Evaluation:
    """Run complete episodes in the Gymnasium environment, all of them in lockstep.

    Args:
        task: what to make environments of.
        act: observations [episodes, n_obs] -> actions [episodes, nu]; may keep a state per row.
        episodes: how many.
        seed: episode i is reset with seed + i.
        on_states: ``act`` is a controller that measures the state instead: it is called with
            states [episodes, nx], the index t of the step, contexts [episodes, n], and which
            episodes are running [episodes]; rows of the others do not count.

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
        contexts = np.stack([task.context_of(env) for env in envs]) if on_states else None
        returns, lengths = np.zeros(episodes), np.zeros(episodes)
        running = np.ones(episodes, dtype=bool)
        satisfied = np.zeros(episodes, dtype=np.int64)  # states in a row, up to the latest
        t = 0
        while running.any():
            _require_finite(task, "observation", observations[running])
            if on_states:
                actions = act(_states(task, envs), t, contexts, running.copy())
            else:
                actions = act(observations)
            _require_finite(task, "action", actions[running])
            stepped = np.flatnonzero(running)
            for i in stepped:
                with users_code(f"{task.name}: step {t + 1} of an evaluation"):
                    observations[i], reward, terminated, truncated, _ = envs[i].step(actions[i])
                    returns[i] += float(reward)
                lengths[i] += 1
                running[i] = not (terminated or truncated)
            _require_finite(task, "reward", returns)
            if task.success is not None:
                states = torch.from_numpy(_states(task, [envs[i] for i in stepped]))
                holds = task.success.satisfied(states, t).numpy()
                satisfied[stepped] = np.where(holds, satisfied[stepped] + 1, 0)
            t += 1
    finally:
        for env in envs:
            with contextlib.suppress(Exception):  # no result depends on it, and it may hide why
                env.close()
    succeeded = None if task.success is None else satisfied >= task.success.steps
    return Evaluation(returns, lengths, succeeded)


def _states(task: Task, envs: list[Any]) -> Array:
    """Return the states [n, nx] that environments are in."""
    return np.stack([task.state_of(env) for env in envs])


def _require_finite(task: Task, name: str, value: Array) -> None:
    if not np.isfinite(value).all():
        raise DivergenceError(f"{task.name}: an evaluation met NaN or infinity in: {name}")
