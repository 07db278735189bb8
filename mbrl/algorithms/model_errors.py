"""How wrong a model of the dynamics is on episodes, as algorithms report it."""

from __future__ import annotations

import math

from mbrl.data import Trajectories
from mbrl.nn import DynamicsModel, one_step_error, open_loop_error

OPEN_LOOP = 15  # steps of the predictions whose errors are measured


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
