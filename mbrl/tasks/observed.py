"""What a plan costs in terms of observations alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from mbrl.errors import TaskError, users_code
from mbrl.tasks.wrappers import ActionMap


class ObservedCost:
    """An environment's ``tensor_planning_cost``, under the actions that its wrappers take.

    Args:
        env: the bare environment, with that method.
        actions: what the wrappers do to an action.
        name: the environment's id, for messages.

    Raises:
        TaskError: if the method raises, or returns something else than one number per row.
    """

    def __init__(self, env: Any, actions: ActionMap, name: str):
        self._cost, self._actions = env.tensor_planning_cost, actions
        self._name = f"{name}: tensor_planning_cost"
        observation = torch.zeros(2, *env.observation_space.shape, dtype=torch.float64)
        action = torch.zeros(2, *env.action_space.shape, dtype=torch.float64)
        found = self(observation, action, observation)
        if not isinstance(found, Tensor) or found.shape != (2,):
            shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise TaskError(f"{self._name} of two rows must have shape [2], got {shape}")

    def __call__(self, observation: Tensor, action: Tensor, next_observation: Tensor) -> Tensor:
        """[N, n_obs], [N, nu], [N, n_obs] -> [N], in their precision and on their device."""
        if not self._actions.is_identity:
            action = self._actions(action.to("cpu", torch.float64)).to(action)
        with users_code(self._name):
            cost: Tensor = self._cost(observation, action, next_observation)
        return cost


def observed_cost(env: Any, actions: ActionMap, name: str) -> ObservedCost | None:
    """Return the cost that an environment brings along; None if it has no such method."""
    if not callable(getattr(env, "tensor_planning_cost", None)):
        return None
    return ObservedCost(env, actions, name)
