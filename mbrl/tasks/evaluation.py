"""Returns of a policy in the real environment."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mbrl.errors import TaskError
from mbrl.tasks.lockstep import Lockstep
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
    returns, lengths = np.zeros(episodes), np.zeros(episodes)
    with Lockstep(task, range(seed, seed + episodes), "an evaluation") as rows:
        contexts = np.stack([task.context_of(env) for env in rows.envs]) if on_states else None
        t = 0
        while rows.running.any():
            stepped = np.flatnonzero(rows.running)
            rows.require_finite("observation", rows.observations[stepped])
            if on_states:
                actions = act(rows.states(), t, contexts, rows.running.copy())
            else:
                actions = act(rows.observations)
            returns += rows.step(actions)
            lengths[stepped] += 1
            t += 1
        return Evaluation(returns, lengths, rows.succeeded)
