"""iLQR with control limits and Gauss-Newton costs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from mbrl.errors import ArgumentError, DivergenceError, suggestion
from mbrl.planning.planner import NOTHING, Plan, Planner, Search
from mbrl.planning.problem import Problem
from mbrl.planning.riccati import BackwardPass, LocalModel, backward_pass
from mbrl.planning.splines import Spline

Regularized = Literal["control", "state"]
Acceptance = Literal["best", "armijo"]

_LEAST, _MOST, _FACTOR, _RETRIES = 1e-6, 1e6, 2.0, 5


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
        regularize: what mu is added to: "state" (V_xx), which keeps rollouts close to the nominal
            one and so serves chaotic systems and contacts, or "control" (Q_uu).
        derivative_skip: so many steps between two that are linearised; A and B are interpolated
            linearly there.
        samples: so many candidates beside the step lengths: the nominal plan with noise, under the
            gains (as in MuJoCo MPC's iLQS, which joins iLQG with predictive sampling). They leave
            the local optima of contacts and of costs without curvature, and a row with samples
            converges only by its costs. 0: none, nothing is random.
        noise: deviation of the noise, relative to ``problem.spread``: of the first sample; those of
            the others fall to a hundredth of it, log-spaced.
        knots: of the noise, joined by lines; null: noise of its own at every step.
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
        regularize: Regularized = "state",
        derivative_skip: int = 0,
        samples: int = 0,
        noise: float = 0.5,
        knots: int | None = 10,
        tolerance: float = 1e-9,
    ):
        for name, value, least in (
            ("iterations", iterations, 1),
            ("step_lengths", step_lengths, 1),
            ("derivative_skip", derivative_skip, 0),
            ("samples", samples, 0),
            ("knots", 1 if knots is None else knots, 1),
        ):
            if value < least:
                raise ArgumentError(f"{name} must be at least {least}, got {value}")
        if not 0 <= regularization <= _MOST:
            raise ArgumentError(f"regularization must lie in [0, 1e6], got {regularization}")
        if not noise > 0:
            raise ArgumentError(f"noise must be positive, got {noise}")
        if samples and acceptance == "armijo":
            raise ArgumentError(f"samples must be 0 with acceptance armijo, got {samples}")
        if not tolerance >= 0:
            raise ArgumentError(f"tolerance must not be negative, got {tolerance}")
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
        self.derivative_skip, self.first_that_serves = derivative_skip, acceptance == "armijo"
        self.step_lengths = torch.logspace(0, -3, step_lengths, dtype=torch.float64)
        self.deviations = noise * torch.logspace(0, -2, samples, dtype=torch.float64)
        self.knots = knots

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
        return _Search(self, problem, state, actions, generator, memory)


class _Search(Search):
    kept = (
        "_actions",
        "_states",
        "_costs",
        "_gains",
        "_k",
        "_mu",
        "_growth",
        "_done",
        "_fresh",
        "_local",
        "_length",
    )

    def __init__(
        self,
        planner: ILQR,
        problem: Problem,
        state: Tensor,
        actions: Tensor,
        generator: torch.Generator,
        memory: Mapping[str, Tensor],
    ):
        super().__init__(problem, state)
        self._planner, self._generator = planner, generator
        batch, ndx = len(state), problem.model.tangent_size
        states, costs = problem.rollout(state, actions[:, None])
        self._actions, self._states, self._costs = actions, states[:, 0], costs[0]
        if not self._costs.isfinite().all():
            rows = (~self._costs.isfinite()).nonzero()[:, 0].tolist()
            raise DivergenceError(f"the initial actions of a plan diverge in rows {rows[:8]}", rows)
        self._gains = actions.new_zeros(*actions.shape, ndx)
        self._k = torch.zeros_like(actions)  # guesses of the next step
        fresh = torch.ones(1, batch, 1, dtype=torch.float64)
        self._mu = memory.get("regularization", planner.regularization * fresh)[0, :, 0]
        self._growth = memory.get("growth", fresh)[0, :, 0]
        self._done = torch.zeros(batch, dtype=torch.bool)
        self._fresh = torch.ones(batch, dtype=torch.bool)  # rows whose expansion is out of date
        self._local: dict[str, Tensor] = {}
        self._length = torch.zeros(batch, dtype=torch.float64)

    @property
    def converged(self) -> bool:
        """See :class:`Search`."""
        return bool(self._done.all())

    @property
    def plan(self) -> Plan:
        """See :class:`Search`."""
        # One number a row: what is shifted in time stays what it is.
        memory = {"regularization": self._mu[None, :, None], "growth": self._growth[None, :, None]}
        return Plan(self._actions, self._states, self._costs, self._gains, memory)

    def measured(self) -> dict[str, float]:
        """Mean regularisation and step length."""
        return {
            "regularization": float(self._mu.mean()),
            "step_length": float(self._length.mean()),
        }

    def iterate(self) -> None:
        """Linearise, solve backward, roll all step lengths out, keep the best."""
        self._linearize((self._fresh & ~self._done).nonzero()[:, 0])
        rows = (~self._done).nonzero()[:, 0]
        step = self._solve(rows)
        good = torch.from_numpy(step.good)
        failed = rows[~good]
        self._raise(failed)
        self._done = self._done.index_fill(0, failed[self._mu[failed] >= _MOST], True)
        if good.any():
            self._follow(rows[good], _chosen(step, step.good))

    def _linearize(self, rows: Tensor) -> None:
        """Expand dynamics and costs along the nominal trajectories of ``rows``."""
        if not len(rows):
            return
        problem = self.problem.rows(rows)
        states, actions = self._states[:, rows], self._actions[:, rows]
        a, b = self._jacobians(problem, states, actions)
        stage, final_x, final_xx = problem.expand(states, actions, a, b)
        found = {"a": a, "b": b, **stage._asdict()}
        batch = len(self.state)
        for name, value in found.items():
            old = self._local.get(name)
            if old is None:
                old = value.new_zeros(len(value), batch, *value.shape[2:])
            self._local[name] = old.index_copy(1, rows, value)
        for name, value in (("final_x", final_x), ("final_xx", final_xx)):
            old = self._local.get(name)
            if old is None:
                old = value.new_zeros(batch, *value.shape[1:])
            self._local[name] = old.index_copy(0, rows, value)
        self._fresh = self._fresh.index_fill(0, rows, False)

    def _jacobians(
        self, problem: Problem, states: Tensor, actions: Tensor
    ) -> tuple[Tensor, Tensor]:
        steps, skip = len(actions), self._planner.derivative_skip
        if skip == 0 or steps == 1:
            return problem.model.linearize(states[:-1], actions, problem.scene)
        keys = torch.arange(0, steps, skip + 1)
        if keys[-1] != steps - 1:
            keys = torch.cat([keys, keys.new_tensor([steps - 1])])
        a, b = problem.model.linearize(states[keys], actions[keys], problem.scene, keys.tolist())
        after = torch.searchsorted(keys, torch.arange(steps)).clamp(min=1)
        before = after - 1
        share = (torch.arange(steps) - keys[before]) / (keys[after] - keys[before])
        share = share.to(torch.float64)[:, None, None, None]
        return torch.lerp(a[before], a[after], share), torch.lerp(b[before], b[after], share)

    def _solve(self, rows: Tensor) -> BackwardPass:
        """Run the backward pass, with more regularisation where it fails."""
        local = LocalModel(
            **{
                name: value[(slice(None), rows) if not name.startswith("final") else rows].numpy()
                for name, value in self._local.items()
            }
        )
        actions = self._actions[:, rows]
        low, high = (self.problem.low - actions).numpy(), (self.problem.high - actions).numpy()
        start = self._k[:, rows].numpy()
        of_state = self._planner.of_state
        result = backward_pass(local, low, high, self._mu[rows].numpy(), start, of_state=of_state)
        for _ in range(_RETRIES):
            if result.good.all():
                break
            bad = ~result.good
            self._raise(rows[torch.from_numpy(bad)])
            again = backward_pass(
                local.rows(bad),
                low[:, bad],
                high[:, bad],
                self._mu[rows].numpy()[bad],
                start[:, bad],
                of_state=of_state,
            )
            result = _merged(result, again, bad)
        return result

    def _follow(self, rows: Tensor, step: BackwardPass) -> None:
        """Roll every step length and sample out, and accept or refuse the best."""
        planner, batch = self._planner, len(rows)
        problem = self.problem.rows(rows)
        lengths = torch.cat([planner.step_lengths, torch.zeros_like(planner.deviations)])
        k, gains = torch.from_numpy(step.k), torch.from_numpy(step.gains)
        # What does not depend on the states is computed once: laws of small systems are overhead.
        nominal = self._states[:, rows].repeat(1, len(lengths), 1).unbind()
        open_loop = self._actions[:, None, rows] + lengths[:, None, None] * k[:, None]
        if len(planner.deviations):
            samples = planner.drawn(problem, batch, self._generator)
            open_loop[:, len(planner.step_lengths) :] += samples
        wanted, feedback = open_loop.unbind(), gains.unbind()  # (lengths, rows, nu), (rows, ...)

        def law(t: int, states: Tensor) -> Tensor:
            deviation = problem.model.difference(nominal[t], states)
            deviation = deviation.view(len(lengths), batch, -1, 1)
            return problem.clip(wanted[t] + (feedback[t] @ deviation)[..., 0]).flatten(0, 1)

        starts = self.state[rows].repeat(len(lengths), 1)
        states, applied, costs = problem.closed_loop(starts, law)
        table = costs.unflatten(0, (len(lengths), batch))  # (lengths, rows)
        promised = -(
            lengths[:, None] * torch.from_numpy(step.linear)
            + 0.5 * lengths[:, None] ** 2 * torch.from_numpy(step.quadratic)
        )
        gained = self._costs[rows] - table
        if planner.first_that_serves:
            serves = (gained > 0) & (gained >= 0.1 * promised)
            best = serves.to(torch.int8).argmax(0)  # the first of the largest
        else:
            best = table.argmin(0)
        at = best * batch + torch.arange(batch)
        gain, promise = gained[best, torch.arange(batch)], promised[best, torch.arange(batch)]
        better = gain > 0
        if planner.first_that_serves:
            better &= gain >= 0.1 * promise
        self._adapt(rows, better, lengths[best], gain, promise, k)
        taken, which = rows[better], at[better]
        self._actions = self._actions.index_copy(1, taken, applied[:, which])
        self._states = self._states.index_copy(1, taken, states[:, which])
        self._costs = self._costs.index_copy(0, taken, costs[which])
        self._gains = self._gains.index_copy(1, rows, gains)
        self._k = self._k.index_copy(1, rows, torch.where(better[:, None], 0.0, k))
        self._fresh = self._fresh.index_fill(0, taken, True)

    def _adapt(
        self,
        rows: Tensor,
        better: Tensor,
        length: Tensor,
        gain: Tensor,
        promise: Tensor,
        k: Tensor,
    ) -> None:
        """Change the regularisation of ``rows``, and say which have converged."""
        ratio = torch.where(promise > 0, gain / promise, torch.ones_like(gain))
        self._length = self._length.index_copy(0, rows, torch.where(better, length, 0.0))
        easy = better & ((ratio > 0.5) | (length > 0.3))
        hard = ~better | (~easy & ((ratio < 0.1) | (length < 0.06)))
        self._raise(rows[hard])
        self._lower(rows[easy])
        tolerance = self._planner.tolerance
        moved = (k / self.problem.spread).abs().amax((0, 2))
        before = self._costs[rows]
        small = better & (gain <= tolerance * (before.abs() + 1e-300))
        stuck = (~better & (self._mu[rows] >= _MOST)) | (moved <= tolerance)
        if len(self._planner.deviations):
            stuck = torch.zeros_like(stuck)
        self._done = self._done.index_copy(0, rows, small | stuck)

    def _raise(self, rows: Tensor) -> None:
        growth = (self._growth[rows] * _FACTOR).clamp(min=_FACTOR)
        mu = (self._mu[rows] * growth).clamp(min=_LEAST, max=_MOST)
        self._growth = self._growth.index_copy(0, rows, growth)
        self._mu = self._mu.index_copy(0, rows, mu)

    def _lower(self, rows: Tensor) -> None:
        growth = (self._growth[rows] / _FACTOR).clamp(max=1 / _FACTOR)
        mu = self._mu[rows] * growth
        self._growth = self._growth.index_copy(0, rows, growth)
        self._mu = self._mu.index_copy(0, rows, torch.where(mu < _LEAST, 0.0, mu))


def _chosen(step: BackwardPass, rows: np.ndarray) -> BackwardPass:
    return BackwardPass(
        step.k[:, rows],
        step.gains[:, rows],
        step.linear[rows],
        step.quadratic[rows],
        step.good[rows],
    )


def _merged(step: BackwardPass, other: BackwardPass, rows: np.ndarray) -> BackwardPass:
    """Write the results of ``other`` into those rows."""
    step.k[:, rows], step.gains[:, rows] = other.k, other.gains
    step.linear[rows], step.quadratic[rows] = other.linear, other.quadratic
    step.good[rows] = other.good
    return step
