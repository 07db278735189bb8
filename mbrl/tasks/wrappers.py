"""Gymnasium wrappers around a MuJoCo environment: what they do to an action, in torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.wrappers import (
    ClipAction,
    OrderEnforcing,
    PassiveEnvChecker,
    RecordEpisodeStatistics,
    RescaleAction,
    TimeLimit,
)
from torch import Tensor, nn

from mbrl.errors import ArgumentError, TaskError

_HARMLESS = (TimeLimit, OrderEnforcing, PassiveEnvChecker, RecordEpisodeStatistics)
_UNDERSTOOD = (*_HARMLESS, RescaleAction, ClipAction)


class ActionMap:
    """From the action a wrapped environment takes to the action of the environment inside.

    Args:
        env: the wrapped environment.
        name: its id, for messages.

    Attributes:
        inner: the bare environment.

    Raises:
        TaskError: if a wrapper changes more than the action, or what is inside is not MuJoCo's.
    """

    def __init__(self, env: Any, name: str):
        self._layers: list[Callable[[Tensor], Tensor]] = []
        self._bounds: tuple[Tensor, Tensor] | None = None
        while isinstance(env, gymnasium.Wrapper):
            # A subclass may do anything.
            if type(env) not in _UNDERSTOOD:
                raise TaskError(
                    f"{name}: the wrapper {type(env).__name__} changes the environment in a way "
                    f"that has no derivative here; legal: "
                    f"{', '.join(sorted(w.__name__ for w in _UNDERSTOOD))}"
                )
            if isinstance(env, RescaleAction):
                self._layers.append(_affine(env.func, env.action_space.shape))
                self._bounds = self._bounds or space_bounds(env.action_space)
            elif isinstance(env, ClipAction):
                low, high = space_bounds(env.env.action_space)
                self._layers.append(_clamp(low, high))
                if self._bounds is None and bool((low.isfinite() & high.isfinite()).any()):
                    self._bounds = low, high
            env = env.env
        if not isinstance(env, MujocoEnv):
            raise TaskError(
                f"{name}: {type(env).__name__} is not a gymnasium.envs.mujoco.MujocoEnv"
            )
        self.inner: Any = env
        self._width = int(np.prod(env.action_space.shape or ()))

    @property
    def bounds(self) -> tuple[Tensor, Tensor] | None:
        """Smallest and largest action [nu] that make sense; None: those of the inside.

        A ClipAction takes any action, but from the bounds of what it wraps on to no effect.
        """
        return self._bounds

    @property
    def is_identity(self) -> bool:
        """Whether actions pass unchanged."""
        return not self._layers

    def __call__(self, action: Tensor) -> Tensor:
        """[..., nu] -> [..., nu]; beyond the bounds of a ClipAction nothing flows back."""
        if action.shape[-1] != self._width:
            raise ArgumentError(
                f"action must have {self._width} columns, got shape {list(action.shape)}"
            )
        for layer in self._layers:
            action = layer(action)
        return action


def _affine(function: Any, shape: Any) -> Callable[[Tensor], Tensor]:
    offset = np.asarray(function(np.zeros(shape)), dtype=np.float64)
    slope = np.asarray(function(np.ones(shape)), dtype=np.float64) - offset
    scale, shift = torch.from_numpy(slope), torch.from_numpy(offset)
    return lambda action: shift + scale * action


def space_bounds(space: Any) -> tuple[Tensor, Tensor]:
    """Return the bounds of a Box in double precision, [n] each."""
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    return torch.from_numpy(low), torch.from_numpy(high)


def _clamp(low: Tensor, high: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda action: action.clamp(low, high)


def action_bounds(env: Any) -> tuple[Tensor, Tensor]:
    """Bounds in double precision: the action space rounds the model's control range to single."""
    low, high = (bound.numpy() for bound in space_bounds(env.action_space))
    if len(low) != env.model.nu:  # the environment makes its controls of other actions
        return space_bounds(env.action_space)
    limited = env.model.actuator_ctrllimited.astype(bool)
    exact_low, exact_high = env.model.actuator_ctrlrange.T
    low = np.where(limited & np.isclose(low, exact_low), exact_low, low)
    high = np.where(limited & np.isclose(high, exact_high), exact_high, high)
    # An unlimited actuator has the range [0, 0] in its model, and so in the action space.
    empty = ~limited & (low >= high)
    return (
        torch.from_numpy(np.where(empty, -np.inf, low)),
        torch.from_numpy(np.where(empty, np.inf, high)),
    )


class WrappedDynamics(nn.Module):
    """Dynamics under the action of a wrapped environment.

    Args:
        actions: what the wrappers make of actions.
        dynamics: the bare environment's.
    """

    def __init__(self, actions: ActionMap, dynamics: nn.Module):
        super().__init__()
        self._actions, self.dynamics = actions, dynamics

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """[B, nx], [B, nu] -> [B, nx]."""
        following: Tensor = self.dynamics(state, self._actions(action))
        return following
