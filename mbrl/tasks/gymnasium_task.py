"""Any Gymnasium MuJoCo environment as a task."""

from __future__ import annotations

from typing import Any

import gymnasium
import mujoco
import numpy as np
import torch
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit
from torch import Tensor, nn

from mbrl.errors import (
    ArgumentError,
    DivergenceError,
    TaskError,
    UnknownNameError,
    suggestion,
)
from mbrl.ops import MujocoDynamics
from mbrl.physics import Simulator, quiet
from mbrl.tasks.stock import STOCK
from mbrl.tasks.task import Task
from mbrl.types import Transition

_PROBES = 3
# How far derived quantities that lag one physics step behind may carry a formula from the step.
_LAG = 0.1
_HARMLESS = (TimeLimit, OrderEnforcing, PassiveEnvChecker)


class GymnasiumTask(Task):
    """A registered ``MujocoEnv``, stock or a user's own, unmodified.

    The physics are the environment's model; observation, reward and termination are torch
    functions: the environment's ``tensor_observation``, ``tensor_reward`` and
    ``tensor_terminated`` where it has them, else our formulas of the stock environment it derives
    them from. ``step`` runs the environment itself from set states.

    Args:
        name: a Gymnasium id.
        threads: engine threads; None: all cores.
        **kwargs: handed to the environment's constructor.

    Raises:
        UnknownNameError: if no such environment is registered.
        TaskError: if the environment cannot be made, or cannot serve as a task.
    """

    def __init__(self, name: str, *, threads: int | None = None, **kwargs: Any):
        self.name, self._kwargs = name, kwargs
        wrapped = self.make_env()
        self.max_episode_steps = wrapped.spec.max_episode_steps
        self._env = env = _unwrapped(wrapped, name)
        self.simulator: Simulator = Simulator(
            env.model, frame_skip=int(env.frame_skip), threads=threads
        )
        spec = self.simulator.spec
        self.state_size = spec.nx
        if env.action_space.shape != (spec.nu,):
            raise TaskError(
                f"{name}: action space {env.action_space.shape} differs from the model's "
                f"{spec.nu} controls; the action must be the control"
            )
        self.action_low, self.action_high = _action_bounds(env)
        shape = env.observation_space.shape
        if shape is None or len(shape) != 1:
            raise TaskError(f"{name}: observations must be vectors, the space has shape {shape}")
        (self.observation_size,) = shape
        # Our copy of the model raises on divergence; the environment's shall not reset it away.
        env.model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)
        self._semantics = _OwnSemantics(env, self.simulator)
        with torch.no_grad():
            self._check()

    def reset(self, batch: int, generator: torch.Generator) -> Tensor:
        """Reset the environment ``batch`` times, each with a seed drawn from ``generator``."""
        seeds = torch.randint(2**31 - 1, (batch,), generator=generator)
        states = np.empty((batch, self.state_size))
        for row, seed in enumerate(seeds.tolist()):
            self._env.reset(seed=seed)
            states[row] = self._current_state()
        return torch.from_numpy(states)

    def dynamics(self, **options: Any) -> nn.Module:
        """Return a :class:`MujocoDynamics` of this task's simulator; options are its own."""
        return MujocoDynamics(self.simulator, **options)

    def observe(self, state: Tensor) -> Tensor:
        """What the environment returns at reset to this state, [B, n_obs]."""
        return self._semantics.observation(state)

    def reward(self, state: Tensor, action: Tensor, next_state: Tensor) -> Tensor:
        """Rewards [B]."""
        return self._semantics.reward(state, action, next_state)

    def terminated(self, next_state: Tensor) -> Tensor:
        """Which rows end, [B] bool."""
        return self._semantics.terminated(next_state)

    def step(self, state: Tensor, action: Tensor) -> Transition:
        """What ``env.step`` returns after ``env.set_state``, row by row, without derivatives.

        Args:
            state: [B, nx].
            action: [B, nu].

        Returns:
            The transition, with derived quantities lagging as they do in the environment.

        Raises:
            ArgumentError: on a wrong shape.
            DivergenceError: naming the rows whose simulation diverged.
        """
        x = state.detach().to("cpu", torch.float64).numpy()
        u = action.detach().to("cpu", torch.float64).numpy()
        if x.ndim != 2 or x.shape[1] != self.state_size or u.shape != (len(x), self.action_size):
            raise ArgumentError(
                f"state and action must have shapes [B, {self.state_size}] and "
                f"[B, {self.action_size}], got {list(x.shape)} and {list(u.shape)}"
            )
        following = np.empty_like(x)
        observations = np.empty((len(x), self.observation_size))
        rewards, ended = np.empty(len(x)), np.empty(len(x), dtype=bool)
        diverged = []
        with quiet():
            for row in range(len(x)):
                self._set_state(x[row])
                observations[row], rewards[row], ended[row], _, _ = self._env.step(u[row])
                following[row] = self._current_state()
                if any(warning.number for warning in self._env.data.warning):
                    diverged.append(row)
        if diverged:
            raise DivergenceError(
                f"{self.name}: the simulation diverged in rows {diverged[:8]}", diverged
            )
        return Transition(*map(torch.from_numpy, (following, rewards, observations, ended)))

    def make_env(self, render_mode: str | None = None) -> Any:
        """Return a fresh environment, with its time limit.

        Raises:
            UnknownNameError: if no such environment is registered.
            TaskError: if its constructor raises.
        """
        if not isinstance(self.name, str) or not self.name:
            raise ArgumentError(f"task must be a non-empty string, got {self.name!r}")
        if ":" in self.name:
            # Gymnasium would import what stands before the colon: data would name code.
            raise UnknownNameError(
                f"task {self.name!r} names a module; import it (--import) and name the environment"
            )
        options = (
            self._kwargs if render_mode is None else {**self._kwargs, "render_mode": render_mode}
        )
        try:
            with quiet():  # stock models use deprecated attributes; no news to their users
                return gymnasium.make(self.name, disable_env_checker=True, **options)
        except (gymnasium.error.UnregisteredEnv, gymnasium.error.NamespaceNotFound) as error:
            raise UnknownNameError(
                f"no environment {self.name!r} is registered; "
                f"{suggestion(self.name, _mujoco_ids())}"
            ) from error
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise TaskError(f"{self.name}: the environment cannot be made: {reason}") from error

    def _set_state(self, state: np.ndarray) -> None:
        env, spec = self._env, self.simulator.spec
        qpos, qvel, act = spec.split(state)
        mujoco.mj_resetData(env.model, env.data)
        if spec.na:
            env.data.act[:] = act
        env.set_state(qpos, qvel)

    def _current_state(self) -> np.ndarray:
        data = self._env.data
        return np.concatenate([data.qpos, data.qvel, data.act])

    def _check(self) -> None:
        """Hold physics and formulas against the environment's own step at a few states.

        Raises:
            TaskError: if they contradict it by more than the lag of derived quantities explains.
        """
        state = self.reset(_PROBES, torch.Generator().manual_seed(0))
        low, high = self.action_low.clamp(min=-1), self.action_high.clamp(max=1)
        share = torch.rand(_PROBES, self.action_size, generator=torch.Generator().manual_seed(1))
        action = low + (high - low) * share
        real = self.step(state, action)
        simulated = torch.from_numpy(self.simulator.step(state.numpy(), action.numpy()))
        if not _close(simulated, real.next_state, 1e-5):
            raise TaskError(
                f"{self.name}: its step does something other than {self._env.frame_skip} "
                "physics steps with the action as control"
            )
        if "observation" not in self._semantics.missing:
            observed = self.observe(real.next_state)
            if observed.shape != real.observation.shape:
                raise TaskError(
                    f"{self.name}: tensor_observation gives {observed.shape[-1]} numbers, "
                    f"the observation space has {self.observation_size}"
                )
            if not _close(observed, real.observation, _LAG):
                raise TaskError(
                    f"{self.name}: tensor_observation contradicts the observation of its step"
                )
        if "reward" not in self._semantics.missing:
            reward = self.reward(state, action, real.next_state)
            if reward.shape != real.reward.shape or not _close(reward, real.reward, _LAG):
                raise TaskError(
                    f"{self.name}: its torch reward gives {reward.tolist()} where its step gives "
                    f"{real.reward.tolist()}; give it a tensor_reward that agrees"
                )


class _OwnSemantics:
    """The environment's tensor methods, with stock formulas where it has none.

    What has neither is ``missing``: it raises when it is asked for, so that an environment can
    still be simulated and evaluated in.
    """

    def __init__(self, env: Any, simulator: Simulator):
        stock: Any = None
        same_observation = same_step = False
        base: Any
        for base, formulas in STOCK.items():
            if isinstance(env, base):
                stock = formulas(env, simulator)
                same_observation = type(env)._get_obs is base._get_obs
                same_step = type(env).step is base.step
        self._name = type(env).__name__
        self.missing: list[str] = []
        self.observation = self._choose(
            env, "observation", "tensor_observation(state)", stock if same_observation else None
        )
        self.reward = self._choose(
            env, "reward", "tensor_reward(state, action, next_state)", stock if same_step else None
        )
        # An environment of one's own without tensor_terminated ends by its time limit alone.
        ends = getattr(env, "tensor_terminated", None)
        self.terminated = ends or (stock.terminated if stock else _never)

    def _choose(self, env: Any, name: str, method: str, stock: Any) -> Any:
        own = getattr(env, method.partition("(")[0], None)
        if own is not None:
            return own
        if stock is not None:
            return getattr(stock, name)
        self.missing.append(name)

        def refuse(*_: Tensor) -> Tensor:
            raise TaskError(
                f"{self._name} has no torch formula of its {name}: give it the method {method}"
            )

        return refuse


def _never(next_state: Tensor) -> Tensor:
    return torch.zeros(len(next_state), dtype=torch.bool)


def _close(ours: Tensor, theirs: Tensor, tolerance: float) -> bool:
    return bool(((ours - theirs).abs() <= tolerance * (1 + theirs.abs())).all())


def _unwrapped(wrapped: Any, name: str) -> Any:
    layer = wrapped
    while isinstance(layer, gymnasium.Wrapper):
        if not isinstance(layer, _HARMLESS):
            raise TaskError(
                f"{name}: the wrapper {type(layer).__name__} changes the environment in a way that "
                f"has no derivative here; legal: {', '.join(w.__name__ for w in _HARMLESS)}"
            )
        layer = layer.env
    if not isinstance(layer, MujocoEnv):
        raise TaskError(f"{name}: {type(layer).__name__} is not a gymnasium.envs.mujoco.MujocoEnv")
    return layer


def _action_bounds(env: Any) -> tuple[Tensor, Tensor]:
    """Bounds in double precision: the action space rounds the model's control range to single."""
    low, high = env.action_space.low.astype(np.float64), env.action_space.high.astype(np.float64)
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


def _mujoco_ids() -> list[str]:
    return [
        name
        for name, spec in gymnasium.registry.items()
        if "mujoco" in str(spec.entry_point).lower() or "/" in name
    ]
