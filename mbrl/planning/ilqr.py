"""iLQR with control limits and Gauss-Newton costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from mbrl.errors import ArgumentError, suggestion
from mbrl.planning.checks import (
    check_at_least,
    check_counts,
    check_not_negative,
    check_positive,
)
from mbrl.planning.ilqr_search import MOST, ILQRSearch
from mbrl.planning.planner import NOTHING, Planner, Search
from mbrl.planning.problem import Problem
from mbrl.planning.splines import Spline

Regularized = Literal["control", "state"]
Acceptance = Literal["best", "armijo"]
_KNOTS = 10


class ILQR(Planner):
    r"""Iterative linear-quadratic regulator with bounds on the controls (box-iLQR).

    Around a nominal rollout :math:`(\bar x, \bar u)` the dynamics are linearised, exactly over a
    control step, and costs expanded to second order; :func:`backward_pass` solves that local
    problem for a step k and gains K, and

    .. math:: u_t = \mathrm{clip}(\bar u_t + \alpha k_t + K_t (x_t \ominus \bar x_t)),
              \qquad \alpha \in \{1, \ldots, 10^{-3}\}

    is rolled out for all step lengths alpha in one batch; the best becomes the nominal, if it is
    better (Tassa, Erez & Todorov 2012, "Synthesis and stabilization of complex behaviors through
    online trajectory optimization"; Tassa, Mansard & Todorov 2014, "Control-limited differential
    dynamic programming"). Every row has a regularisation of its own: it falls after a good step
    (an improvement of more than half of what was promised, or alpha > 0.3), and rises after a bad
    one (less than a tenth, or alpha < 0.06, or none), faster the longer that goes on; the plan
    remembers it for the next. On a linear-quadratic problem the first iteration is the solution.

    Args:
        iterations: at most so many.
        step_lengths: how many values of alpha, log-spaced.
        acceptance: "best": the best of the step lengths, if it is better than the nominal;
            "armijo": the longest whose improvement is a tenth of what was promised.
        regularization: initial mu; 0 is Newton's step as it is.
        regularizations: how many values of mu are tried at once, each a factor of ten above the
            last, around that of the row; of all of them, and all step lengths, the best wins, and
            is where the next iteration begins. Costs without curvature, such as rewards, want
            some 5, and fewer step lengths.
        proximal: curvature added to l_xx, for costs that have none: deviations from the nominal
            states cost so much in the local problem, and nothing in truth.
        regularize: what mu is added to: "state" (V_xx), which keeps rollouts close to the nominal
            one and so serves chaotic systems and contacts, or "control" (Q_uu).
        derivative_skip: so many steps between two that are linearised; A and B are interpolated
            linearly there.
        samples: so many candidates beside the step lengths: the nominal plan with noise, under the
            gains (as in MuJoCo MPC's iLQS, which joins iLQG with predictive sampling). They leave
            the local optima of contacts and of costs without curvature; with them a row has
            converged after ten iterations without gain. 0: none, nothing is random.
        noise: deviation of the noise, relative to ``problem.spread``: of the first sample; those of
            the others fall to a hundredth of it, log-spaced.
        knots: of the noise, joined by lines; at most the horizon, but that 10, the default, become
            the horizon where that is shorter. null: noise of its own at every step.
        tolerance: converged once the relative decrease of the cost, or the largest entry of k
            relative to the range of its control, falls below.
    """

    def __init__(
        self,
        *,
        iterations: int = 50,
        step_lengths: int = 10,
        acceptance: Acceptance = "best",
        regularization: float = 0.0,
        regularizations: int = 1,
        proximal: float = 0.0,
        regularize: Regularized = "state",
        derivative_skip: int = 0,
        samples: int = 0,
        noise: float = 0.5,
        knots: int | None = _KNOTS,
        tolerance: float = 1e-9,
    ):
        check_counts(
            iterations=iterations,
            step_lengths=step_lengths,
            regularizations=regularizations,
            knots=knots,
        )
        check_at_least(0, derivative_skip=derivative_skip, samples=samples)
        check_not_negative(proximal=proximal, tolerance=tolerance)
        check_positive(noise=noise)
        if not 0 <= regularization <= MOST:
            raise ArgumentError(f"regularization must lie in [0, {MOST:g}], got {regularization}")
        for name, value, alone in (
            ("samples", samples, 0),
            ("regularizations", regularizations, 1),
        ):
            if acceptance == "armijo" and value != alone:
                raise ArgumentError(f"{name} must be {alone} with acceptance armijo, got {value}")
        for name, choice, legal in (
            ("acceptance", acceptance, ("best", "armijo")),
            ("regularize", regularize, ("control", "state")),
        ):
            if choice not in legal:
                raise ArgumentError(
                    f"{name}: unknown value {choice!r}; {suggestion(choice, legal)}"
                )
        self.iterations, self.tolerance = iterations, tolerance
        self.regularization, self.of_state = regularization, regularize == "state"
        self.proximal, self.regularizations = proximal, regularizations
        self.derivative_skip, self.first_that_serves = derivative_skip, acceptance == "armijo"
        self.step_lengths = torch.logspace(0, -3, step_lengths, dtype=torch.float64)
        self.deviations = noise * torch.logspace(0, -2, samples, dtype=torch.float64)
        self.knots = knots

    def check_horizon(self, horizon: int) -> None:
        """See :class:`Planner`."""
        if self.knots != _KNOTS:
            super().check_horizon(horizon)

    def drawn(self, problem: Problem, batch: int, generator: torch.Generator) -> Tensor:
        """Return the noise of the samples, [T, samples, batch, nu]."""
        knots = None if self.knots is None else min(self.knots, problem.horizon)
        spline = Spline(problem.horizon, knots)
        shape = spline.knots, len(self.deviations), batch, problem.action_size
        noise = spline(torch.randn(shape, generator=generator, dtype=torch.float64))
        return noise * self.deviations[:, None, None] * problem.spread

    def begin(
        self,
        problem: Problem,
        state: Tensor,
        actions: Tensor,
        generator: torch.Generator,
        memory: Mapping[str, Tensor] = NOTHING,
    ) -> Search:
        """See :class:`Planner`.

        Raises:
            DivergenceError: if the initial actions lead a row out of the finite world.
        """
        return ILQRSearch(self, problem, state, actions, generator, memory)
