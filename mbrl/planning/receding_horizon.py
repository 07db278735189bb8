"""Model predictive control: a planner as a policy."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbrl.errors import ArgumentError, suggestion
from mbrl.planning.checks import check_counts, check_not_negative, check_positive
from mbrl.planning.model import naming
from mbrl.planning.planner import NOTHING, Plan, Planner
from mbrl.planning.problem import Policy, Problem
from mbrl.planning.restart import plan_or_restart
from mbrl.types import Array, Start

Tail = Literal["hold", "rest"]


class Schedule(NamedTuple):
    """When to plan, and for how long.

    Attributes:
        every: control steps between two plans; in between the gains of the plan answer to what is
            measured.
        iterations: iterations of a plan that goes on from the one before.
        first: iterations of the first plan of an episode; None: as many as the planner says.
        seconds: a plan stops iterating after so long, whatever came of it; None: never, and the
            same measurements give the same actions bit for bit.
    """

    every: int = 1
    iterations: int = 1
    first: int | None = None
    seconds: float | None = None


class Ticks:
    """What planning has cost so far."""

    def __init__(self) -> None:
        self.plans = self.misses = self.restarts = 0
        self.seconds = 0.0

    def note(self, seconds: float, deadline: float | None) -> None:
        """Count a plan that took so long."""
        self.plans += 1
        self.seconds += seconds
        self.misses += deadline is not None and seconds > deadline

    def measured(self) -> dict[str, float]:
        """Plans, plans per second, plans past their deadline, plans with rows begun again."""
        return {
            "plans": float(self.plans),
            "planning_hz": self.plans / self.seconds if self.seconds else math.nan,
            "deadline_misses": float(self.misses),
            "plan_restarts": float(self.restarts),
        }


class RecedingHorizon:
    r"""The policy that plans from what it measures, and applies the beginning of the plan.

    .. math:: u_t = \mathrm{clip}(\bar u_{t} + K_t (x_t \ominus \bar x_t)), \qquad
              (\bar u, \bar x, K) = \mathrm{plan}(x_{s}), \quad s = n \lfloor t / n \rfloor

    Each plan begins with the one before, shifted by the time that has passed, and as its gains
    would have it from the measured state. What the shift leaves empty at the end is filled by the
    last action again ("hold"), by the action nearest to zero ("rest"), or by a policy from where
    the shifted plan ends. Episodes run in lockstep, one a row. Rows whose plan diverges where it
    begins are begun again from rest; see :func:`plan_or_restart`.

    Args:
        problem: what is planned; its scene is replaced by that of the episodes.
        planner: how.
        schedule: when; see :class:`Schedule`.
        tail: hold or rest.
        policy: fills the tail instead, and makes the first plan.
        feedback: whether gains are used, if the planner has any.
        initial_sd: deviation of the noise on the actions that an episode's first plan begins with,
            relative to ``problem.spread``. At rest may be a stationary point that no gradient
            leaves, such as a pole that hangs.
        seed: of the planner's randomness in every episode.

    Attributes:
        ticks: what planning has cost so far.
        plan: the present plan, or None.
    """

    on_states = True  # acts on the state, not on an observation of it

    def __init__(
        self,
        problem: Problem,
        planner: Planner,
        *,
        schedule: Schedule = Schedule(),  # noqa: B008 (immutable)
        tail: Tail = "hold",
        policy: Policy | None = None,
        feedback: bool = True,
        initial_sd: float = 0.0,
        seed: int = 0,
    ):
        check_counts(
            every=schedule.every,
            iterations=schedule.iterations,
            first_iterations=schedule.first,
        )
        check_positive(seconds=schedule.seconds)
        check_not_negative(initial_sd=initial_sd)
        if schedule.every > problem.horizon:
            raise ArgumentError(
                f"every must not exceed the horizon {problem.horizon}, got {schedule.every}"
            )
        planner.check_horizon(problem.horizon)
        if tail not in get_args(Tail):
            raise ArgumentError(f"tail: unknown value {tail!r}; {suggestion(tail, get_args(Tail))}")
        self.problem, self.planner, self.schedule = problem, planner, schedule
        self._tail, self._policy, self._feedback, self._seed = tail, policy, feedback, seed
        self._initial_sd = initial_sd
        self.ticks = Ticks()
        self._prepared: tuple[Plan, Start] | None = None
        self.reset()

    def reset(self) -> None:
        """Begin new episodes: forget the plan, and draw the same random numbers again."""
        self.plan: Plan | None = None
        self._planned_at, self._rows = 0, np.zeros(0, dtype=np.intp)
        self._next = 0
        self._generator = torch.Generator().manual_seed(self._seed)

    def prepare(self, plan: Plan, start: Start) -> None:
        """Let episodes begin with the plan made for the nearest of B starts, contexts included.

        One that begins exactly there follows it as it is; elsewhere the first plan goes on from it.
        """
        self._prepared = plan, start

    def act(
        self,
        states: Array,
        t: int | None = None,
        contexts: Array | None = None,
        running: NDArray[np.bool_] | None = None,
    ) -> Array:
        """Return actions for measured states.

        Time runs forward from plan to plan: asked for the step of the present plan or one before
        it, or past that plan's end, this is the beginning of other episodes, as after
        :meth:`reset`.

        Args:
            states: [B, nx], or of a single episode [nx], whose context may then be [n].
            t: index of the step in the episodes; None: the one after the last, 0 after
                :meth:`reset`.
            contexts: [B, n]; None: there are none.
            running: which rows still matter, [B]; the others get the action nearest to zero.

        Returns:
            [B, nu], or [nu].

        Raises:
            DivergenceError: if even a plan begun from rest diverges.
        """
        state = torch.from_numpy(np.array(states, dtype=np.float64))
        if state.ndim == 1:
            goals = None if contexts is None else np.atleast_2d(contexts)
            of_one: Array = self.act(state[None].numpy(), t, goals, running)[0]
            return of_one
        t = self._next if t is None else t
        rows = np.arange(len(state)) if running is None else np.flatnonzero(running)
        if not 0 < t - self._planned_at <= self.problem.horizon:
            self.reset()
        if self.plan is not None and not np.array_equal(rows, self._rows):
            self._select(rows)
        self._rows = rows
        actions = self.problem.still(len(state))[0]
        if len(rows):
            context = None
            if contexts is not None and contexts.shape[1]:
                context = torch.from_numpy(np.array(contexts, dtype=np.float64))[rows]
            actions[rows] = self._act(state[rows], t, context)
        self._next = t + 1
        found: Array = actions.numpy()
        return found

    def measured(self) -> dict[str, float]:
        """Return what planning has cost; see :class:`Ticks`."""
        return self.ticks.measured()

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next action depends on, but what it was made of."""
        plan = None
        if self.plan is not None:
            plan = {**self.plan._asdict(), "memory": dict(self.plan.memory)}
        return {
            "plan": plan,
            "planned_at": self._planned_at,
            "next": self._next,
            "rows": torch.from_numpy(self._rows),
            "generator": self._generator.get_state(),
            "ticks": dict(vars(self.ticks)),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.plan = None if state["plan"] is None else Plan(**state["plan"])
        self._planned_at, self._rows = int(state["planned_at"]), state["rows"].numpy()
        self._next = int(state.get("next", self._planned_at))
        self._generator.set_state(state["generator"])
        vars(self.ticks).update(state["ticks"])

    def _select(self, rows: NDArray[np.intp]) -> None:
        """Keep the plans of these episodes; forget them if there are none for one of these."""
        kept = np.flatnonzero(np.isin(self._rows, rows))
        if self.plan is None or len(kept) != len(rows):
            self.plan = None
        else:
            self.plan = self.plan.rows(torch.from_numpy(kept))

    def _act(self, state: Tensor, t: int, context: Tensor | None) -> Tensor:
        problem = self.problem.at(t, context)
        if self.plan is None or t - self._planned_at >= self.schedule.every:
            self._replan(problem, state, t)
        plan = self.plan
        if plan is None:
            raise ArgumentError(
                f"a planner must return a plan, {type(self.planner).__name__} did not"
            )
        k = t - self._planned_at
        if not self._feedback or plan.gains is None:
            return problem.clip(plan.actions[k])
        return problem.fed_back(plan.actions[k], plan.gains[k], plan.states[k], state)

    def _replan(self, problem: Problem, state: Tensor, t: int) -> None:
        if self.plan is None:
            self.plan = self._planned_first(problem, state)
        else:
            elapsed = t - self._planned_at
            shifted = self.plan.shifted(elapsed)
            start, memory = self._extended(problem, shifted, state, elapsed)
            self.plan = self._planned(problem, state, start, self.schedule.iterations, memory)
        self._planned_at = t

    def _planned_first(self, problem: Problem, state: Tensor) -> Plan:
        """Return the plan of new episodes: what was prepared for them, or begun from that."""
        if self._prepared is None:
            return self._planned(problem, state, self._first(problem, state), self.schedule.first)
        prepared, there = _nearest(*self._prepared, state, problem.scene.context)
        known, others = there.nonzero()[:, 0], (~there).nonzero()[:, 0]
        parts = [(known, prepared.rows(known))] if len(known) else []
        if len(others):
            elsewhere, away = problem.rows(others), state[others]
            start = self._fed_back(elsewhere, away, prepared.rows(others))
            with naming(others):
                found = self._planned(elsewhere, away, start, self.schedule.first)
            if prepared.gains is not None and found.gains is None:
                # The others' feedback stays: this plan has none, which is what zeros are.
                found = found._replace(gains=torch.zeros_like(prepared.gains[:, others]))
            parts.append((others, found))
        return Plan.joined(parts)

    def _planned(
        self,
        problem: Problem,
        state: Tensor,
        start: Tensor,
        iterations: int | None,
        memory: Mapping[str, Tensor] = NOTHING,
    ) -> Plan:
        began = time.perf_counter()
        plan, again = plan_or_restart(
            self.planner,
            problem,
            state,
            start,
            generator=self._generator,
            memory=memory,
            iterations=iterations,
            seconds=self.schedule.seconds,
        )
        self.ticks.restarts += len(again) > 0
        self.ticks.note(time.perf_counter() - began, self.schedule.seconds)
        return plan

    def _fed_back(self, problem: Problem, state: Tensor, plan: Plan) -> Tensor:
        """Return what a plan's gains make of it from other states than it was made for."""
        gains = plan.gains
        if not self._feedback or gains is None:
            return plan.actions

        def law(t: int, states: Tensor) -> Tensor:
            return problem.fed_back(plan.actions[t], gains[t], plan.states[t], states)

        states, actions = problem.model.closed_loop(state, law, problem.horizon, problem.scene)
        lost = ~(states.isfinite().all(-1).all(0) & actions.isfinite().all(-1).all(0))
        return torch.where(lost[:, None], plan.actions, actions)

    def _first(self, problem: Problem, state: Tensor) -> Tensor:
        """Return where the first plan of an episode begins."""
        actions = problem.still(len(state))
        if self._policy is not None:
            actions = problem.follow(self._policy, state, problem.horizon)
        return problem.perturbed(actions, self._initial_sd, self._generator)

    def _extended(
        self, problem: Problem, shifted: Plan, state: Tensor, elapsed: int
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the actions of a shifted plan with its tail filled, and its memory."""
        actions = self._fed_back(problem, state, shifted)
        if self._tail == "rest":
            actions = torch.cat([actions[:-elapsed], problem.still(len(state))[:elapsed]])
        if self._policy is not None:
            kept = actions[:-elapsed]
            last = problem.model.rollout(state, kept, problem.scene)[-1] if len(kept) else state
            there = last.isfinite().all(-1, keepdim=True)
            later = problem.at(problem.scene.start + len(kept), problem.scene.context)
            tail = later.follow(self._policy, torch.where(there, last, state), elapsed)
            actions = torch.cat([kept, torch.where(there, tail, actions[len(kept) :])])
        return actions, shifted.memory


def _nearest(
    plan: Plan, start: Start, state: Tensor, context: Tensor | None
) -> tuple[Plan, Tensor]:
    """Return the plans of the nearest starts, and which rows [B] begin just there."""
    here = state if context is None else torch.cat([state, context], dim=1)
    starts = torch.cat([start.state, start.context], dim=1)
    nearest = torch.cdist(here, starts).argmin(1)
    return plan.rows(nearest), (here == starts[nearest]).all(1)
