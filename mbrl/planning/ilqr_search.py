"""The search of iLQR: regularisation, candidates, acceptance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mbrl.errors import DivergenceError
from mbrl.planning.model import Law, naming
from mbrl.planning.planner import Plan, Search
from mbrl.planning.problem import Problem
from mbrl.planning.riccati import BackwardPass, LocalModel, backward_pass

# Bounds of mu other than zero; the factor by which its changes grow, and that of several at once.
LEAST, MOST = 1e-6, 1e6
_FACTOR, _LEAP = 2.0, 100.0
_RETRIES = 5
# Iterations in a row without gain after which samples are given up.
_PATIENCE = 10


class ILQRSearch(Search):
    """iLQR in progress; every row has its own regularisation, and stops by itself."""

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
        "_idle",
    )

    def __init__(
        self,
        planner: Any,
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
        self._idle = torch.zeros(batch, dtype=torch.long)  # iterations in a row without gain

    @property
    def converged(self) -> bool:
        """See :class:`Search`."""
        return bool(self._done.all())

    @property
    def plan(self) -> Plan:
        """See :class:`Search`."""
        # One number a row, of no step: see Plan.memory.
        memory = {"regularization": self._mu[None, :, None], "growth": self._growth[None, :, None]}
        return Plan(self._actions, self._states, self._costs, self._gains, memory)

    def measured(self) -> dict[str, float]:
        """Mean regularisation and step length."""
        return {
            "regularization": float(self._mu.mean()),
            "step_length": float(self._length.mean()),
        }

    def iterate(self) -> None:
        """Linearise, solve backward, roll all candidates out, keep the best."""
        fresh = (self._fresh & ~self._done).nonzero()[:, 0]
        with naming(fresh):
            self._linearize(fresh)
        rows = (~self._done).nonzero()[:, 0]
        step, mu = self._solve(rows)
        good = torch.from_numpy(step.good).unflatten(0, mu.shape).any(0)
        failed = rows[~good]
        self._done = self._done.index_fill(0, failed[self._mu[failed] >= MOST], True)
        if good.any():
            chosen = step.rows(np.tile(good.numpy(), len(mu)))
            with naming(rows[good]):
                self._follow(rows[good], chosen, mu[:, good])

    def _linearize(self, rows: Tensor) -> None:
        """Expand dynamics and costs along the nominal trajectories of ``rows``."""
        if not len(rows):
            return
        problem = self.problem.rows(rows)
        states, actions = self._states[:, rows], self._actions[:, rows]
        a, b = self._jacobians(problem, states, actions)
        stage, final_x, final_xx = problem.expand(states, actions, a, b)
        found = {"a": a, "b": b, **stage._asdict()}
        batch, local = len(self.state), dict(self._local)
        for name, value in found.items():
            old = local.get(name)
            if old is None:
                old = value.new_zeros(len(value), batch, *value.shape[2:])
            local[name] = old.index_copy(1, rows, value)
        for name, value in (("final_x", final_x), ("final_xx", final_xx)):
            old = local.get(name)
            if old is None:
                old = value.new_zeros(batch, *value.shape[1:])
            local[name] = old.index_copy(0, rows, value)
        self._local = local
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

    def _trials(self, rows: Tensor) -> Tensor:
        """Return the values of mu that are tried, [R, rows]."""
        mu, count = self._mu[rows], self._planner.regularizations
        if count == 1:
            return mu[None]
        factors = 10.0 ** (torch.arange(count, dtype=torch.float64) - count // 2)
        values = mu.clamp(min=LEAST) * factors[:, None]
        return torch.where(values < LEAST, 0.0, values)

    def _solve(self, rows: Tensor) -> tuple[BackwardPass, Tensor]:
        """Run the backward passes, with more regularisation for rows where all of them fail.

        Returns:
            The passes of R values of mu for every row, [R rows], and the values, [R, rows].
        """
        mu = self._trials(rows)
        each = rows.repeat(len(mu))
        local = LocalModel(
            **{
                name: value[(slice(None), each) if not name.startswith("final") else each].numpy()
                for name, value in self._local.items()
            }
        )
        if self._planner.proximal:
            local = local._replace(
                xx=local.xx + self._planner.proximal * np.eye(local.xx.shape[-1])
            )
        actions = self._actions[:, each]
        low, high = (self.problem.low - actions).numpy(), (self.problem.high - actions).numpy()
        start, of_state = self._k[:, each].numpy(), self._planner.of_state
        result = backward_pass(local, low, high, mu.flatten().numpy(), start, of_state=of_state)
        for _ in range(_RETRIES):
            lost = ~torch.from_numpy(result.good).unflatten(0, mu.shape).any(0)
            if not lost.any():
                break
            self._raise(rows[lost])
            mu[:, lost] = self._trials(rows[lost])
            bad = np.tile(lost.numpy(), len(mu))
            again = backward_pass(
                local.rows(bad),
                low[:, bad],
                high[:, bad],
                mu[:, lost].flatten().numpy(),
                start[:, bad],
                of_state=of_state,
            )
            result = result.with_rows(bad, again)
        return result, mu

    def _follow(self, rows: Tensor, step: BackwardPass, mu: Tensor) -> None:
        """Roll all candidates out, and accept or refuse the best of every row."""
        planner, batch = self._planner, len(rows)
        problem, each = self.problem.rows(rows), torch.arange(batch)
        candidates = Candidates(planner, problem, step, len(mu), self._generator)
        nominal, actions = self._states[:, rows], self._actions[:, rows]
        law = candidates.law(problem, nominal, actions)
        starts = self.state[rows].repeat(candidates.count, 1)
        states, applied, costs = problem.closed_loop(starts, law)
        table = costs.unflatten(0, (candidates.count, batch))
        gained = self._costs[rows] - table
        serves = gained > 0
        if planner.first_that_serves:
            serves &= gained >= 0.1 * candidates.promised
            best = serves.to(torch.int8).argmax(0)  # the first of the largest
        else:
            best = table.argmin(0)
        better, owner = serves[best, each], candidates.owner[best]
        outcome = Outcome(
            better,
            torch.where(better, candidates.lengths[best], 0.0),
            gained[best, each],
            candidates.promised[best, each],
            mu[owner, each],
        )
        k, gains = candidates.k[:, owner, each], candidates.gains[:, owner, each]
        self._adapt(rows, outcome, k)
        taken, which = rows[better], (best * batch + each)[better]
        self._actions = self._actions.index_copy(1, taken, applied[:, which])
        self._states = self._states.index_copy(1, taken, states[:, which])
        self._costs = self._costs.index_copy(0, taken, costs[which])
        self._gains = self._gains.index_copy(1, rows, gains)
        self._k = self._k.index_copy(1, rows, torch.where(better[:, None], 0.0, k))
        self._fresh = self._fresh.index_fill(0, taken, True)

    def _adapt(self, rows: Tensor, found: Outcome, k: Tensor) -> None:
        """Change the regularisation of ``rows``, and say which have converged."""
        better, planner = found.better, self._planner
        self._length = self._length.index_copy(0, rows, found.length)
        if planner.regularizations > 1:
            stepped = better & (found.length > 0)
            self._mu = self._mu.index_copy(0, rows, torch.where(stepped, found.mu, self._mu[rows]))
            self._raise(rows[~better])
        else:
            ratio = torch.where(found.promise > 0, found.gain / found.promise, 1.0)
            easy = better & ((ratio > 0.5) | (found.length > 0.3))
            hard = ~better | (~easy & ((ratio < 0.1) | (found.length < 0.06)))
            self._raise(rows[hard])
            self._lower(rows[easy])
        moved = (k / self.problem.spread).abs().amax((0, 2))
        idle = found.gain <= planner.tolerance * self._costs[rows].abs()
        self._idle = self._idle.index_copy(0, rows, torch.where(idle, self._idle[rows] + 1, 0))
        stuck = ~better & (self._mu[rows] >= MOST)
        if len(planner.deviations):  # samples may find a way on: begin again
            self._mu = self._mu.index_fill(0, rows[stuck], LEAST)
            self._growth = self._growth.index_fill(0, rows[stuck], 1.0)
            done = self._idle[rows] >= _PATIENCE
        else:
            done = (better & idle) | stuck | (moved <= planner.tolerance)
        self._done = self._done.index_copy(0, rows, done)

    def _raise(self, rows: Tensor) -> None:
        growth = (self._growth[rows] * _FACTOR).clamp(min=_FACTOR)
        if self._planner.regularizations > 1:
            growth = torch.full_like(growth, _LEAP)
        mu = (self._mu[rows] * growth).clamp(min=LEAST, max=MOST)
        self._growth = self._growth.index_copy(0, rows, growth)
        self._mu = self._mu.index_copy(0, rows, mu)

    def _lower(self, rows: Tensor) -> None:
        growth = (self._growth[rows] / _FACTOR).clamp(max=1 / _FACTOR)
        mu = self._mu[rows] * growth
        self._growth = self._growth.index_copy(0, rows, growth)
        self._mu = self._mu.index_copy(0, rows, torch.where(mu < LEAST, 0.0, mu))


class Outcome(NamedTuple):
    """What became of the best candidate of every row, [rows] each."""

    better: Tensor  # bool: it is better than the nominal
    length: Tensor  # alpha; 0 of a sample, or if it is not better
    gain: Tensor
    promise: Tensor
    mu: Tensor


class Candidates:
    """The rollouts of one iteration: step lengths for every value of mu, then samples.

    Args:
        planner: the options.
        problem: of the rows.
        step: backward passes of R values of mu, [R rows].
        count: R.
        generator: of the samples.

    Attributes:
        count: how many candidates C a row has.
        owner: whose gains a candidate has, [C]: an index among the R.
        lengths: alpha, [C]; 0 of samples.
        promised: what each should gain, [C, rows].
        k: [T, R, rows, nu].
        gains: [T, R, rows, nu, ndx].
    """

    def __init__(
        self,
        planner: Any,
        problem: Problem,
        step: BackwardPass,
        count: int,
        generator: torch.Generator,
    ):
        lengths, samples = planner.step_lengths, len(planner.deviations)
        self.owner = torch.cat(
            [
                torch.arange(count).repeat_interleave(len(lengths)),
                torch.full((samples,), count // 2),
            ]
        )
        self.lengths = torch.cat([lengths.repeat(count), lengths.new_zeros(samples)])
        self.count = len(self.lengths)
        self.k = torch.from_numpy(step.k).unflatten(1, (count, -1))
        self.gains = torch.from_numpy(step.gains).unflatten(1, (count, -1))
        linear, quadratic = (
            torch.from_numpy(part).unflatten(0, (count, -1))[self.owner]
            for part in (step.linear, step.quadratic)
        )
        alpha = self.lengths[:, None]
        self.promised = -(alpha * linear + 0.5 * alpha**2 * quadratic)
        self._noise = None
        if samples:
            self._noise = planner.drawn(problem, self.k.shape[2], generator)

    def law(self, problem: Problem, nominal: Tensor, actions: Tensor) -> Law:
        """Return the law of all candidates of all rows, candidates outermost.

        Args:
            problem: of the rows.
            nominal: states, [T+1, rows, nx].
            actions: [T, rows, nu].
        """
        # What does not depend on the states is computed once: laws of small systems are overhead.
        shape = self.count, nominal.shape[1], -1
        nominals = nominal[:, None].expand(-1, self.count, -1, -1).unbind()
        open_loop = actions[:, None] + self.lengths[:, None, None] * self.k[:, self.owner]
        if self._noise is not None:
            open_loop[:, -self._noise.shape[1] :] += self._noise
        wanted, owner = open_loop.unbind(), self.owner
        gains = self.gains.unbind()  # (R, rows, nu, ndx) each

        def law(t: int, states: Tensor) -> Tensor:
            feedback = gains[t] if len(gains[t]) == 1 else gains[t][owner]
            return problem.fed_back(wanted[t], feedback, nominals[t], states.view(shape)).flatten(
                0, 1
            )

        return law
