"""The interface of planners: a planner begins a search, a search iterates and holds a plan."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from mbrl.errors import ArgumentError
from mbrl.ops import check_real
from mbrl.planning.checks import check_integers, check_not_negative
from mbrl.planning.problem import Problem

NOTHING: Mapping[str, Tensor] = MappingProxyType({})


class Plan(NamedTuple):
    """Actions for T steps of B rows, and what is expected of them.

    Attributes:
        actions: inside the bounds, [T, B, nu].
        states: where they lead, [T+1, B, nx].
        costs: total costs, [B].
        gains: K of u = clip(u_t + K (x (-) x_t)), [T, B, nu, ndx]; None: open loop.
        memory: what a later search of the same planner can go on from: tensors [T, ..., B, n],
            which are shifted in time, and chosen by rows, with the plan. What belongs to no step,
            as iLQR's regularisation, is [1, ..., B, n], which no shift changes.
    """

    actions: Tensor
    states: Tensor
    costs: Tensor
    gains: Tensor | None = None
    memory: Mapping[str, Tensor] = NOTHING

    def shifted(self, steps: int) -> Plan:
        """Return the plan without its first steps; its last one is repeated to keep its length.

        There are no gains for what is repeated, and the costs stay behind.
        """

        def moved(series: Tensor, last: Tensor) -> Tensor:
            tail = last.expand(steps, *series.shape[1:])
            return torch.cat([series[steps:], tail])[: len(series)]

        gains = self.gains
        return self._replace(
            actions=moved(self.actions, self.actions[-1:]),
            states=moved(self.states, self.states[-1:]),
            gains=None if gains is None else moved(gains, torch.zeros_like(gains[-1:])),
            memory={name: moved(series, series[-1:]) for name, series in self.memory.items()},
        )

    def rows(self, rows: Tensor) -> Plan:
        """Return the plans of these rows of the batch, by their indices [n]."""
        return Plan(
            self.actions[:, rows],
            self.states[:, rows],
            self.costs[rows],
            None if self.gains is None else self.gains[:, rows],
            {name: series[..., rows, :] for name, series in self.memory.items()},
        )

    @classmethod
    def joined(cls, parts: Sequence[tuple[Tensor, Plan]]) -> Plan:
        """Return the plan of a batch from those of its parts, each with its rows' indices [n].

        What the parts do not remember alike, as one that a deadline cut short, is forgotten.
        """
        rows, plans = zip(*parts, strict=True)
        if len(plans) == 1:
            return cls(*plans[0])
        order = torch.cat(rows).argsort()

        def whole(series: Sequence[Tensor], dim: int) -> Tensor:
            return torch.cat(tuple(series), dim).index_select(dim, order)

        def alike(name: str) -> bool:
            found = [plan.memory[name] for plan in plans if name in plan.memory]
            shapes = {(*series.shape[:-2], series.shape[-1]) for series in found}
            return len(found) == len(plans) and len(shapes) == 1

        gains = [plan.gains for plan in plans if plan.gains is not None]
        names = filter(alike, plans[0].memory)
        return cls(
            whole([plan.actions for plan in plans], 1),
            whole([plan.states for plan in plans], 1),
            whole([plan.costs for plan in plans], 0),
            whole(gains, 1) if len(gains) == len(plans) else None,
            {name: whole([plan.memory[name] for plan in plans], -2) for name in names},
        )


class Search(ABC):
    """An optimisation in progress.

    Attributes:
        iterations: how many there are to be; None: nobody has said.
    """

    iterations: int | None = None

    # Attributes that the next iteration depends on: tensors, numbers, None, and lists and dicts of
    # them, never changed in place.
    kept: ClassVar[Sequence[str]] = ()

    def __init__(self, problem: Problem, state: Tensor):
        self.problem, self.state = problem, state

    @abstractmethod
    def iterate(self) -> None:
        """Improve the plan once."""

    @property
    @abstractmethod
    def plan(self) -> Plan:
        """The best plan so far; before the first iteration that of the initial actions."""

    @property
    def converged(self) -> bool:
        """Whether iterating further is of no use for any row."""
        return False

    def measured(self) -> dict[str, float]:
        """Return what is worth logging of the last iteration."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next iteration depends on, but problem, state and generator."""
        return {name: getattr(self, name) for name in self.kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        for name in self.kept:
            setattr(self, name, state[name])


class Planner(ABC):
    """A method of solving a :class:`Problem`; its keyword-only arguments are its options in YAML.

    Attributes:
        iterations: iterations of a plan made from nothing.
        knots: of the spline that it searches over; None: it searches over actions.
    """

    iterations: int
    knots: int | None = None

    def check_horizon(self, horizon: int) -> None:
        """Check the options that depend on how long the plan is.

        Args:
            horizon: T.

        Raises:
            ArgumentError: if there are more knots than steps.
        """
        if self.knots is not None and self.knots > horizon:
            raise ArgumentError(f"knots must be at most the horizon {horizon}, got {self.knots}")

    @abstractmethod
    def begin(
        self,
        problem: Problem,
        state: Tensor,
        actions: Tensor,
        generator: torch.Generator,
        memory: Mapping[str, Tensor] = NOTHING,
    ) -> Search:
        """Begin a search.

        Args:
            problem: what to solve.
            state: initial states, [B, nx] float64.
            actions: where to begin, [T, B, nu], inside the bounds.
            generator: all randomness of the search.
            memory: that of an earlier plan, shifted in time.
        """

    def plan(
        self,
        problem: Problem,
        state: Tensor,
        actions: Tensor | None = None,
        *,
        generator: torch.Generator | None = None,
        memory: Mapping[str, Tensor] = NOTHING,
        iterations: int | None = None,
        seconds: float | None = None,
    ) -> Plan:
        """Search until it has converged, or for so many iterations or seconds.

        Args:
            problem: what to solve.
            state: initial states, [B, nx].
            actions: where to begin, [T, B, nu]; None: zeros.
            generator: all randomness; None: one with seed 0.
            memory: see :meth:`begin`.
            iterations: at most so many; None: the planner's own number.
            seconds: no iteration begins later than this; None: no limit, and a plan that depends
                on its arguments alone.

        Raises:
            ArgumentError: on a wrong type or shape, a number that is not finite, or an option that
                does not fit the horizon.
            DivergenceError: if rows diverge, and there is nothing to go on from; names them.
        """
        began = time.perf_counter()
        if not isinstance(problem, Problem):
            raise ArgumentError(
                f"problem must be a Problem, see make_problem; got {type(problem).__name__}"
            )
        if generator is not None and not isinstance(generator, torch.Generator):
            raise ArgumentError(
                f"generator must be a torch.Generator or None, got {type(generator).__name__}"
            )
        check_integers(iterations=iterations)
        check_not_negative(iterations=iterations)
        self.check_horizon(problem.horizon)
        state, actions = checked(problem, state, actions)
        generator = generator or torch.Generator().manual_seed(0)
        search = self.begin(problem, state, actions, generator, memory)
        search.iterations = self.iterations if iterations is None else iterations
        for _ in range(search.iterations):
            if search.converged:
                break
            if seconds is not None and time.perf_counter() - began >= seconds:
                break
            search.iterate()
        return search.plan


def checked(problem: Problem, state: Tensor, actions: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return states [B, nx] and actions [T, B, nu] in float64, the actions inside the bounds.

    Raises:
        ArgumentError: on a wrong shape, or a number that is not finite.
    """
    nx = problem.model.state_size
    check_real(state=state)
    if state.ndim != 2 or state.shape[1] != nx or not len(state):
        raise ArgumentError(f"state must have shape [B, {nx}], got {list(state.shape)}")
    if actions is None:
        actions = problem.still(len(state))
    check_real(actions=actions)
    wanted = (problem.horizon, len(state), problem.action_size)
    if actions.shape != wanted:
        raise ArgumentError(f"actions must have shape {list(wanted)}, got {list(actions.shape)}")
    for name, value in (("state", state), ("actions", actions)):
        if not value.isfinite().all():
            raise ArgumentError(f"{name} must be finite, got NaN or infinity")
    detached = actions.detach().to("cpu", torch.float64)
    return state.detach().to("cpu", torch.float64), problem.clip(detached)
