"""Gradient single shooting: descent on the knots of a spline of actions."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

import torch
from torch import Tensor

from mbrl.options import Choice, at_key
from mbrl.planning.checks import check_counts, check_not_negative, check_positive
from mbrl.planning.descent import OPTIMIZERS, Landscape, Point
from mbrl.planning.planner import NOTHING, Plan, Planner, Search
from mbrl.planning.problem import Problem
from mbrl.planning.splines import Interpolation, Spline


class GradientShooting(Planner):
    r"""Descent on the knots of a spline, with the gradient from one backward sweep.

    .. math:: \min_\theta J(x_0, \mathrm{clip}(S \theta)), \qquad
              \underline u \le \theta \le \overline u, \qquad \nabla_\theta = S^\top g

    with g the total derivative by the actions,

    .. math:: \lambda_T = \phi_x, \quad g_t = \ell_{u_t} + B_t^\top \lambda_{t+1}, \quad
              \lambda_t = \ell_{x_t} + A_t^\top \lambda_{t+1}

    (Bryson and Ho 1975, section 2.2). An iteration costs one sweep and one batched rollout. The
    search begins at the spline nearest to the actions it is given; the plan is the best visited,
    those actions included.

    A row has converged, and is left alone, when no entry of :math:`z - P(z - \nabla_z f)`, the
    residual of the conditions of optimality with lengths in half-ranges of the actions, exceeds
    ``tolerance`` times max(1, abs(J)), or when its optimiser finds no step that helps.

    What descent finds depends on where it begins: with several ``starts`` every row is searched
    from as many splines at once, and the best of all is its plan.

    Args:
        iterations: steps of a plan made from nothing.
        optimizer: ``{kind: adam | lbfgs | normalized, **options}``; see ``mbrl.planning.descent``.
        knots: P; None: one for every action.
        interpolation: zero, linear or cubic; see :class:`Spline`.
        tolerance: see above.
        starts: searches of every row, the first from the actions that are given.
        noise: deviation of the knots that the others begin with from those of the first, relative
            to ``problem.spread``.

    Raises:
        ArgumentError: if a number is out of its range.
    """

    def __init__(
        self,
        *,
        iterations: int = 50,
        optimizer: Annotated[Mapping[str, Any], Choice(OPTIMIZERS)] = MappingProxyType(
            {"kind": "lbfgs"}
        ),
        knots: int | None = None,
        interpolation: Interpolation = "linear",
        tolerance: float = 1e-8,
        starts: int = 1,
        noise: float = 0.3,
    ):
        check_counts(iterations=iterations, knots=knots, starts=starts)
        check_positive(noise=noise)
        check_not_negative(tolerance=tolerance)
        Spline(1, None, interpolation)  # says at once if there is no such interpolation
        self.iterations, self.tolerance = iterations, tolerance
        self.knots, self.interpolation = knots, interpolation
        self.starts, self.noise = starts, noise
        options = dict(optimizer)
        kind = OPTIMIZERS[options.pop("kind")]
        with at_key("optimizer", kind):
            self.optimizer = kind(**options)

    def begin(
        self,
        problem: Problem,
        state: Tensor,
        actions: Tensor,
        generator: torch.Generator,
        memory: Mapping[str, Tensor] = NOTHING,
    ) -> Search:
        """See :class:`Planner`; deterministic with one start.

        Raises:
            ArgumentError: if there are more knots than steps.
        """
        return _Search(self, problem, state, actions, generator)


class _Search(Search):
    kept = (
        "_here",
        "_memory",
        "_done",
        "_actions",
        "_states",
        "_costs",
        "_residual",
    )

    def __init__(
        self,
        planner: GradientShooting,
        problem: Problem,
        state: Tensor,
        actions: Tensor,
        generator: torch.Generator,
    ):
        super().__init__(problem, state)
        self._optimizer, self._tolerance = planner.optimizer, planner.tolerance
        self._starts = planner.starts  # every row is that many, those of one start side by side
        problem, state = problem.repeated(self._starts), state.repeat(self._starts, 1)
        actions = actions.repeat(1, self._starts, 1)
        spline = Spline(problem.horizon, planner.knots, planner.interpolation)
        self._landscape = Landscape(problem, state, spline)
        knots = self._landscape.fit(actions)
        if self._starts > 1:
            moved = torch.randn(knots.shape, generator=generator, dtype=torch.float64)
            moved[:, : len(self.state)] = 0.0
            knots = self._landscape.project(knots + planner.noise * moved)
        here = self._landscape(knots[:, None]).candidate(torch.zeros(len(state), dtype=torch.long))
        self._here = here._asdict()
        states, costs = problem.rollout(state, actions[:, None])
        self._actions, self._states, self._costs = actions, states[:, 0], costs[0]
        self._memory = self._optimizer.begin(here)
        self._done = torch.zeros(len(state), dtype=torch.bool)
        self._residual = torch.full_like(self._costs, torch.inf)
        self._visit(here)

    def iterate(self) -> None:
        """Take a step in every row that has not converged."""
        here = Point(**self._here)
        gradient, good = self._landscape.gradient(here)
        residual = self._landscape.residual(here.knots, gradient).abs().amax((0, 2))
        self._residual = torch.where(good, residual, torch.inf)
        small = good & (residual <= self._tolerance * here.costs.abs().clamp(min=1.0))
        there, self._memory, stuck = self._optimizer.step(
            self._landscape, here, gradient, good, self._memory
        )
        still = self._done | small
        there = here.where(still, there)
        self._here, self._done = there._asdict(), still | stuck
        self._visit(there)

    @property
    def plan(self) -> Plan:
        """See :class:`Search`."""
        plan, batch = Plan(self._actions, self._states, self._costs), len(self.state)
        winner = self._costs.unflatten(0, (self._starts, batch)).argmin(0)
        return plan.rows(winner * batch + torch.arange(batch))

    @property
    def converged(self) -> bool:
        """See :class:`Search`."""
        return bool(self._done.all())

    def measured(self) -> dict[str, float]:
        """Return the mean residual of the conditions of optimality."""
        return {"residual": float(self._residual.mean())}

    def _visit(self, point: Point) -> None:
        """Keep the better plan of every row."""
        better = point.costs < self._costs
        self._costs = torch.where(better, point.costs, self._costs)
        self._actions = torch.where(better[:, None], point.actions, self._actions)
        self._states = torch.where(better[:, None], point.states, self._states)
