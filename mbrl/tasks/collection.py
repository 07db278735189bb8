"""Experience of the real environment, as data for models of its dynamics."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from mbrl.data import Episode
from mbrl.errors import ArgumentError, TaskError
from mbrl.physics import quiet
from mbrl.tasks.lockstep import Lockstep
from mbrl.tasks.task import Task
from mbrl.types import Array

_WHAT = "a collection"

Act = Callable[[Tensor, int], Tensor]


def collect(
    task: Task, act: Act, *, episodes: int, steps: int, generator: torch.Generator
) -> list[Episode]:
    """Run episodes in the Gymnasium environment, all of them in lockstep.

    Nothing is kept between calls: where ``generator`` stands, and what ``act`` remembers, is all
    that the next call depends on.

    Args:
        task: what to make environments of.
        act: observations [episodes, n_obs] float64 and the index t of the step -> actions
            [episodes, nu]; called once per step while any episode runs. Rows of episodes that have
            ended keep their last observation, and what is returned for them does not count.
        episodes: how many.
        steps: where an episode is cut that neither ends nor meets the time limit before.
        generator: draws the seeds that the environments are reset with.

    Returns:
        The episodes, with the environment's own rewards.

    Raises:
        ArgumentError: on a number out of range, or actions of the wrong shape.
        DivergenceError: if an observation, an action or a reward is NaN or infinite, or the physics
            diverged.
        TaskError: if the environment raises, naming it and what it raised.
    """
    for name, value in (("episodes", episodes), ("steps", steps)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ArgumentError(f"{name} must be a positive integer, got {value!r}")
    seeds = torch.randint(2**31 - 1, (episodes,), generator=generator).tolist()
    lengths = np.zeros(episodes, dtype=np.int64)
    actions: list[Array] = []
    rewards: list[Array] = []
    with quiet(), Lockstep(task, seeds, _WHAT) as rows:
        observations = [_seen(rows)]
        for t in range(steps):
            if not rows.running.any():
                break
            lengths += rows.running
            actions.append(_chosen(act, observations[-1], t, task.action_size))
            rewards.append(rows.step(actions[-1]))
            rows.require_physics()
            observations.append(_seen(rows))
    whole = (np.stack(part, axis=1) for part in (observations, actions, rewards))
    return [
        Episode(*map(torch.from_numpy, (seen[: length + 1], done[:length], earned[:length])))
        for seen, done, earned, length in zip(*whole, lengths, strict=True)
    ]


def random_actions(task: Task, generator: torch.Generator) -> Act:
    """Return what draws every action uniformly between its bounds, afresh at every step.

    Raises:
        TaskError: if an action of the task has no bounds.
    """
    low, high = task.action_low, task.action_high
    if not bool((low.isfinite() & high.isfinite()).all()):
        raise TaskError(f"{task.name}: actions without bounds cannot be drawn uniformly")

    def act(observations: Tensor, t: int) -> Tensor:
        size = len(observations), task.action_size
        return low + (high - low) * torch.rand(size, generator=generator, dtype=torch.float64)

    return act


def _seen(rows: Lockstep) -> Array:
    observations = rows.observations.astype(np.float64)  # a copy: the next step writes into them
    rows.require_finite("observation", observations)
    return observations


def _chosen(act: Act, observations: Array, t: int, size: int) -> Array:
    actions = act(torch.from_numpy(observations.copy()), t)
    wanted = [len(observations), size]
    if not isinstance(actions, Tensor) or list(actions.shape) != wanted:
        found = list(actions.shape) if isinstance(actions, Tensor) else type(actions).__name__
        raise ArgumentError(f"act must return actions of shape {wanted}, got {found}")
    chosen: Array = actions.detach().to("cpu", torch.float64, copy=True).numpy()
    return chosen
