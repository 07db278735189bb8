"""What is to be achieved: dynamics, reward, termination and reset, as functions of a state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn

from mbrl.physics import Simulator
from mbrl.types import Transition


class Task(ABC):
    r"""A Markov decision process whose pieces are functions on batches of states.

    .. math:: \max_\pi \; E \sum_t r(x_t, u_t, x_{t+1}), \qquad x_{t+1} = F(x_t, u_t),
              \qquad u_t = \pi(o(x_t))

    A task holds no current state: every method is a function of its arguments.

    Attributes:
        name: the id it was made from.
        simulator: the physics, or None for a problem without MuJoCo.
        max_episode_steps: length at which an episode is cut, or None.
        state_size: nx.
        observation_size: n_obs.
        action_low: smallest action, [nu] float64; -inf where unbounded.
        action_high: largest action, [nu] float64; inf where unbounded.
    """

    name: str
    simulator: Simulator | None
    max_episode_steps: int | None
    state_size: int
    observation_size: int
    action_low: Tensor
    action_high: Tensor

    @property
    def action_size(self) -> int:
        """Width nu of an action."""
        return len(self.action_low)

    @abstractmethod
    def reset(self, batch: int, generator: torch.Generator) -> Tensor:
        """Draw initial states [batch, nx] from the start distribution."""

    @abstractmethod
    def dynamics(self, **options: Any) -> nn.Module:
        """Return the differentiable map (state [B,nx], action [B,nu]) -> next state [B,nx]."""

    @abstractmethod
    def observe(self, state: Tensor) -> Tensor:
        """Return what an agent sees of states [B, nx] by themselves, [B, n_obs]."""

    @abstractmethod
    def reward(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        """Return rewards [B], differentiable where they are functions of the arguments."""

    @abstractmethod
    def terminated(self, next_state: Tensor) -> Tensor:
        """Return which rows [B] bool end an episode on arriving at ``next_state`` [B, nx]."""

    @abstractmethod
    def step(self, state: Tensor, action: Tensor) -> Transition:
        """Take one exact step from set states, without derivatives."""

    @abstractmethod
    def make_env(self, render_mode: str | None = None) -> Any:
        """Return a fresh ``gymnasium.Env`` of this task."""
