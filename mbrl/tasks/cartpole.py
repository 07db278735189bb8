"""CartPole-v1 as a task: the classic problem, without MuJoCo."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, TypeVar

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn

from mbrl.errors import ArgumentError
from mbrl.options import completed
from mbrl.registry import TASKS
from mbrl.tasks.distractors import distracted
from mbrl.tasks.task import Task
from mbrl.tasks.torch_task import TorchTask
from mbrl.types import Array, Start, Transition

T = TypeVar("T", Tensor, Array)

_GRAVITY = 9.8
_POLE_MASS = 0.1
_TOTAL_MASS = _POLE_MASS + 1.0
_HALF_LENGTH = 0.5
_POLE_MASS_LENGTH = _POLE_MASS * _HALF_LENGTH
_FORCE = 10.0
_DT = 0.02  # seconds
_FARTHEST = 2.4  # metres
_STEEPEST = 12 * 2 * math.pi / 360
_START = 0.05


class CartPole(TorchTask):
    r"""Keep a pole upright on a cart that is pushed to the left or to the right at every step.

    .. math:: \ddot\theta = \frac{g \sin\theta - a \cos\theta}
              {l \left(\tfrac43 - \tfrac{m}{M} \cos^2 \theta\right)}, \qquad
              \ddot x = a - \tfrac{m l}{M} \ddot\theta \cos\theta, \qquad
              a = \frac{F + m l \, \dot\theta^2 \sin\theta}{M}

    under explicit Euler steps of 0.02 s (Barto, Sutton and Anderson 1983, as in Gymnasium's
    ``CartPole-v1``). A step earns 1; an episode ends where |x| > 2.4 m or |theta| > 12 degrees.

    A state is (x, dx/dt, theta, dtheta/dt), in m and rad; an observation is the state in single
    precision, as Gymnasium rounds it. An action is the index 0 (left) or 1 (right), [B, 1]; between
    them the force is interpolated.

    Args:
        max_episode_steps: length at which an episode is cut.

    Raises:
        ArgumentError: on a number out of range.
    """

    name = "CartPole-v1"
    discrete_actions = 2
    state_size = observation_size = 4

    def __init__(self, *, max_episode_steps: int = 500):
        if max_episode_steps < 1:
            raise ArgumentError(
                f"task_args.max_episode_steps must be at least 1, got {max_episode_steps}"
            )
        self.max_episode_steps = max_episode_steps
        self.action_low = torch.zeros(1, dtype=torch.float64)
        self.action_high = torch.ones(1, dtype=torch.float64)

    def start(self, batch: int, generator: torch.Generator) -> Start:
        """Draw states near upright: each of the four numbers uniform in [-0.05, 0.05]."""
        uniform = torch.rand((batch, 4), generator=generator, dtype=torch.float64)
        return Start(2 * _START * uniform - _START, uniform.new_empty((batch, 0)))

    def dynamics(self, **options: Any) -> nn.Module:
        """Return the map (state, action) -> next state.

        Raises:
            ArgumentError: if there are options: it is differentiated exactly.
        """
        if options:
            raise ArgumentError(f"{self.name}: its dynamics takes no {', '.join(options)}")
        return _Dynamics()

    def observe(self, state: Tensor, *, t: int = 0, context: Tensor | None = None) -> Tensor:
        """[B, 4] -> [B, 4], rounded to single precision."""
        return state.to(torch.float32).to(torch.float64)

    def reward(
        self,
        state: Tensor,
        action: Tensor,
        next_state: Tensor,
        *,
        t: int = 0,
        context: Tensor | None = None,
    ) -> Tensor:
        """One for every step that is taken, [B]."""
        return torch.ones_like(next_state[:, 0])

    def terminated(
        self, next_state: Tensor, *, t: int = 0, context: Tensor | None = None
    ) -> Tensor:
        """Which rows [B] have left the track or fallen."""
        ended: Tensor = _ended(next_state)
        return ended

    def step(
        self, state: Tensor, action: Tensor, *, t: int = 0, context: Tensor | None = None
    ) -> Transition:
        """What ``env.step`` returns from these states [B, 4], without derivatives, bit for bit."""
        # NumPy, as Gymnasium: its sines differ from torch's in the last bit, and its calls cost a
        # fraction of torch's on so few rows.
        rows = state.detach().numpy()
        theta, index = rows[:, 2], action.detach().numpy()[:, 0]
        columns = _moved(list(rows.T), index, np.cos(theta), np.sin(theta))
        following = np.stack(columns, axis=-1)
        observation = following.astype(np.float32).astype(np.float64)
        parts = following, np.ones(len(rows)), observation, _ended(following)
        return Transition(*map(torch.from_numpy, parts))

    def advance(
        self, state: Tensor, action: Tensor, *, t: int = 0, context: Tensor | None = None
    ) -> Transition:
        """Take a step that can be differentiated; arguments are those of :meth:`step`.

        Its velocities may differ from those of :meth:`step` in the last bit.
        """
        following = _Dynamics()(state, action)
        return Transition(
            following,
            self.reward(state, action, following),
            self.observe(following),
            self.terminated(following),
        )

    def make_env(self, render_mode: str | None = None) -> Any:
        """Return Gymnasium's environment, with its time limit."""
        return gymnasium.make(
            self.name,
            max_episode_steps=self.max_episode_steps,
            disable_env_checker=True,
            render_mode=render_mode,
        )

    def state_of(self, env: Any) -> Array:
        """Return the state [4] of an environment of :meth:`make_env`."""
        state: Array = np.array(env.unwrapped.state, dtype=np.float64)
        return state


class _Dynamics(nn.Module):
    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """[B, 4], [B, 1] -> [B, 4]."""
        theta = state[:, 2]
        return torch.stack(_moved(state.unbind(-1), action[:, 0], theta.cos(), theta.sin()), dim=-1)


def _moved(state: Sequence[T], action: T, cos: T, sin: T) -> list[T]:
    """One Euler step of the columns of states, in the order of Gymnasium's operations."""
    x, x_dot, theta, theta_dot = state[:4]
    force = _FORCE * (2 * action - 1)
    push = (force + _POLE_MASS_LENGTH * (theta_dot * theta_dot) * sin) / _TOTAL_MASS
    spin = (_GRAVITY * sin - cos * push) / (
        _HALF_LENGTH * (4.0 / 3.0 - _POLE_MASS * (cos * cos) / _TOTAL_MASS)
    )
    acceleration = push - _POLE_MASS_LENGTH * spin * cos / _TOTAL_MASS
    return [
        x + _DT * x_dot,
        x_dot + _DT * acceleration,
        theta + _DT * theta_dot,
        theta_dot + _DT * spin,
    ]


def _ended(state: Any) -> Any:
    """Which rows [B] are outside."""
    return (abs(state[:, 0]) > _FARTHEST) | (abs(state[:, 2]) > _STEEPEST)


def register_cartpole() -> None:
    """Register it as a task of the name of Gymnasium's environment, which it makes."""
    TASKS.register(CartPole.name)(_made)


def _made(**options: Any) -> Task:
    return _cartpole(**completed(_cartpole, options, "task_args"))


def _cartpole(
    *, max_episode_steps: int = 500, distractors: int = 0, threads: int | None = None
) -> Task:
    """``threads`` are of no use here, where there is no engine."""
    return distracted(CartPole(max_episode_steps=max_episode_steps), distractors)
