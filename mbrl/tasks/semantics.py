"""What an environment makes of states and actions: its own torch methods, ours, or its step."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Iterable, Iterator
from types import FunctionType
from typing import Any

import mujoco
from torch import Tensor

from mbrl.errors import TaskError
from mbrl.ops import FirstOrderOp
from mbrl.physics import Simulator
from mbrl.tasks.formulas import Formula, declared
from mbrl.tasks.hidden import HiddenState
from mbrl.tasks.own_step import EnvironmentObservation, EnvironmentStep
from mbrl.tasks.stock import STOCK

_METHODS = ("tensor_observation", "tensor_reward", "tensor_terminated")
# What a subclass of a stock environment may override while our formulas stay right: what observes,
# and what its step does not use.
_OBSERVING = {"_get_obs", "contact_forces"}
_BESIDE_STEP = {"__doc__", "__init__", "__module__", "_get_obs", "_get_reset_info", "reset_model"}


class Semantics:
    """Observation, reward and termination of one environment.

    Each is the environment's ``tensor_`` method where it has one, else our formula of the stock
    environment that it takes the method in question from. A reward that has neither is
    differentiated in the environment's own step, an observation in its own ``_get_obs``.

    Args:
        env: the bare environment.
        simulator: its physics.
        name: its id, for messages.

    Attributes:
        observation: the formula, or None.
        reward: the formula, or None.
        terminated: the formula, or None.
        hidden: attributes and user inputs.
        is_stock: whether it is a stock environment itself.
        own: which ``tensor_`` methods the environment has.
        uses_time: whether a formula declares ``t``.
    """

    def __init__(self, env: Any, simulator: Simulator, name: str):
        stock: Any = None
        same_observation = same_step = False
        base: Any
        for base, formulas in STOCK.items():
            if isinstance(env, base):
                stock = formulas(env, simulator)
                same_observation = _same(type(env), base, _OBSERVING)
                same_step = _same(type(env), base, set(vars(base)) - _BESIDE_STEP)
        self.is_stock = type(env) in STOCK
        self.own = [m for m in _METHODS if callable(getattr(env, m, None))]
        self.hidden = HiddenState(env, name, draws=not self.is_stock)
        if stock is not None and _read_by(type(env)).intersection(self.hidden.drawn):
            stock = None  # its weights are drawn anew in every episode
        self._env, self._name = env, name
        self.observation = self._formula(
            "tensor_observation", getattr(stock, "observation", None) if same_observation else None
        )
        self.reward = self._formula(
            "tensor_reward", getattr(stock, "reward", None) if same_step else None
        )
        self.terminated = self._formula(
            "tensor_terminated", getattr(stock, "terminated", None) if same_step else None
        )
        timed = (self.observation, self.reward, self.terminated)
        self.uses_time = any(formula.uses_time for formula in timed if formula is not None)

    def own_observation(self, steps: EnvironmentStep, size: int, name: str) -> Any:
        """Return the op (x; t, c) -> (x, o) of the environment's own observation.

        Raises:
            TaskError: if it has no method ``_get_obs``.
        """
        if not callable(getattr(self._env, "_get_obs", None)):
            raise TaskError(
                f"{name}: {type(self._env).__name__} has no torch formula of its observation: "
                "give it the method tensor_observation(state), or _get_obs()"
            )
        return FirstOrderOp(EnvironmentObservation(steps, self._env, size, name))

    def _formula(self, method: str, default: Any) -> Formula | None:
        if method not in self.own:
            return None if default is None else Formula(default, self._name)
        own = getattr(self._env, method)
        # One that does not declare the context may read it from the environment.
        reads = self.hidden.size > 0 and "context" not in declared(own)
        return Formula(own, self._name, self._entered if reads else None)

    @contextlib.contextmanager
    def _entered(self, context: Tensor) -> Iterator[None]:
        """Let the environment stand as in an episode with a context [n]."""
        env, data = self._env, self._env.data
        if self.hidden.draws_inputs:
            # Every row its own: autograd may keep a view of what a formula reads.
            env.data = copy.copy(data)
        try:
            self.hidden.write(env, context.detach().numpy())
            if self.hidden.draws_inputs:
                mujoco.mj_forward(env.model, env.data)
            yield
        finally:
            env.data = data


def _same(kind: type, base: type, names: Iterable[str]) -> bool:
    """Whether a class has these functions and properties from ``base``."""
    return all(
        inspect.getattr_static(kind, name) is inspect.getattr_static(base, name)
        for name in names
        if isinstance(vars(base).get(name), FunctionType | property)
    )


def _read_by(kind: type) -> set[str]:
    """Return the names that the code of a stock environment's subclass uses besides its resets."""
    functions = [
        getattr(member, "fget", member)
        for base in kind.__mro__
        for name, member in vars(base).items()
        if name not in _BESIDE_STEP
    ]
    return {name for f in functions if isinstance(f, FunctionType) for name in f.__code__.co_names}
