"""Observations with numbers in them that mean nothing."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from mbrl.errors import ArgumentError
from mbrl.tasks.task import Task
from mbrl.types import Array, Start, Transition


class Distractors(gymnasium.ObservationWrapper[Any, Any, Any]):
    r"""Append k numbers to every observation, drawn afresh at every step.

    .. math:: (o_t, \xi_t), \qquad \xi_t \sim N(0, I_k)

    A model that learns to predict them spends its capacity on nothing (Nikishin et al. 2022).
    They are drawn from the environment's own random generator, so that a seed repeats a run.

    Args:
        env: with observations in a Box [n].
        count: k.

    Attributes:
        latest: those of the latest observation, [k], in the precision of observations.
    """

    def __init__(self, env: Any, count: int):
        super().__init__(env)
        box = env.observation_space
        unbounded = np.full(count, np.inf, dtype=box.dtype)
        self.observation_space = gymnasium.spaces.Box(
            np.concatenate([box.low, -unbounded]),
            np.concatenate([box.high, unbounded]),
            dtype=box.dtype,
        )
        self.latest = np.zeros(count, dtype=box.dtype)

    def observation(self, observation: Any) -> Any:
        """[n] -> [n + k]."""
        drawn = self.unwrapped.np_random.standard_normal(len(self.latest))
        self.latest = drawn.astype(self.latest.dtype)
        return np.concatenate([observation, self.latest])


class Distracted(Task):
    """A task whose environments are in :class:`Distractors`.

    A state is that of the task and the k distractors that are seen with it, [nx + k]; those of the
    next state are the noise of a step. There is no simulator and no dynamics, which they do not
    follow.

    Args:
        task: the task without them.
        count: k.

    Raises:
        ArgumentError: if the task's steps take noise already, or it judges by its states whether
            an episode succeeds.
    """

    simulator = None

    def __init__(self, task: Task, count: int):
        if task.noise_size or task.success is not None:
            reason = "a criterion of success" if task.success is not None else "random steps"
            raise ArgumentError(f"task_args.distractors: {task.name} has {reason}; legal: 0")
        self._task, self.noise_size = task, count
        self.name, self.max_episode_steps = task.name, task.max_episode_steps
        self.state_size = task.state_size + count
        self.observation_size = task.observation_size + count
        self.context_size, self.uses_time = task.context_size, task.uses_time
        self.action_low, self.action_high = task.action_low, task.action_high
        self.discrete_actions = task.discrete_actions
        env = task.make_env()
        self._precision = torch.from_numpy(np.zeros(0, env.observation_space.dtype)).dtype
        env.close()

    @property
    def has_reward_formula(self) -> bool:
        """Whether the task has one."""
        return self._task.has_reward_formula

    def start(self, batch: int, generator: torch.Generator) -> Start:
        """Draw initial states [batch, nx + k], those of the task first, and their contexts."""
        start = self._task.start(batch, generator)
        size = batch, self.noise_size
        noise = torch.randn(size, generator=generator, dtype=torch.float64)
        return Start(torch.cat([start.state, noise], dim=-1), start.context)

    def dynamics(self, **options: Any) -> nn.Module:
        """Refuse.

        Raises:
            ArgumentError: always.
        """
        raise ArgumentError(f"{self.name}: distractors follow no dynamics; legal: 0")

    def observe(self, state: Tensor, *, t: int = 0, context: Tensor | None = None) -> Tensor:
        """[B, nx + k] -> [B, n_obs + k]."""
        own, noise = self._apart(state)
        return self._seen(self._task.observe(own, t=t, context=context), noise)

    def reward(
        self,
        state: Tensor,
        action: Tensor,
        next_state: Tensor,
        *,
        t: int = 0,
        context: Tensor | None = None,
    ) -> Tensor:
        """Rewards of the task, [B]."""
        own, following = self._apart(state)[0], self._apart(next_state)[0]
        return self._task.reward(own, action, following, t=t, context=context)

    def terminated(
        self, next_state: Tensor, *, t: int = 0, context: Tensor | None = None
    ) -> Tensor:
        """Which rows end an episode of the task, [B]."""
        return self._task.terminated(self._apart(next_state)[0], t=t, context=context)

    def step(
        self,
        state: Tensor,
        action: Tensor,
        *,
        t: int = 0,
        context: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Transition:
        """Take a step of the task, without derivatives.

        Args:
            state: [B, nx + k].
            action: [B, nu].
            t: index of the step.
            context: [B, n].
            noise: [B, k]: the distractors of the next state.

        Raises:
            ArgumentError: if there is no such noise.
        """
        found = self._task.step(self._apart(state)[0], action, t=t, context=context)
        return self._with(found, noise)

    def advance(
        self,
        state: Tensor,
        action: Tensor,
        *,
        t: int = 0,
        context: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Transition:
        """Take a step that can be differentiated; arguments and errors are those of :meth:`step`.

        Nothing flows back into distractors.
        """
        found = self._task.advance(self._apart(state)[0], action, t=t, context=context)
        return self._with(found, noise)

    def env_action(self, action: Array) -> Any:
        """Return what ``step`` of an environment takes for an action [nu]."""
        return self._task.env_action(action)

    def make_env(self, render_mode: str | None = None) -> Any:
        """Return an environment of the task, with distractors."""
        return Distractors(self._task.make_env(render_mode), self.noise_size)

    def state_of(self, env: Any) -> Array:
        """Return the state [nx + k] of an environment of :meth:`make_env`."""
        return np.concatenate([self._task.state_of(env), env.latest])

    def context_of(self, env: Any) -> Array:
        """Return the context [n] of the episode of an environment of :meth:`make_env`."""
        return self._task.context_of(env)

    def _apart(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """[B, nx + k] -> [B, nx], [B, k]."""
        return state[:, : -self.noise_size], state[:, -self.noise_size :]

    def _seen(self, observation: Tensor, noise: Tensor) -> Tensor:
        """Put together what is observed, in the precision that environments have."""
        return torch.cat([observation, noise.to(self._precision).to(torch.float64)], dim=-1)

    def _with(self, found: Transition, noise: Tensor | None) -> Transition:
        batch = len(found.next_state)
        if noise is None or noise.shape != (batch, self.noise_size):
            given = None if noise is None else list(noise.shape)
            raise ArgumentError(f"noise must have shape [{batch}, {self.noise_size}], got {given}")
        return found._replace(
            next_state=torch.cat([found.next_state, noise], dim=-1),
            observation=self._seen(found.observation, noise),
        )


def distracted(task: Task, distractors: Any) -> Task:
    """Return the task with as many distractors, or as it is if there are to be none.

    Raises:
        ArgumentError: if that is no number of distractors, or the task takes none.
    """
    if isinstance(distractors, bool) or not isinstance(distractors, int):
        raise ArgumentError(f"task_args.distractors must be an integer, got {distractors!r}")
    if distractors < 0:
        raise ArgumentError(f"task_args.distractors must not be negative, got {distractors}")
    return Distracted(task, distractors) if distractors else task
