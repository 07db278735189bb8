"""A planner as a node of a computation graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from mbrl.errors import GraphError
from mbrl.graph import Node, Place
from mbrl.planning.building import (
    DEFAULT_PLANNER,
    PlannerChoice,
    SmoothingChoice,
    make_planner,
    make_problem,
)
from mbrl.planning.checks import check_counts, check_not_negative
from mbrl.planning.restart import plan_or_restart
from mbrl.tasks import Task
from mbrl.types import Step


class PlanNode(Node):
    r"""MPC in a graph: u_t is the first action of a plan from x_t.

    .. math:: (\bar u, K) = \mathrm{plan}(x_t; \tilde u_t), \qquad u_t = \bar u_0,
              \qquad du_t = K_0 \, dx_t

    begun with :math:`\tilde u_t`, the carried plan: ``carry: {plan: {source: next_plan, width: H
    nu}}``. It makes no noise of its own: the randomness of a planner that draws any depends on
    the step alone. The action's derivative by the state is the plan's feedback gain, none for a
    planner without gains; nothing flows through the carried plan. Rows whose plan diverges where it
    begins are begun again from rest; see :func:`plan_or_restart`.

    Unlike :class:`RecedingHorizon` it plans for rows whose episode has ended, too (a
    :class:`~mbrl.types.Step` does not tell which; an unrolling hands them their initial state), and
    forgets a plan's memory from step to step, such as the regularisation of iLQR or the elites of
    iCEM: its width is the planner's own affair, and only actions are carried.

    Args:
        place: see :class:`Node`.
        planner: ``{kind: ..., **options}``.
        horizon: H.
        iterations: the planner's iterations at every step but the first.
        first_iterations: those at the first step; null: the planner's own number.
        cost: terms of residuals in place of the task's cost; see ``make_problem``.
        terminal: the same of the last state.
        until_termination: whether nothing is earned after the end of an episode.
        smoothing: whose derivatives stand in for those of the physics; see ``DynamicsNode``.
        initial_sd: deviation of the noise on the actions that the first plan begins with.
        seed: of the planner's randomness.

    Raises:
        ArgumentError: if a number is out of its range.
        GraphError: if the carried plan has another width than H nu, or the graph has no task.
    """

    inputs = {"state": "nx", "plan": None}
    outputs = {"action": "nu", "next_plan": "plan"}
    on_state: ClassVar[bool] = True

    def __init__(
        self,
        place: Place,
        *,
        planner: PlannerChoice = DEFAULT_PLANNER,
        horizon: int = 50,
        iterations: int = 1,
        first_iterations: int | None = None,
        cost: Mapping[str, Any] | None = None,
        terminal: Mapping[str, Any] | None = None,
        until_termination: bool = True,
        smoothing: SmoothingChoice | None = None,
        initial_sd: float = 0.0,
        seed: int = 0,
    ):
        super().__init__(place)
        where, nu = f"graph.nodes.{place.name}", place.task.action_size
        if not isinstance(place.task, Task):
            raise GraphError(f"{where}: a planner needs its task, and was given only its sizes")
        check_counts(
            where, horizon=horizon, iterations=iterations, first_iterations=first_iterations
        )
        check_not_negative(where, initial_sd=initial_sd)
        if place.widths["plan"] != horizon * nu:
            value = place.sources["plan"].value
            raise GraphError(
                f"{where}: the carried plan {value!r} must have width {horizon * nu} (horizon "
                f"{horizon} times {nu} actuators), got {place.widths['plan']}"
            )
        self._planner = make_planner(planner, horizon, f"{where}.planner")
        self.problem = make_problem(
            place.task,
            horizon,
            cost=cost,
            terminal=terminal,
            until_termination=until_termination,
            smoothing=smoothing,
            where=where,
        )
        self._iterations, self._initial_sd, self._seed = iterations, initial_sd, seed
        self._first = self._planner.iterations if first_iterations is None else first_iterations

    def forward(self, step: Step, *values: Tensor) -> tuple[Tensor, Tensor]:
        """[B, nx], [B, H nu] -> [B, nu], [B, H nu]."""
        state, carried = values
        problem, batch = self.problem.at(step.t, step.context), len(state)
        generator = torch.Generator().manual_seed(self._seed + step.t)
        start = carried.detach().reshape(batch, problem.horizon, -1).transpose(0, 1)
        begins = step.t == step.start
        if begins:
            start = problem.perturbed(problem.clip(start), self._initial_sd, generator)
        plan, _ = plan_or_restart(
            self._planner,
            problem,
            state.detach(),
            start,
            generator=generator,
            iterations=self._first if begins else self._iterations,
        )
        action = plan.actions[0]
        if plan.gains is not None and state.requires_grad:
            deviation = problem.model.change(state)
            action = action + (plan.gains[0] @ deviation[:, :, None])[:, :, 0]
        return action, plan.shifted(1).actions.transpose(0, 1).reshape(batch, -1)
