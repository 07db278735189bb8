"""Trajectory optimisation: one search, iterated to its end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mbrl.algorithms.algorithm import Setting
from mbrl.algorithms.planning import guide, learned, shared
from mbrl.errors import ArgumentError, MbrlError
from mbrl.landscape import TrajectoryLoss
from mbrl.planning import (
    DEFAULT_PLANNER,
    PlannerChoice,
    Problem,
    RecedingHorizon,
    Schedule,
    Search,
    SmoothingChoice,
    make_planner,
    make_problem,
)
from mbrl.planning.checks import check_counts, check_not_negative
from mbrl.types import Start


class TrajectoryOptimization:
    r"""Open-loop optimal control from the starts of episodes.

    .. math:: \min_{u_0 \ldots u_{H-1}} \sum_t c(x_t, u_t, x_{t+1}) + \phi(x_H)

    by a planner of ``mbrl.planning``, one iteration an update, until it converges. What is
    evaluated follows the plan with its gains, if it has any; an episode that begins elsewhere gets
    a plan of its own, begun with this one, and one that outlasts its plan another.

    Args:
        setting: task and generator.
        planner: ``{kind: ..., **options}``. Its ``iterations`` do not end this search, which has
            ``updates``: they are for plans that are made during an evaluation.
        updates: iterations at most.
        horizon: H.
        batch: starts that are optimised, in one batch.
        cost: terms of residuals in place of the task's cost; see ``mbrl.planning.make_problem``.
        terminal: the same of the last state.
        until_termination: whether nothing is earned after the end of an episode.
        smoothing: whose derivatives stand in for those of the physics; see ``DynamicsNode``.
        dynamics: folder of a run whose learned model of states is planned with; null: the physics.
        initial_sd: deviation of random initial actions, relative to half their range.
        policy: folder of a run whose policy makes the initial actions; null: none.

    Raises:
        ArgumentError: if a number is out of its range.
        ConfigError: naming the key that is wrong.
    """

    shares_ranks = True

    def __init__(
        self,
        setting: Setting,
        *,
        planner: PlannerChoice = DEFAULT_PLANNER,
        updates: int = 50,
        horizon: int = 50,
        batch: int = 1,
        cost: Mapping[str, Any] | None = None,
        terminal: Mapping[str, Any] | None = None,
        until_termination: bool = True,
        smoothing: SmoothingChoice | None = None,
        dynamics: str | None = None,
        initial_sd: float = 0.0,
        policy: str | None = None,
    ):
        check_counts("algorithm", updates=updates, batch=batch)
        check_not_negative("algorithm", initial_sd=initial_sd)
        self._updates, self._generator, self._done = updates, setting.generator, 0
        self._imagined = dynamics is not None
        model = learned(setting.task, dynamics, "algorithm.dynamics")
        self._problem = make_problem(
            setting.task,
            horizon,
            cost=cost,
            terminal=terminal,
            until_termination=until_termination,
            smoothing=smoothing,
            dynamics=model,
        )
        self._planner = make_planner(planner, horizon, "algorithm.planner")
        self._shared = shared(self._problem, self._planner, setting.ranks)
        self._start = setting.task.start(batch, self._generator)
        self._initial_sd = initial_sd
        self._guide = guide(setting, policy, "algorithm.policy")
        self._search = self._begun()

    @property
    def updates(self) -> int:
        """Iterations there are to be: none after the search has converged."""
        return self._done if self._done and self._search.converged else self._updates

    @property
    def problem(self) -> Problem:
        """What is solved."""
        return self._problem

    def update(self) -> dict[str, float]:
        """Make one iteration; ``env_steps`` are the physics' steps, derivatives apart."""
        steps = self._iterate()
        self._done += 1
        costs = self._search.plan.costs
        return {
            "env_steps": 0.0 if self._imagined else steps,
            "return_mean": -float(costs.mean()),
            "cost_mean": float(costs.mean()),
            "cost_min": float(costs.min()),
            "cost_max": float(costs.max()),
            **self._search.measured(),
        }

    def _iterate(self) -> float:
        """Return the steps of all ranks' models in one iteration; a failed one leaves no trace."""
        before, drawn = self._search.state_dict(), self._generator.get_state()
        model = self._problem.model
        taken = model.control_steps
        try:
            self._search.iterate()
            taken = model.control_steps - taken
            return float(self._shared.ranks.total(torch.tensor(float(taken))))
        except MbrlError:
            self._search.load_state_dict(before)
            self._generator.set_state(drawn)
            raise

    def actor(self) -> RecedingHorizon:
        """Return what follows the plan."""
        horizon = self._problem.horizon
        actor = RecedingHorizon(
            self._problem,
            self._planner,
            schedule=Schedule(every=horizon, iterations=self._planner.iterations),
            policy=self._guide,
        )
        actor.prepare(self._search.plan, self._start)
        return actor

    def loss(self, generator: torch.Generator, batch: int | None = None) -> TrajectoryLoss:
        """Return the cost of action sequences from the starts, with the plan as its solution.

        Args:
            generator: not needed: the starts are those of the plan.
            batch: must be None.

        Raises:
            ArgumentError: if a batch is given.
        """
        if batch is not None:
            raise ArgumentError(
                f"landscape.batch: a plan belongs to its own starts, got {batch}; legal: null"
            )
        state, context = self._start
        problem = self._problem.at(0, context if context.shape[1] else None)
        return TrajectoryLoss(problem, state, self._search.plan.actions)

    def state_dict(self) -> dict[str, Any]:
        """The search, where it started, and the random state."""
        return {
            "search": self._search.state_dict(),
            "start": self._start._asdict(),
            "generator": self._generator.get_state(),
            "done": self._done,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._start = Start(**state["start"])
        self._search = self._begun()
        self._search.load_state_dict(state["search"])
        self._generator.set_state(state["generator"])
        self._done = int(state["done"])

    def _begun(self) -> Search:
        state, context = self._start
        problem = self._shared.at(0, context if context.shape[1] else None)
        actions = problem.still(len(state))
        if self._guide is not None:
            actions = problem.follow(self._guide, state, problem.horizon)
        actions = problem.perturbed(actions, self._initial_sd, self._generator)
        return self._planner.begin(problem, state, actions, self._generator)
