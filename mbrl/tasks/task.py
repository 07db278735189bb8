"""What is to be achieved: dynamics, reward, termination and reset, as functions of a state."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from mbrl.errors import ArgumentError, TaskError
from mbrl.physics import Simulator
from mbrl.tasks.residual.cost import ResidualCost
from mbrl.tasks.residual.success import Success
from mbrl.types import Array, Start, Transition


class Task(ABC):
    r"""A Markov decision process whose pieces are functions on batches of states.

    .. math:: \max_\pi \; E \sum_t r(x_t, u_t, x_{t+1}; t, c), \qquad x_{t+1} = F(x_t, u_t),
              \qquad u_t = \pi(o(x_t; t, c))

    with a context c (goals, references) that is drawn with the initial state and constant in an
    episode. A task holds no current state: every method is a function of its arguments, and copies
    of a graph share their task. A context that is left out is that of the last start, for the
    convenience of those who have one batch only; who has several passes it.

    Attributes:
        name: the id it was made from.
        simulator: the physics, or None for a problem without MuJoCo.
        max_episode_steps: length at which an episode is cut, or None.
        state_size: nx.
        observation_size: n_obs.
        context_size: n; 0 if there is none.
        action_low: smallest action, [nu] float64; -inf where unbounded.
        action_high: largest action, [nu] float64; inf where unbounded.
        discrete_actions: how many actions there are, where they are not numbers but choices: an
            action [B, 1] then holds the index of one, 0 to discrete_actions - 1, in float64. None:
            actions are numbers.
        uses_time: whether any method depends on ``t``; a task that does must say so.
        noise_size: width of the standard normal noise [B, noise_size] that :meth:`step` takes as a
            keyword ``noise``, so that environments which advance as one batch have each their own;
            0: steps are deterministic, and take none.
        has_reward_formula: whether :meth:`reward` computes every row from its arguments alone, as
            torch functions do, and not in a step of the environment.
        residual_cost: the cost whose negative the reward is, if it is one of residuals.
        terminal_cost: a cost of the last state of a planning horizon, if there is one.
        success: what an episode must have reached at its end, if that is defined.
        observed_cost: what a step of a plan costs as a function of what is observed, (observation
            [N, n_obs], action [N, nu], next observation [N, n_obs]) -> [N]: for planning with a
            model that predicts observations and no states. It need not be the negative reward.
            None: the task has none, and nothing here says how the reward follows from observations.
    """

    name: str
    simulator: Simulator | None
    max_episode_steps: int | None
    state_size: int
    observation_size: int
    context_size: int = 0
    action_low: Tensor
    action_high: Tensor
    discrete_actions: int | None = None
    uses_time: bool = False
    noise_size: int = 0
    residual_cost: ResidualCost | None = None
    terminal_cost: ResidualCost | None = None
    success: Success | None = None
    observed_cost: Callable[[Tensor, Tensor, Tensor], Tensor] | None = None

    @property
    def has_reward_formula(self) -> bool:
        """See the class."""
        return False

    @property
    def has_plain_dynamics(self) -> bool:
        """Whether a step is the simulator's control step under the action as it is."""
        return False

    @property
    def action_size(self) -> int:
        """Width nu of an action."""
        return len(self.action_low)

    @abstractmethod
    def start(self, batch: int, generator: torch.Generator) -> Start:
        """Draw initial states [batch, nx] and their contexts [batch, n]."""

    def reset(self, batch: int, generator: torch.Generator) -> Tensor:
        """Draw initial states [batch, nx] from the start distribution."""
        return self.start(batch, generator).state

    @abstractmethod
    def dynamics(self, **options: Any) -> nn.Module:
        """Return the differentiable map (state [B,nx], action [B,nu]) -> next state [B,nx].

        Its forward may declare the keywords ``t`` and ``context``.
        """

    @abstractmethod
    def observe(self, state: Tensor, *, t: int = 0, context: Tensor | None = None) -> Tensor:
        """Return what an agent sees of states [B, nx] by themselves, [B, n_obs]."""

    @abstractmethod
    def reward(
        self,
        state: Tensor,
        action: Tensor,
        next_state: Tensor,
        *,
        t: int = 0,
        context: Tensor | None = None,
    ) -> Tensor:
        """Return rewards [B], differentiable where they are functions of the arguments."""

    @abstractmethod
    def terminated(
        self, next_state: Tensor, *, t: int = 0, context: Tensor | None = None
    ) -> Tensor:
        """Return which rows [B] bool end an episode on arriving at ``next_state`` [B, nx]."""

    @abstractmethod
    def step(
        self, state: Tensor, action: Tensor, *, t: int = 0, context: Tensor | None = None
    ) -> Transition:
        """Take one exact step from set states, without derivatives.

        Args:
            state: [B, nx] float64.
            action: [B, nu] float64, in the units of the environment's actions.
            t: index of the step in its episode.
            context: [B, n], see :meth:`start`.

        Returns:
            What ``env.step`` gives of these states: next states [B, nx], rewards [B], observations
            [B, n_obs], and which rows ended [B].

        Raises:
            ArgumentError: on a wrong shape.
            DivergenceError: naming the rows whose simulation diverged.
        """

    @abstractmethod
    def advance(
        self, state: Tensor, action: Tensor, *, t: int = 0, context: Tensor | None = None
    ) -> Transition:
        """Take one step whose next state, reward and observation are differentiable.

        Arguments, shapes and errors are those of :meth:`step`. Graphs with a node ``step`` take it.
        """

    def controls(self, action: Tensor) -> Tensor | None:
        """Return what the engine is given under actions [B, nu]: here, the actions themselves.

        None where a step does more than run the engine under one control.
        """
        return action

    def env_action(self, action: Array) -> Any:
        """Return what ``step`` of an environment of this task takes for an action [nu].

        Raises:
            ArgumentError: if the index of a discrete action is none.
        """
        if self.discrete_actions is None:
            return action.copy()  # an environment may write into what it is given
        index = int(action[0])
        if index != action[0] or not 0 <= index < self.discrete_actions:
            raise ArgumentError(
                f"{self.name}: an action is an index from 0 to {self.discrete_actions - 1}, "
                f"got {action[0]}"
            )
        return index

    @abstractmethod
    def make_env(self, render_mode: str | None = None) -> Any:
        """Return a fresh ``gymnasium.Env`` of this task."""

    def state_of(self, env: Any) -> Array:
        """Return the state (nx) that an environment made by :meth:`make_env` is in.

        Raises:
            TaskError: if environments of this task do not tell.
        """
        raise TaskError(f"{self.name}: its environments do not tell their state")

    def context_of(self, env: Any) -> Array:
        """Return the context (n) of the episode of an environment made by :meth:`make_env`."""
        return np.zeros(0)

    def __deepcopy__(self, memo: dict[int, Any]) -> Task:
        """There is nothing in a task that two graphs could not share."""
        return self
