"""How wrong a model of dynamics is: over one step, and over many on its own."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mbrl.errors import ArgumentError
from mbrl.nn.dynamics_model import DynamicsModel
from mbrl.types import Transitions

_ROWS_AT_ONCE = 4096


class OneStepError(NamedTuple):
    """Root-mean-square errors of predicted next states.

    ``normalized`` is in deviations of the change: 1 is what predicting the mean change would give.
    """

    rmse: Tensor  # (n,)
    normalized: Tensor  # (n,)


class OpenLoopError(NamedTuple):
    """Errors of predictions that start from true states and then feed on themselves.

    ``normalized`` is in deviations of the states: the root mean square over windows and
    coordinates.
    """

    errors: Tensor  # (k, W, n): predicted minus true
    rmse: Tensor  # (k, n): over windows
    normalized: Tensor  # (k,)


@torch.no_grad()
def one_step_error(model: DynamicsModel, data: Transitions) -> OneStepError:
    """Return how far predicted next states are from true ones, over all rows of ``data``."""
    pairs = zip(data.states.split(_ROWS_AT_ONCE), data.actions.split(_ROWS_AT_ONCE), strict=True)
    predicted = torch.cat([model(states, actions) for states, actions in pairs])
    rmse = (predicted - data.next_states).square().mean(0).sqrt()
    return OneStepError(rmse, rmse / model.target_deviation[: model.state_size].to(rmse))


def open_loop_error(model: DynamicsModel, states: Tensor, actions: Tensor) -> OpenLoopError:
    """Return how predictions drift from true trajectories under the same actions.

    Args:
        model: the model.
        states: W windows of true states, [k+1, W, n]; predictions start from the first.
        actions: [k, W, nu].

    Raises:
        ArgumentError: if shapes do not fit.
    """
    if len(states) != len(actions) + 1 or states.shape[1] != actions.shape[1]:
        raise ArgumentError(
            f"states must be [k+1, W, n] and actions [k, W, nu], got {list(states.shape)} and "
            f"{list(actions.shape)}"
        )
    errors = (model.rollout(states[0], actions).states - states)[1:]
    scale = model.input_scale[: model.state_size].to(errors)
    normalized = (errors / scale).square().mean((1, 2)).sqrt()
    return OpenLoopError(errors, errors.square().mean(1).sqrt(), normalized)
