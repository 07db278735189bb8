"""Model predictive control as an algorithm: nothing is learned, every step is planned."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mbrl.algorithms.algorithm import Setting
from mbrl.algorithms.planning import guide, learned, shared
from mbrl.errors import MbrlError
from mbrl.options import at_key
from mbrl.planning import (
    DEFAULT_PLANNER,
    PlannerChoice,
    Problem,
    RecedingHorizon,
    Schedule,
    SmoothingChoice,
    Tail,
    make_planner,
    make_problem,
)
from mbrl.planning.checks import check_counts
from mbrl.types import Transition


class ModelPredictiveControl:
    r"""Receding-horizon control of a task; see :class:`~mbrl.planning.RecedingHorizon`.

    .. math:: u_t = \arg\min_{u_t \ldots u_{t+H-1}} \sum_{k=t}^{t+H-1} c(x_k, u_k, x_{k+1})
              + \phi(x_{t+H}) \; \big|_{\text{first}}

    An update is one control step of ``batch`` episodes in the task's own physics, with what
    planning cost; the evaluation runs complete episodes in the real environment.

    Args:
        setting: task and generator.
        planner: ``{kind: ..., **options}``.
        updates: control steps of the episodes that are recorded; null: a whole episode.
        horizon: H.
        batch: episodes that are recorded.
        cost: terms of residuals in place of the task's cost; see ``mbrl.planning.make_problem``.
        terminal: the same of the last state.
        until_termination: whether nothing is earned after the end of an episode.
        smoothing: whose derivatives stand in for those of the physics; see ``DynamicsNode``.
        dynamics: folder of a run whose learned model of states is planned with; null: the physics.
        iterations: the planner's iterations at every plan but the first.
        first_iterations: those of an episode's first plan; null: the planner's own number.
        every: control steps between two plans.
        seconds: deadline of a plan in seconds; with one, runs are not reproducible. null: none.
        tail: what fills the end of a shifted plan: hold or rest.
        policy: folder of a run whose policy fills it, and makes the first plan; null: none.
        feedback: whether the plan's gains answer to what is measured between two plans.
        initial_sd: deviation of random actions that first plans begin with, relative to half their
            range.

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
        updates: int | None = None,
        horizon: int = 50,
        batch: int = 1,
        cost: Mapping[str, Any] | None = None,
        terminal: Mapping[str, Any] | None = None,
        until_termination: bool = True,
        smoothing: SmoothingChoice | None = None,
        dynamics: str | None = None,
        iterations: int = 1,
        first_iterations: int | None = None,
        every: int = 1,
        seconds: float | None = None,
        tail: Tail = "hold",
        policy: str | None = None,
        feedback: bool = True,
        initial_sd: float = 0.0,
    ):
        check_counts("algorithm", batch=batch, updates=updates)
        self._updates = updates or setting.task.max_episode_steps or 1000
        self._task, self._generator = setting.task, setting.generator
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
        self._options: dict[str, Any] = {
            "schedule": Schedule(every, iterations, first_iterations, seconds),
            "tail": tail,
            "policy": guide(setting, policy, "algorithm.policy"),
            "feedback": feedback,
            "initial_sd": initial_sd,
            "seed": int(torch.randint(2**31 - 1, (), generator=self._generator)),
        }
        self._shared = shared(
            self._problem, self._planner, setting.ranks, timed=seconds is not None
        )
        self._actor = self._controller(self._shared)
        start = setting.task.start(batch, self._generator)
        self._state, self._context = start
        self._alive = torch.ones(batch, dtype=torch.bool)
        self._returns = torch.zeros(batch, dtype=torch.float64)
        self._t = 0

    @property
    def updates(self) -> int:
        """Control steps there are to be: none after every recorded episode has ended."""
        return self._updates if self._alive.any() else self._t

    def update(self) -> dict[str, float]:
        """Take one control step of every episode that has not ended."""
        alive = self._alive
        rows = alive.nonzero()[:, 0]  # what comes after an end may not be physics
        rewards = torch.zeros_like(self._returns)
        if len(rows):
            step = self._stepped(rows)
            rewards = rewards.index_copy(0, rows, step.reward)
            self._state = self._state.index_copy(0, rows, step.next_state)
            self._alive = alive.index_copy(0, rows, ~step.terminated)
        self._returns = self._returns + rewards
        self._t += 1
        planned = self._actor.plan
        return {
            "env_steps": float(alive.sum()),
            "return_mean": float(self._returns.mean()),
            "reward_mean": float(rewards.mean()),
            "planned_cost": math.nan if planned is None else float(planned.costs.mean()),
            "alive": float(alive.to(torch.float64).mean()),
            **self._actor.ticks.measured(),
        }

    def _stepped(self, rows: Tensor) -> Transition:
        """Plan and step the episodes ``rows``; where that fails, the plan is as before."""
        before = self._actor.state_dict()
        state, context, t = self._state, self._context, self._t
        try:
            actions = self._actor.act(state.numpy(), t, context.numpy(), self._alive.numpy())
            applied = torch.from_numpy(actions)[rows]
            return self._task.step(state[rows], applied, t=t, context=context[rows])
        except MbrlError:
            self._actor.load_state_dict(before)
            raise

    def actor(self) -> RecedingHorizon:
        """Return a controller that has planned nothing yet."""
        return self._controller(self._problem)

    def _controller(self, problem: Problem) -> RecedingHorizon:
        with at_key("algorithm", ModelPredictiveControl):
            return RecedingHorizon(problem, self._planner, **self._options)

    def state_dict(self) -> dict[str, Any]:
        """The episodes that are recorded, the plan, and the random state."""
        return {
            "actor": self._actor.state_dict(),
            "seed": self._options["seed"],
            "state": self._state,
            "context": self._context,
            "alive": self._alive,
            "returns": self._returns,
            "t": self._t,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._options["seed"] = int(state["seed"])
        self._actor = self._controller(self._shared)
        self._actor.load_state_dict(state["actor"])
        self._state, self._context = state["state"], state["context"]
        self._alive, self._returns = state["alive"], state["returns"]
        self._t = int(state["t"])
        self._generator.set_state(state["generator"])
