"""Any Gymnasium MuJoCo environment as a task."""

from __future__ import annotations

from typing import Any

import gymnasium
import mujoco
import numpy as np
import torch
from torch import Tensor, nn

from mbrl.errors import (
    ArgumentError,
    MbrlError,
    TaskError,
    UnknownNameError,
    suggestion,
    users_code,
)
from mbrl.ops import FirstOrderOp, MujocoDynamics, batched, check_real
from mbrl.physics import Simulator, quiet
from mbrl.tasks.checks import Examiner, Formulas, Points
from mbrl.tasks.observed import observed_cost
from mbrl.tasks.own_step import EnvironmentStep, current_state
from mbrl.tasks.residual.environment import ResidualEnv
from mbrl.tasks.semantics import Semantics
from mbrl.tasks.task import Task
from mbrl.tasks.wrappers import ActionMap, WrappedDynamics, action_bounds
from mbrl.types import Array, Start, Transition

_PROBES = 3
# A step far from the first; nothing that follows a clock is likely to repeat after so many.
_LATE = 7919


class GymnasiumTask(Task):
    """A registered ``MujocoEnv``, stock or a user's own, unmodified.

    Observation, reward and termination are torch functions: the environment's methods
    ``tensor_observation(state)``, ``tensor_reward(state, action, next_state)`` and
    ``tensor_terminated(next_state)`` where it has them, else our formulas of the stock environment
    it derives them from; all may declare the keywords ``t`` (index of the step, an int) and
    ``context`` ([B, n]). A reward without a formula is differentiated in the environment's own
    ``step``, together with the next state, by one sweep of finite differences. A method
    ``tensor_planning_cost(observation, action, next_observation)`` is the ``observed_cost``.

    An environment with an attribute ``context``, numbers that its ``reset`` draws, has that as its
    context; otherwise the context holds every number that reset draws into attributes and user
    inputs of MjData (mocap poses ...). Where a method here is given no context, it uses those of
    the last start, if that had as many rows.

    Args:
        name: a Gymnasium id.
        threads: engine threads; None: all cores.
        **kwargs: handed to the environment's constructor.

    Raises:
        UnknownNameError: if no such environment is registered.
        TaskError: if the environment cannot be made, or cannot serve as a task.
    """

    def __init__(self, name: str, /, *, threads: int | None = None, **kwargs: Any):
        self.name, self._kwargs = name, kwargs
        wrapped = self.make_env()
        self.max_episode_steps = wrapped.spec.max_episode_steps
        self._actions = ActionMap(wrapped, name)
        self._env = env = self._actions.inner
        if not isinstance(env.frame_skip, int | np.integer):
            raise TaskError(f"{name}: frame_skip must be an integer, got {env.frame_skip!r}")
        self.simulator: Simulator = Simulator(
            env.model, frame_skip=int(env.frame_skip), threads=threads
        )
        if isinstance(env, ResidualEnv):
            env.use(self.simulator)
            self.residual_cost, self.terminal_cost = env.cost, env.terminal_cost
            self.success = env.success
        self.state_size = self.simulator.spec.nx
        self.observation_size = _width(env.observation_space, name, "observations")
        _width(env.action_space, name, "actions")
        inner = action_bounds(env)
        self.action_low, self.action_high = self._actions.bounds or inner
        self.observed_cost = observed_cost(env, self._actions, name)
        # Our copy of the model raises on divergence; the environment's shall not reset it away.
        env.model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)
        self._semantics = Semantics(env, self.simulator, name)
        self.context_size = self._semantics.hidden.size
        self._contexts = torch.from_numpy(self._semantics.hidden.read(env)[None])
        self._inner_bounds = tuple(bound.numpy() for bound in inner)
        self._own_step = self._make_own_step()
        self._own_op = FirstOrderOp(self._own_step)
        self._own_observation = (
            self._semantics.own_observation(self._own_step, self.observation_size, name)
            if self._semantics.observation is None and hasattr(env, "_get_obs")
            else None
        )
        # A caller may be in inference mode, whose tensors do not tell who writes into them.
        with torch.inference_mode(False), torch.no_grad():
            self._is_plain = self._examine()
            self.uses_time = self._semantics.uses_time or self._step_uses_time()

    @property
    def has_reward_formula(self) -> bool:
        """Whether the reward is a torch formula, or differentiated in the environment's step."""
        return self._semantics.reward is not None

    @property
    def has_plain_dynamics(self) -> bool:
        """Whether the environment does nothing but physics under the action as it is."""
        return self._is_plain and self._actions.is_identity

    def start(self, batch: int, generator: torch.Generator) -> Start:
        """Reset the environment ``batch`` times, each with a seed drawn from ``generator``."""
        if isinstance(batch, bool) or not isinstance(batch, int) or batch < 0:
            raise ArgumentError(f"batch must be an integer, zero or more, got {batch!r}")
        if not isinstance(generator, torch.Generator):
            raise ArgumentError(
                f"generator must be a torch.Generator, got {type(generator).__name__}"
            )
        seeds = torch.randint(2**31 - 1, (batch,), generator=generator)
        states = np.empty((batch, self.state_size))
        contexts = np.empty((batch, self.context_size))
        for row, seed in enumerate(seeds.tolist()):
            with users_code(f"{self.name}: reset"):
                self._env.reset(seed=seed)
            states[row] = current_state(self._env)
            contexts[row] = self._semantics.hidden.read(self._env)
        self._contexts = torch.from_numpy(contexts.copy())
        return Start(torch.from_numpy(states), torch.from_numpy(contexts))

    def dynamics(self, **options: Any) -> nn.Module:
        """Return the differentiable control step.

        It is a :class:`MujocoDynamics` of this task's simulator, which takes the options, or the
        environment's own step where the reward comes from there or the environment does something
        else than physics under the action.
        """
        if self.has_reward_formula and self._is_plain:
            dynamics = MujocoDynamics(self.simulator, **options)
            return (
                dynamics if self._actions.is_identity else WrappedDynamics(self._actions, dynamics)
            )
        return _OwnDynamics(self, self._own_dynamics_op(**options))

    def observe(self, state: Tensor, *, t: int = 0, context: Tensor | None = None) -> Tensor:
        """What the environment returns at reset to this state, [B, n_obs]."""
        context = self._context(state, context)
        if self._semantics.observation is not None:
            return self._semantics.observation(state, t=t, context=context)
        op = self._own_observation or self._semantics.own_observation(
            self._own_step, self.observation_size, self.name
        )
        nothing = state.new_zeros((len(state), 0), dtype=torch.float64)
        rows, _ = batched(op.source.spec, state, nothing)
        seen: Tensor = op(rows, nothing, _constants(t, context))[:, self.state_size :]
        return seen

    def reward(
        self,
        state: Tensor,
        action: Tensor,
        next_state: Tensor,
        *,
        t: int = 0,
        context: Tensor | None = None,
    ) -> Tensor:
        """Rewards [B].

        One that comes from the environment's own step is a function of state and action: nothing
        flows back into ``next_state``.
        """
        if self._semantics.reward is None:
            return self.advance(state, action, t=t, context=context).reward
        self._check_shapes(state, action)
        context = self._context(state, context)
        return self._semantics.reward(
            state, self._actions(action), next_state, t=t, context=context
        )

    def terminated(
        self, next_state: Tensor, *, t: int = 0, context: Tensor | None = None
    ) -> Tensor:
        """Which rows end, [B] bool.

        An environment without a formula decides in its step: rows end that its own step, called
        for these states just before, arrived at with the end of an episode.
        """
        context = self._context(next_state, context)
        if self._semantics.terminated is None:
            return torch.from_numpy(self._own_step.ended(next_state.detach().numpy()))
        return self._semantics.terminated(next_state, t=t, context=context)

    def step(
        self, state: Tensor, action: Tensor, *, t: int = 0, context: Tensor | None = None
    ) -> Transition:
        """What ``env.step`` returns after ``env.set_state``, row by row, without derivatives.

        Args:
            state: [B, nx].
            action: [B, nu].
            t: index of the step in its episode: the environment's clock stands at t dt.
            context: [B, n].

        Returns:
            The transition, with derived quantities lagging as they do in the environment.

        Raises:
            ArgumentError: on a wrong shape.
            DivergenceError: naming the rows whose simulation diverged.
            TaskError: if the environment raises.
        """
        with torch.no_grad():
            return self.advance(state, action, t=t, context=context)

    def advance(
        self,
        state: Tensor,
        action: Tensor,
        *,
        t: int = 0,
        context: Tensor | None = None,
        op: FirstOrderOp | None = None,
    ) -> Transition:
        """Take the environment's own step, differentiable in next state, reward and observation.

        One sweep of finite differences of ``env.step`` serves all three; arguments and errors are
        those of :meth:`step`. ``op``: the step with another rule of differentiation.
        """
        self._check_shapes(state, action)
        rows, actions = batched(self._own_step.spec, state, self._actions(action))
        context = self._context(state, context)
        values = (op or self._own_op)(rows, actions, _constants(t, context))
        nx = self.state_size
        return Transition(
            values[:, :nx], values[:, nx], values[:, nx + 2 :], values[:, nx + 1].detach() > 0.5
        )

    def controls(self, action: Tensor) -> Tensor | None:
        """Return actions [B, nu] as the wrappers hand them on; see :class:`Task`."""
        return self._actions(action) if self._is_plain else None

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
        except MbrlError:
            raise
        except Exception as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise TaskError(f"{self.name}: the environment cannot be made: {reason}") from error

    def state_of(self, env: Any) -> Array:
        """Return [qpos, qvel, act] of an environment, (nx)."""
        return current_state(env.unwrapped)

    def context_of(self, env: Any) -> Array:
        """Return what the last reset of an environment drew, (n)."""
        return self._semantics.hidden.read(env.unwrapped)

    def __reduce__(self) -> tuple[object, ...]:
        """A pickle is a new task of the same environment."""
        return _remade, (self.name, {"threads": self.simulator.threads, **self._kwargs})

    def _make_own_step(self, **options: Any) -> EnvironmentStep:
        low, high = self._inner_bounds
        return EnvironmentStep(
            self._env,
            lambda: ActionMap(self.make_env(), self.name).inner,
            self.simulator,
            self._semantics.hidden,
            low,
            high,
            self.name,
            **options,
        )

    def _own_dynamics_op(
        self,
        *,
        method: str = "auto",
        eps: float | None = None,
        centered: bool = False,
        smoothing: Any = None,
    ) -> FirstOrderOp:
        if smoothing is not None:
            raise ArgumentError(
                f"smoothing is for plain physics, and {self.name}'s own step is differentiated; "
                "legal: null"
            )
        if method not in ("auto", "step"):
            raise ArgumentError(
                f"method {method!r} cannot differentiate {self.name}'s own step; legal: auto, step"
            )
        if eps is None and not centered:
            return self._own_op
        self.simulator.check_linearization("step", eps)
        step = self._make_own_step(eps=eps, centered=centered)
        step.rounded = self._own_step.rounded
        return FirstOrderOp(step)

    def _context(self, state: Tensor, context: Tensor | None) -> Tensor:
        """Return the context [B, n] of rows, those of the last start where none is given."""
        check_real(state=state)
        if state.shape[-1] != self.state_size:
            message = f"state must have {self.state_size} columns, got shape {list(state.shape)}"
            raise ArgumentError(message)
        if context is None and self.context_size == 0:
            return state.new_empty((len(state), 0), dtype=torch.float64)
        if context is None:
            context = self._contexts
            if len(context) != len(state):
                raise ArgumentError(
                    f"context: the episodes of {self.name} differ in their context; pass that of "
                    f"these {len(state)} rows, see task.start"
                )
        if context.shape != (len(state), self.context_size):
            raise ArgumentError(
                f"context must have shape [{len(state)}, {self.context_size}], "
                f"got {list(context.shape)}"
            )
        return context.detach().to("cpu", torch.float64)

    def _check_shapes(self, state: Tensor, action: Tensor) -> None:
        check_real(state=state, action=action)
        wanted = (len(state) if state.ndim else 0, self.action_size)
        if state.ndim != 2 or state.shape[1] != self.state_size or action.shape != wanted:
            raise ArgumentError(
                f"state and action must have shapes [B, {self.state_size}] and "
                f"[B, {self.action_size}], got {list(state.shape)} and {list(action.shape)}"
            )

    def _points(self) -> Points:
        """Return a few starts of episodes, with actions."""
        state, context = self.start(_PROBES, torch.Generator().manual_seed(0))
        low, high = _moderate(*self._inner_bounds)
        action = np.random.default_rng(1).uniform(low, high, (_PROBES, len(low)))
        constants = _constants(0, context).numpy()
        result = self._own_step.run(state.numpy(), action, constants)
        return Points(state.numpy(), action, constants, result)

    def _step_uses_time(self) -> bool:
        """Whether a step of the environment's own gives something else at another time."""
        if self._semantics.is_stock:
            return False
        state, action, constants, early = self._points()
        constants[:, 0] = _LATE
        try:
            late = self._own_step.run(state, action, constants)
        except TaskError:  # a recording that ended, perhaps
            return True
        return not all(map(np.array_equal, early, late))

    def _examine(self) -> bool:
        """Hold environment and formulas against the environment's own step.

        Returns:
            Whether a step is plain physics under the action.

        Raises:
            TaskError: if the environment does not repeat, or formulas contradict its step by more
                than the lag of derived quantities explains.
        """
        hidden, points = self._semantics.hidden, self._points()
        examiner = Examiner(self._env, self._own_step, hidden, self.name)
        if not self._semantics.is_stock:
            examiner.resets()
            examiner.repeats(points)
            points = examiner.episode(*_moderate(*self._inner_bounds))
        alone = self._own_step.run(points.state, points.action, points.constants)
        plain = examiner.is_plain(self.simulator, points)
        Formulas(self._semantics, self.simulator, self.name).check(points, alone, plain=plain)
        if not self._semantics.is_stock:
            self._own_step.rounded = examiner.rounded(
                points, differentiated=not (plain and self.has_reward_formula)
            )
            if self.has_reward_formula and self._semantics.terminated is None:
                examiner.warn_of_ends(*_moderate(*self._inner_bounds))
        hidden.reset(self._env)
        return plain


def _remade(name: str, arguments: dict[str, Any]) -> GymnasiumTask:
    return GymnasiumTask(name, **arguments)


class _OwnDynamics(nn.Module):
    """The next state of an environment's own step."""

    def __init__(self, task: GymnasiumTask, op: FirstOrderOp):
        super().__init__()
        self._task, self._op = task, op

    def forward(
        self, state: Tensor, action: Tensor, *, t: int = 0, context: Tensor | None = None
    ) -> Tensor:
        """[B, nx], [B, nu] -> [B, nx]."""
        return self._task.advance(state, action, t=t, context=context, op=self._op).next_state


def _constants(t: int, context: Tensor) -> Tensor:
    return torch.cat([context.new_full((len(context), 1), float(t)), context], dim=1)


def _moderate(low: Array, high: Array) -> tuple[Array, Array]:
    """Return a range of actions to try: what the bounds leave of [-1, 1], or they themselves."""
    finite_low = np.where(np.isfinite(low), low, np.minimum(-1.0, high - 2.0))
    finite_high = np.where(np.isfinite(high), high, np.maximum(1.0, low + 2.0))
    inner_low, inner_high = np.maximum(finite_low, -1.0), np.minimum(finite_high, 1.0)
    overlap = inner_low < inner_high
    return np.where(overlap, inner_low, finite_low), np.where(overlap, inner_high, finite_high)


def _width(space: Any, name: str, what: str) -> int:
    shape = space.shape
    if not isinstance(space, gymnasium.spaces.Box) or shape is None or len(shape) != 1:
        raise TaskError(f"{name}: {what} must be vectors of numbers, the space is {space}")
    return int(shape[0])


def _mujoco_ids() -> list[str]:
    return [
        name
        for name, spec in gymnasium.registry.items()
        if "mujoco" in str(spec.entry_point).lower() or "/" in name
    ]
