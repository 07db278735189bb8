"""How wrong a model of the dynamics is on episodes, as algorithms report it."""

from __future__ import annotations

import math

from mbrl.data import Episode, Trajectories
from mbrl.nn import DynamicsModel, one_step_error, open_loop_error
from mbrl.tasks import Task
from mbrl.types import OpenLoop

OPEN_LOOP = 15  # steps of the predictions whose errors are measured
_SHOWN = 150  # steps, at most, of the one that is shown


def model_errors(model: DynamicsModel, data: Trajectories, prefix: str = "") -> dict[str, float]:
    """Return the error over one step, and that of 15 steps on the model's own predictions.

    Args:
        model: the model.
        data: episodes that it has not been fitted to.
        prefix: of the names.

    Returns:
        ``one_step_error``, root mean square in deviations of the change, and ``open_loop_error``,
        that after the last of 15 steps in deviations of the states; NaN without so long episodes.
    """
    one = one_step_error(model, data.transitions()).normalized
    windows = data.windows(OPEN_LOOP, stride=OPEN_LOOP)
    many = math.nan
    if len(windows.actions):
        states, actions = windows.observations.transpose(0, 1), windows.actions.transpose(0, 1)
        many = float(open_loop_error(model, states, actions).normalized[-1])
    return {
        f"{prefix}one_step_error": float(one.square().mean().sqrt()),
        f"{prefix}open_loop_error": many,
    }


def open_loop(task: Task, model: DynamicsModel, episode: Episode) -> OpenLoop:
    """Return how the model foretells the beginning of an episode of the task."""
    seen, actions = episode.observations[: _SHOWN + 1], episode.actions[:_SHOWN]
    predicted = model.rollout(seen[:1], actions[:, None]).states[:, 0]
    dt = None if task.simulator is None else task.simulator.dt
    return OpenLoop(seen.numpy(), predicted.numpy(), dt)
