"""Whether an environment is what a task takes it for: held against its own steps and episodes."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mbrl.errors import MbrlError, TaskError, users_code
from mbrl.physics import Simulator, quiet
from mbrl.tasks.attributes import unsaved
from mbrl.tasks.formulas import Formula
from mbrl.tasks.hidden import HiddenState, Saved
from mbrl.tasks.own_step import EnvironmentStep, StepResult, current_state, taken
from mbrl.tasks.semantics import Semantics
from mbrl.types import Array

_EPISODE, _LONG = 12, 200  # steps
_OTHER_SEED = 9176
# How far derived quantities that lag one physics step behind may carry a step in a running episode
# from one that starts in a set state.
_LAG = 0.1
# Over these distances a smooth function in double precision has one slope, one in single several:
# none over the smallest, where it is large, and any over those that are not much larger.
_SMALL = (2.0**-27, 2.0**-24, 2.0**-20, 2.0**-16)
_FLAT = 1e-3
_APART = 3  # steps between points that are looked at so closely
_MACHINERY = ("do_simulation", "_step_mujoco_simulation")


class Points(NamedTuple):
    """Steps that the environment itself took."""

    state: Array  # (B, nx)
    action: Array  # (B, nu)
    constants: Array  # (B, 1 + n), t and c
    result: StepResult  # in the running episode


class Examiner:
    """Examines one environment.

    Args:
        env: the bare environment.
        steps: its step from set states.
        hidden: its attributes.
        name: its id, for messages.
    """

    def __init__(self, env: Any, steps: EnvironmentStep, hidden: HiddenState, name: str):
        self._env, self._steps, self._hidden, self._name = env, steps, hidden, name
        self._pushed = hidden.acts  # by what is set in MjData, which a Simulator knows nothing of

    def resets(self) -> None:
        """Refuse a reset that does not follow its seed.

        Raises:
            TaskError: saying so.
        """
        for seed in range(2):
            found = []
            for _ in range(2):
                with users_code(f"{self._name}: reset"):
                    self._env.reset(seed=seed)
                drawn = self._hidden.read(self._env)
                found.append(np.concatenate([current_state(self._env), drawn]).tobytes())
            if found[0] != found[1]:
                raise TaskError(
                    f"{self._name}: its reset does not repeat from one seed; it must draw from "
                    "self.np_random alone"
                )

    def repeats(self, points: Points) -> None:
        """Refuse a step that is not a function of (x, u; t, c).

        Raises:
            TaskError: naming what it depends on besides.
        """
        for x, u, c in zip(points.state, points.action, points.constants, strict=True):
            before, first, after, ctrl = self._first(x, u, c)
            with users_code(f"{self._name}: reset"):
                self._env.reset(seed=_OTHER_SEED)
            if not _same(first, self._again(x, u, c)):
                raise TaskError(
                    f"{self._name}: its step does not repeat: from one state, with its attributes "
                    f"restored, it gives different results{self._suspects()}"
                )
            if not _same(first, self._again(x, u, c, after, ctrl)):
                changed = before.changed(after) or ["data.ctrl"]
                raise TaskError(
                    f"{self._name}: its step does not repeat: it depends on what a step changes, "
                    f"{', '.join(changed)}; it must be in the state, or in an attribute that only "
                    "reset sets"
                )
            if self._hidden.is_declared and not _same(
                first, self._again(x, u, c, self._hidden.other)
            ):
                raise TaskError(
                    f"{self._name}: its step depends on what its reset draws besides `context`: "
                    f"{', '.join(self._besides(before))}"
                )

    def episode(self, low: Array, high: Array) -> Points:
        """Return the first steps of an episode; refuse one that remembers more than its state.

        Args:
            low: smallest action to try, [nu].
            high: largest.

        Raises:
            TaskError: saying at which step it differs.
        """
        rng, env = np.random.default_rng(0), self._env
        with users_code(f"{self._name}: reset"), quiet():
            env.reset(seed=_OTHER_SEED)
        context = self._hidden.read(env)
        rows: list[tuple[Array, Array, Array]] = []
        results: list[StepResult] = []
        with quiet():
            for t in range(_EPISODE):
                rows.append((current_state(env), rng.uniform(low, high), np.append(t, context)))
                results.append(taken(env, rows[-1][1], self._name))
                self._observes(results[-1].observation[0])
                self._pushed = self._pushed or self._hidden.acts_now(env)
                if results[-1].terminated[0]:
                    break
        self._hidden.reset(env)
        state, action, constants = (np.array(column) for column in zip(*rows, strict=True))
        whole = StepResult(*(np.concatenate(parts) for parts in zip(*results, strict=True)))
        points = Points(state, action, constants, whole)
        alone = self._steps.run(state, action, constants)
        for what in ("next_state", "reward", "observation"):
            ours, theirs = getattr(alone, what), getattr(whole, what)
            far = np.abs(ours - theirs) > _LAG * (1 + np.abs(theirs))
            if far.any():
                t = int(np.argwhere(far)[0][0])
                raise TaskError(
                    f"{self._name}: its step does not repeat: step {t} of an episode gives another "
                    f"{what} than a step from the same state; what a step needs must be in the "
                    "state, or in an attribute that only reset sets"
                )
        return points

    def is_plain(self, simulator: Simulator, points: Points) -> bool:
        """Whether a step is physics under the action and nothing else."""
        kind = type(self._env)
        if (
            self._pushed
            or points.action.shape[1] != simulator.spec.nu
            or any(
                not getattr(kind, method).__module__.startswith("gymnasium.")
                for method in _MACHINERY
            )
        ):
            return False
        real = self._steps.run(points.state, points.action, points.constants).next_state
        ours = simulator.step(points.state, points.action)
        return bool((np.abs(ours - real) <= 1e-5 * (1 + np.abs(real))).all())

    def rounded(self, points: Points, *, differentiated: bool) -> list[str]:
        """Return what has several slopes over small distances, as in single precision.

        Args:
            points: where it is looked.
            differentiated: whether the step is differentiated, or what it observes alone.
        """
        found = _uneven(self._steps, *(np.ascontiguousarray(part[::_APART]) for part in points[:3]))
        observes = callable(getattr(self._env, "tensor_observation", None))
        names = [n for n in found if differentiated or (n == "observation" and not observes)]
        if names:
            warnings.warn(
                f"{self._name}: its step computes in single precision ({', '.join(names)}): it is "
                "differentiated over distances of 2^-9, less exactly; compute in float64",
                RuntimeWarning,
                stacklevel=2,
            )
        return found

    def warn_of_ends(self, low: Array, high: Array) -> None:
        """Say so if steps end episodes, of an environment whose graph would never know.

        Args:
            low: smallest action to try, [nu].
            high: largest.
        """
        rng, env, last = np.random.default_rng(3), self._env, None
        with quiet(), contextlib.suppress(MbrlError):  # of a recording that ended, perhaps
            with users_code(f"{self._name}: reset"):
                env.reset(seed=_OTHER_SEED)
            for t in range(1, _LONG + 1):
                if taken(env, rng.uniform(low, high), self._name).terminated[0]:
                    last = t
                    break
        self._hidden.reset(env)
        if last is not None:
            warnings.warn(
                f"{self._name}: its step ended an episode after {last} steps, but it has a "
                "tensor_reward and no tensor_terminated: rollouts in a graph do not end; give it "
                "tensor_terminated(next_state)",
                RuntimeWarning,
                stacklevel=2,
            )

    def _first(self, x: Array, u: Array, c: Array) -> tuple[Saved, StepResult, Saved, Array]:
        with quiet():
            self._steps.set_row(self._env, x, c)
            before = Saved.of(self._env)
            first = taken(self._env, u, self._name)
        return before, first, Saved.of(self._env), self._env.data.ctrl.copy()

    def _again(
        self, x: Array, u: Array, c: Array, saved: Saved | None = None, ctrl: Array | None = None
    ) -> StepResult:
        with quiet():
            self._steps.set_row(self._env, x, c, saved)
            if ctrl is not None:
                self._env.data.ctrl[:] = ctrl
            return taken(self._env, u, self._name)

    def _observes(self, observation: Array) -> None:
        """Refuse a step that observes something else than ``_get_obs``, which `observe` asks."""
        if callable(getattr(self._env, "tensor_observation", None)):
            return
        if not callable(getattr(self._env, "_get_obs", None)):
            return
        with users_code(f"{self._name}: _get_obs"):
            asked = np.asarray(self._env._get_obs(), dtype=np.float64)
        if asked.shape != observation.shape or not np.allclose(asked, observation, 1e-6, 1e-6):
            raise TaskError(
                f"{self._name}: its step returns another observation than its _get_obs; give it "
                "the method tensor_observation(state)"
            )

    def _besides(self, before: Saved) -> list[str]:
        names = before.changed(self._hidden.other)
        return [n for n in names if n not in (*self._hidden.drawn, "the random generator")]

    def _suspects(self) -> str:
        names = unsaved(self._env)
        if not names:
            return ""
        return f"; these attributes cannot be saved: {', '.join(names)}; keep numbers or arrays"


class Formulas:
    """Examines the torch formulas that an environment brings along.

    Args:
        semantics: the formulas.
        simulator: the physics.
        name: the environment's id, for messages.
    """

    def __init__(self, semantics: Semantics, simulator: Simulator, name: str):
        self._semantics, self._simulator, self._name = semantics, simulator, name

    def check(self, points: Points, alone: StepResult, *, plain: bool) -> None:
        """Hold formulas against steps from set states.

        Where a step reads quantities that lag one physics step behind, a formula may differ by what
        that step changes.

        Args:
            points: where.
            alone: what the environment's step gives there.
            plain: whether a step is physics alone.

        Raises:
            TaskError: naming the formula that contradicts the step.
        """
        state, action, after = map(torch.from_numpy, (points.state, points.action, alone[0]))
        earlier = torch.from_numpy(self._earlier(points)) if plain else after
        for i in range(len(state)):
            row, t = slice(i, i + 1), int(points.constants[i, 0])
            context = torch.from_numpy(points.constants[row, 1:].copy())
            given = {"context": context}
            semantics = self._semantics
            if semantics.reward is not None:
                found, lagged = (
                    self._called(
                        semantics.reward, (state[row], action[row], end[row]), t=t, **given
                    )
                    for end in (after, earlier)
                )
                self._hold("reward", found, lagged, alone.reward[row], plain=plain)
            if "tensor_observation" in semantics.own and semantics.observation is not None:
                found, lagged = (
                    self._called(semantics.observation, (end[row],), t=t + 1, **given)
                    for end in (after, earlier)
                )
                self._hold("observation", found, lagged, alone.observation[row], plain=plain)
            if semantics.terminated is not None:
                ends = [
                    self._called(semantics.terminated, (end[row],), t=t, **given)
                    for end in (after, earlier)
                ]
                self._hold_end(ends, bool(alone.terminated[i]))

    def _called(self, formula: Formula, values: tuple[Tensor, ...], **given: Any) -> Tensor:
        before = [value._version for value in values]
        found = formula(*values, **given)
        if before != [value._version for value in values]:
            raise TaskError(
                f"{formula.name} writes into its arguments, which are the caller's; make new "
                "tensors (clamp, not clamp_)"
            )
        return found

    def _earlier(self, points: Points) -> Array:
        """Return the states one physics step before the end of each step."""
        substeps = self._simulator.frame_skip - 1
        if substeps == 0:
            return points.state
        shorter = Simulator(self._simulator.model, frame_skip=substeps, threads=1)
        return shorter.step(points.state, points.action)

    def _hold(self, what: str, ours: Tensor, lagged: Tensor, real: Array, *, plain: bool) -> None:
        theirs = torch.from_numpy(real)
        if not isinstance(ours, Tensor) or ours.shape != theirs.shape:
            shape = list(ours.shape) if isinstance(ours, Tensor) else type(ours).__name__
            raise TaskError(
                f"{self._name}: tensor_{what} of one row must have shape {list(theirs.shape)}, "
                f"got {shape}"
            )
        allowed = 1e-5 * (1 + theirs.abs()) + 1.1 * (ours - lagged).abs()
        if not plain or what not in self._own:
            allowed = allowed + _LAG * (1 + theirs.abs())
        # Both NaN agree: the run will say so.
        if bool(((ours - theirs).abs() > allowed).any() or (ours.isnan() != theirs.isnan()).any()):
            raise TaskError(
                f"{self._name}: tensor_{what} contradicts its step: {_shown(ours)} where the step "
                f"gives {_shown(theirs)}"
            )

    def _hold_end(self, ends: list[Tensor], real: bool) -> None:
        for end in ends:
            if not isinstance(end, Tensor) or end.dtype != torch.bool or end.shape != (1,):
                found = f"{end.dtype} {list(end.shape)}" if isinstance(end, Tensor) else str(end)
                raise TaskError(
                    f"{self._name}: tensor_terminated of one row must be a boolean tensor of shape "
                    f"[1], got {found}"
                )
        if "tensor_terminated" in self._semantics.own and real not in map(bool, ends):
            raise TaskError(
                f"{self._name}: tensor_terminated contradicts its step, which says {real}"
            )

    @property
    def _own(self) -> set[str]:
        return {method.removeprefix("tensor_") for method in self._semantics.own}


def _uneven(steps: EnvironmentStep, state: Array, action: Array, constants: Array) -> list[str]:
    """Return what of a step's results has no slope over small distances, at most points."""
    rng, spec = np.random.default_rng(2), steps.spec
    along_x = rng.standard_normal((len(state), spec.ndx)), np.zeros_like(action)
    along_u = np.zeros((len(state), spec.ndx)), rng.standard_normal(action.shape)
    here, uneven = steps.converged(state, action, constants), []
    for dx, du in (along_x, along_u):
        moved = [
            steps.converged(spec.retract(state, eps * dx), action + eps * du, constants)
            for eps in _SMALL
        ]
        for name in ("next_state", "reward", "observation"):
            at = getattr(here, name).reshape(len(state), -1)
            ends = [getattr(one, name).reshape(at.shape) for one in moved]
            slopes = np.stack([(end - at) / eps for end, eps in zip(ends, _SMALL, strict=True)])
            spread, largest = np.ptp(slopes, axis=0), np.abs(slopes).max(0)
            bad = spread > 0.1 * largest + _FLAT * (1 + np.abs(at))
            if bad.any(1).mean() > 0.5:
                uneven.append(name)
    return list(dict.fromkeys(uneven))


def _same(one: StepResult, other: StepResult) -> bool:
    return all(a.tobytes() == b.tobytes() for a, b in zip(one, other, strict=True))


def _shown(values: Tensor) -> str:
    numbers = values.flatten().tolist()
    return f"{numbers[0]:.6g}" if len(numbers) == 1 else f"[{numbers[0]:.6g}, ...]"
