"""The step of an environment itself, as a map from set states that can be differentiated."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Collection
from typing import Any, NamedTuple

import mujoco
import numpy as np
from numpy.typing import NDArray

from mbrl.errors import DivergenceError, TaskError, users_code
from mbrl.physics import ManifoldDifference, Simulator, StateSpec, bounds, converge, quiet
from mbrl.tasks.hidden import HiddenState, Saved
from mbrl.types import Array, Linearization

_EPS, _CENTERED_EPS = 2.0**-27, 2.0**-20
# Centred, of values in single precision: they lose 1e-5 of themselves to rounding then.
_ROUNDED_EPS = 2.0**-9
_UNLIMITED = 2**62


class StepResult(NamedTuple):
    """What a batch of steps gives."""

    next_state: Array  # (B, nx)
    reward: Array  # (B,)
    terminated: Array  # (B,) bool
    observation: Array  # (B, n_obs)


class EnvironmentStep:
    r"""(x, u; t, c) -> (x', r, o'): what ``env.step`` gives from a set state, row by row.

    The clock ``data.time`` is t dt, attributes are those of the episode's context c. All of it is
    differentiated together: one sweep of steps from perturbed states and actions, in a second
    environment whose constraint solver runs to convergence.

    Args:
        env: the bare environment.
        make_twin: makes another one like it, for differences; its solver options are changed.
        simulator: the physics, for the state space and the seconds of a step.
        hidden: the environment's attributes.
        action_low: smallest action, [nu].
        action_high: largest action, [nu].
        name: the environment's id, for messages.
        eps: size of the differences; None: 2^-27, centred 2^-20.
        centered: second-order differences.

    Attributes:
        spec: the state space, with as many controls as there are actions.
        extras: columns besides the next state.
        rounded: which of next_state, reward and observation the environment computes in single
            precision; their differences are centred and of 2^-9, unless eps is given.
    """

    def __init__(
        self,
        env: Any,
        make_twin: Callable[[], Any],
        simulator: Simulator,
        hidden: HiddenState,
        action_low: Array,
        action_high: Array,
        name: str,
        *,
        eps: float | None = None,
        centered: bool = False,
    ):
        self._env, self._make_twin, self._hidden, self._name = env, make_twin, hidden, name
        self._dt = simulator.dt
        self.spec = copy.copy(simulator.spec)
        self.spec.nu = len(action_low)  # an environment may make its controls of other actions
        self.extras = 2 + int(np.prod(env.observation_space.shape))
        self._eps, self._centered = eps, centered
        self.rounded: Collection[str] = ()
        self._latest: StepResult | None = None
        low, high = bounds(simulator.model)
        na = self.spec.na
        self._bounds = (
            np.concatenate([low[:na], action_low]),
            np.concatenate([high[:na], action_high]),
        )

    @functools.cached_property
    def _twin(self) -> Any:
        twin = self._make_twin()
        twin.reset(seed=0)
        converge(twin.model)
        return twin

    def run(self, state: Array, action: Array, constants: Array) -> StepResult:
        """Step every row of [B, nx] and [B, nu] with constants [B, 1 + n] = (t, c).

        Raises:
            DivergenceError: naming the rows whose simulation diverged.
            TaskError: if the environment raises.
        """
        self._latest = self._run(self._env, state, action, constants)
        return self._latest

    def evaluate(self, state: Array, ctrl: Array, constants: Array | None) -> Array:
        """Return (x', r, terminated, o') in one row each, [B, nx + extras]."""
        return _row(self.run(state, ctrl, _given(constants)))

    def linearize(self, state: Array, ctrl: Array, constants: Array | None) -> Linearization:
        """Return the joint Jacobians of x', r and o'; that of ``terminated`` is zero."""

        def evaluate(states: Array, ctrls: Array, repeated: Array) -> Array:
            result = self.converged(states, ctrls, repeated)
            return _row(result._replace(terminated=np.zeros(len(states), dtype=bool)))

        difference = _differences(self.spec, evaluate, _given(constants), self._bounds)
        rough = self._rough_rows()
        if rough.all():
            return difference(state, ctrl, eps=_ROUNDED_EPS, centered=True)
        eps = self._eps or (_CENTERED_EPS if self._centered else _EPS)
        found = difference(state, ctrl, eps=eps, centered=self._centered)
        if rough.any():
            other = difference(state, ctrl, eps=_ROUNDED_EPS, centered=True)
            for exact, coarse in zip(found, other, strict=True):
                exact[:, rough] = coarse[:, rough]
        return found

    def converged(self, state: Array, action: Array, constants: Array) -> StepResult:
        """Return what :meth:`run` does, of the environment that differences are taken of."""
        return self._run(self._twin, state, action, constants)

    def set_row(self, env: Any, state: Array, constants: Array, saved: Saved | None = None) -> None:
        """Put an environment into a state, as after a reset and t steps.

        Args:
            env: the environment.
            state: (nx).
            constants: (1 + n), t and c.
            saved: other attributes and user inputs than those of c.
        """
        mujoco.mj_resetData(env.model, env.data)
        self._hidden.write(env, constants[1:])
        if saved is not None:
            self._hidden.enter(env, constants[1:], saved)
        qpos, qvel, act = self.spec.split(state)
        if self.spec.na:
            env.data.act[:] = act
        env.data.time = constants[0] * self._dt
        env.set_state(qpos, qvel)

    def ended(self, next_state: Array) -> NDArray[np.bool_]:
        """Return which rows of [B, nx] the last call arrived at with the end of an episode."""
        known = self._latest
        if known is None or known.next_state.shape != next_state.shape:
            return np.zeros(len(next_state), dtype=bool)
        return known.terminated & (known.next_state == next_state).all(axis=1)

    def _check(self, observation: Array) -> None:
        if observation.shape != (self.extras - 2,):
            raise TaskError(
                f"{self._name}: its step returns an observation of shape {observation.shape}, "
                f"observation_space says {(self.extras - 2,)}; set self.observation_space"
            )

    def _rough_rows(self) -> NDArray[np.bool_]:
        """Return which rows of the joint Jacobian are of what is rounded, [ndx + extras]."""
        known = () if self._eps is not None else self.rounded
        reward = "reward" in known
        return np.repeat(
            # The end of an episode has no slope, whatever it is differenced over.
            ["next_state" in known, reward, reward, "observation" in known],
            [self.spec.ndx, 1, 1, self.extras - 2],
        )

    def _run(self, env: Any, state: Array, action: Array, constants: Array) -> StepResult:
        n = len(state)
        rows = StepResult(
            np.empty((n, self.spec.nx)),
            np.empty(n),
            np.empty(n, dtype=bool),
            np.empty((n, self.extras - 2)),
        )
        diverged = []
        with quiet():
            for row in range(n):
                self.set_row(env, state[row], constants[row])
                one = taken(env, action[row], self._name)
                self._check(one.observation[0])
                for whole, part in zip(rows, one, strict=True):
                    whole[row] = part[0]
                if env.data.warning.number.any():
                    diverged.append(row)
        self._hidden.reset(env)  # formulas may read attributes that a step changes
        if diverged:
            raise DivergenceError(
                f"{self._name}: the simulation diverged in rows {diverged[:8]}", diverged
            )
        return rows


class EnvironmentObservation:
    """(x; t, c) -> o: what the environment observes of a set state, with its own ``_get_obs``.

    Args:
        steps: sets the states.
        env: the bare environment.
        size: width of an observation.
        name: the environment's id, for messages.
    """

    def __init__(self, steps: EnvironmentStep, env: Any, size: int, name: str):
        self._steps, self._env, self._name = steps, env, name
        self.spec = copy.copy(steps.spec)
        self.spec.nu = 0
        self.extras = size
        nothing = np.full(self.spec.na, np.inf)
        self._bounds = -nothing, nothing

    def evaluate(self, state: Array, ctrl: Array, constants: Array | None) -> Array:
        """Return (x, o) in one row each, [B, nx + extras]; ``ctrl`` has width 0."""
        observations = np.empty((len(state), self.extras))
        with quiet():
            for row, c in enumerate(_given(constants)):
                self._steps.set_row(self._env, state[row], c)
                with users_code(f"{self._name}: _get_obs"):
                    observations[row] = self._env._get_obs()
        return np.concatenate([state, observations], axis=1)

    def linearize(self, state: Array, ctrl: Array, constants: Array | None) -> Linearization:
        """Return the Jacobians of (x, o), centred differences."""
        eps = _ROUNDED_EPS if "observation" in self._steps.rounded else _CENTERED_EPS
        return _differences(self.spec, self.evaluate, _given(constants), self._bounds)(
            state, ctrl, eps=eps, centered=True
        )


def _differences(
    spec: StateSpec, evaluate: Any, constants: Array, limits: tuple[Array, Array]
) -> ManifoldDifference:
    """Differences of rows that begin with a state, in one call for all perturbations."""
    nx = spec.nx

    def repeated(states: Array, ctrls: Array) -> Array:
        # Perturbations of one row follow each other.
        values: Array = evaluate(
            states, ctrls, np.repeat(constants, len(states) // len(constants), axis=0)
        )
        return values

    def difference(centre: Array, moved: Array) -> Array:
        tangent = spec.difference(centre[..., :nx], moved[..., :nx])
        return np.concatenate([tangent, moved[..., nx:] - centre[..., nx:]], axis=-1)

    return ManifoldDifference(spec, repeated, difference, *limits, rows_per_call=_UNLIMITED)


def taken(env: Any, action: Array, name: str) -> StepResult:
    """Take one step of an environment as it stands, one row.

    Raises:
        TaskError: if it raises.
    """
    with users_code(f"{name}: step"):
        # A copy: an environment may write into what it is given.
        observation, reward, terminated, _, _ = env.step(action.copy())
        return StepResult(
            current_state(env)[None],
            np.array([reward], dtype=np.float64),
            np.array([terminated], dtype=bool),
            np.array(observation, dtype=np.float64)[None],
        )


def current_state(env: Any) -> Array:
    """Return [qpos, qvel, act] of an environment, (nx)."""
    data = env.data
    return np.concatenate([data.qpos, data.qvel, data.act])


def _row(result: StepResult) -> Array:
    columns = result.reward[:, None], result.terminated[:, None].astype(np.float64)
    return np.concatenate([result.next_state, *columns, result.observation], axis=1)


def _given(constants: Array | None) -> Array:
    if constants is None:
        raise ValueError("an environment's step needs its constants")
    return constants
