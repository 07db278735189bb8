"""The problem that every planner solves."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mbrl.errors import ArgumentError
from mbrl.planning.checks import check_counts
from mbrl.planning.costs import Quadratic, StageCost, StagePoints, TerminalCost
from mbrl.planning.model import Law, Model, Scene, all_finite
from mbrl.ranks import ALONE, Ranks

# (states [B, nx], index of the step, contexts [B, n] or None) -> actions [B, nu]
Policy = Callable[[Tensor, int, Tensor | None], Tensor]
# Of the states of candidates that compete, at once: 64 MiB of float64.
MOST_NUMBERS = 2**23


@dataclass(frozen=True)
class Problem:
    r"""Optimal control over a horizon, from each of B initial states.

    .. math:: \min_{u_0 \ldots u_{T-1}} \sum_t c(x_t, u_t, x_{t+1}; t) + \phi(x_T),
              \qquad x_{t+1} = F(x_t, u_t), \quad \underline u \le u_t \le \overline u

    Attributes:
        model: F.
        stage: c.
        low: [nu]; -inf where unbounded.
        high: [nu].
        horizon: T.
        terminal: phi, or None.
        scene: where the plan begins.
        ranks: what shares the candidates that compete; all of them plan alike.
    """

    model: Model
    stage: StageCost
    low: Tensor
    high: Tensor
    horizon: int
    terminal: TerminalCost | None = None
    scene: Scene = field(default_factory=Scene)
    ranks: Ranks = ALONE

    def __post_init__(self) -> None:
        if self.horizon is None:
            raise ArgumentError("horizon must be an integer, got None")
        check_counts(horizon=self.horizon)
        if not (self.low < self.high).all():
            raise ArgumentError("low must be below high in every entry")

    def at(self, start: int = 0, context: Tensor | None = None) -> Problem:
        """Return the same problem at step ``start`` of episodes with contexts [B, n]."""
        return replace(self, scene=Scene(start, context))

    def rows(self, rows: Tensor) -> Problem:
        """Return the problem of these rows of the batch, by their indices [n]."""
        return replace(self, scene=self.scene.rows(rows))

    def repeated(self, times: int) -> Problem:
        """Return the problem of the whole batch, so many times over."""
        return replace(self, scene=self.scene.repeated(times))

    @property
    def action_size(self) -> int:
        """Nu."""
        return len(self.low)

    def still(self, batch: int) -> Tensor:
        """Return actions [T, B, nu] of zeros, or the nearest to them that is allowed."""
        zeros = torch.zeros(self.horizon, batch, self.action_size, dtype=torch.float64)
        return self.clip(zeros)

    def clip(self, actions: Tensor) -> Tensor:
        """Return actions [..., nu] inside the bounds."""
        return torch.minimum(torch.maximum(actions, self.low), self.high)

    def fed_back(self, actions: Tensor, gains: Tensor, nominal: Tensor, states: Tensor) -> Tensor:
        r"""Return a law's actions, :math:`\mathrm{clip}(\bar u + K (x \ominus \bar x))`.

        Args:
            actions: [..., nu].
            gains: K, [..., nu, ndx].
            nominal: where the actions were planned for, [..., nx].
            states: where they are applied, [..., nx].
        """
        deviation = self.model.difference(nominal, states)
        return self.clip(actions + (gains @ deviation[..., None])[..., 0])

    def perturbed(self, actions: Tensor, sd: float, generator: torch.Generator) -> Tensor:
        """Return actions [T, B, nu] with noise of deviation ``sd`` times :attr:`spread`."""
        if sd == 0:
            return actions
        noise = torch.randn(actions.shape, generator=generator, dtype=torch.float64)
        return self.clip(actions + sd * self.spread * noise)

    @property
    def spread(self) -> Tensor:
        """A scale of every action, [nu]: half of its range; 1 where that is infinite."""
        half = 0.5 * (self.high - self.low)
        return torch.where(half.isfinite(), half, torch.ones_like(half))

    def rollout(self, state: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        """Roll candidates out: [B, nx], [T, K, B, nu] -> states [T+1, K, B, nx], costs [K, B].

        Costs of rows that diverge are infinite, their states NaN. Of models whose futures are
        uncertain, both are averages over the particles.
        """
        k, batch = actions.shape[1:3]
        scene = self.scene.repeated(k)
        applied = actions.flatten(1, 2)
        futures = self.model.futures(state.repeat(k, 1), applied, scene)  # (P, T+1, K B, nx)
        if len(futures) == 1:
            states, costs = futures[0], self.costs(futures[0], applied, scene)
        else:
            states, costs = futures.mean(0), self._expected(futures, applied, scene)
        return states.unflatten(1, (k, batch)), costs.unflatten(0, (k, batch))

    def _expected(self, futures: Tensor, actions: Tensor, scene: Scene) -> Tensor:
        """Average costs [N] over particles [P, T+1, N, nx] under actions [T, N, nu]."""
        particles, scenes = len(futures), scene.repeated(len(futures))
        along = futures.transpose(0, 1).flatten(1, 2)  # (T+1, P N, nx)
        costs = self.costs(along, actions.repeat(1, particles, 1), scenes)
        return costs.unflatten(0, (particles, -1)).mean(0)

    def compete(
        self, state: Tensor, actions: Tensor, finalists: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Roll candidates out, and keep the states of the best of every row alone.

        Several ranks roll out a part each, and all of them return the same.

        They are rolled out in parts of at most ``MOST_NUMBERS`` numbers of states at once (but
        some 32 rows at least), which changes no bit as far as the model's rows do not depend on
        each other.

        Args:
            state: [B, nx].
            actions: [T, K, B, nu].
            finalists: how many of every row (on every rank, and of every part) are rolled out, the
                best by :meth:`Model.sketch`; the others cost infinity. None, or where the model has
                no sketch: all.

        Returns:
            Costs [K, B], the index of the best [B], and its states [T+1, B, nx]; see
            :meth:`rollout`.
        """
        count = actions.shape[1]
        if not 1 < self.ranks.size <= count:
            return self._compete(state, actions, finalists)
        mine = self.ranks.rows(count)
        with self.ranks.together():
            costs, _, states = self._compete(state, actions[:, mine], finalists)
        costs = self.ranks.gathered(costs, count)
        winner = costs.min(dim=0).indices
        has_it = winner % self.ranks.size == self.ranks.rank
        return costs, winner, self.ranks.total(torch.where(has_it[:, None], states, 0.0))

    def _compete(
        self, state: Tensor, actions: Tensor, finalists: int | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        count, batch = actions.shape[1:3]
        rows, each = torch.arange(batch), self._candidates_at_once(batch)
        costs, winner, states = [], torch.zeros(batch, dtype=torch.long), state.new_empty(0)
        least = torch.full((batch,), torch.inf, dtype=torch.float64)
        for first in range(0, count, each):
            part = actions[:, first : first + each]
            chosen = self._finalists(state, part, finalists)
            found, paid = self.rollout(state, _taken(part, chosen))
            lowest, place = paid.min(dim=0)
            better, best = lowest < least, found[:, place, rows]
            states = torch.where(better[:, None], best, states) if first else best
            winner = torch.where(better, first + chosen[place, rows], winner)
            least = torch.where(better, lowest, least)
            costs.append(paid.new_full(part.shape[1:3], torch.inf).scatter(0, chosen, paid))
        return torch.cat(costs), winner, states

    def _finalists(self, state: Tensor, actions: Tensor, count: int | None) -> Tensor:
        """Return the indices [F, B], ascending, of the candidates [T, K, B, nu] to roll out."""
        candidates, batch = actions.shape[1:3]
        if count is not None and count < candidates:
            applied, scene = actions.flatten(1, 2), self.scene.repeated(candidates)
            sketched = self.model.sketch(state.repeat(candidates, 1), applied, scene)
            if sketched is not None:
                costs = self.costs(sketched, applied, scene).unflatten(0, (candidates, batch))
                return costs.topk(count, dim=0, largest=False).indices.sort(dim=0).values
        return torch.arange(candidates)[:, None].expand(candidates, batch)

    def _candidates_at_once(self, batch: int) -> int:
        """Return how many candidates for ``batch`` rows hold ``MOST_NUMBERS`` numbers."""
        # In whole multiples of 32 rows, so that sums are vectorised over the same rows as in one.
        multiple = 32 // math.gcd(batch, 32)
        each = batch * self.model.particles * self.model.state_size
        fitting = MOST_NUMBERS // ((self.horizon + 1) * each)
        return max(fitting // multiple, 1) * multiple

    def closed_loop(self, state: Tensor, law: Law) -> tuple[Tensor, Tensor, Tensor]:
        """Roll a feedback law out: [K B, nx] -> states, applied actions, costs [K B].

        ``law(t, states)`` must keep to the bounds; K is the number of copies of the B rows.
        """
        rows = self.scene.context
        scene = self.scene if rows is None else self.scene.repeated(len(state) // len(rows))
        states, actions = self.model.closed_loop(state, law, self.horizon, scene)
        return states, actions, self.costs(states, actions, scene)

    def follow(self, policy: Policy, state: Tensor, steps: int) -> Tensor:
        """Return what a policy does from states [B, nx] on, inside the bounds: [steps, B, nu]."""
        start, context = self.scene

        def law(t: int, states: Tensor) -> Tensor:
            return self.clip(policy(states, start + t, context))

        return self.model.closed_loop(state, law, steps, self.scene)[1]

    def costs(self, states: Tensor, actions: Tensor, scene: Scene | None = None) -> Tensor:
        """Total costs [N] of rollouts [T+1, N, nx], [T, N, nu]; infinite where one diverged.

        So are those that are no numbers, of either sign.

        Args:
            states: [T+1, N, nx].
            actions: [T, N, nu].
            scene: of N rows; None: the problem's own.
        """
        total = self.costs_by_step(states, actions, scene).sum(0)
        return torch.where(total.isfinite(), total, torch.inf)

    def costs_by_step(self, states: Tensor, actions: Tensor, scene: Scene | None = None) -> Tensor:
        """Costs [T, N] of the steps of rollouts, phi with the last one; see :meth:`costs`."""
        scene = scene or self.scene
        with torch.no_grad():
            if all_finite(states) and all_finite(actions):
                return self._by_step(states, actions, scene)
            # Costs may refuse what is not finite.
            good = states.isfinite().all(-1).all(0) & actions.isfinite().all(-1).all(0)  # (N)
            states = torch.where(good[:, None], states, states[:1].nan_to_num())
            actions = torch.where(good[:, None], actions, torch.zeros_like(actions[:1]))
            return torch.where(good, self._by_step(states, actions, scene), torch.inf)

    def gradient(
        self,
        states: Tensor,
        actions: Tensor,
        *,
        scene: Scene | None = None,
        weights: Tensor | None = None,
    ) -> Tensor:
        r"""Return the total derivative by the actions of rollouts, [T, N, nu].

        .. math:: g_t = \frac{\mathrm{d}}{\mathrm{d} u_t} \Big(
                  \sum_k w_k \, c(x_k, u_k, x_{k+1}; k) + w_{T-1} \, \phi(x_T) \Big)

        Args:
            states: [T+1, N, nx].
            actions: [T, N, nu].
            scene: of N rows; None: the problem's own.
            weights: w, [T]; None: 1.

        Raises:
            DivergenceError: naming rows that cannot be linearised.
        """
        scene = scene or self.scene
        states = states.detach().requires_grad_()
        actions = actions.detach().requires_grad_()
        with torch.enable_grad():
            costs = self._by_step(states, actions, scene)
            total = (costs if weights is None else weights[:, None] * costs).sum()
            if not total.requires_grad:  # all costs are constant
                return torch.zeros_like(actions)
            by_states, by_actions = torch.autograd.grad(
                total, (states, actions), materialize_grads=True
            )
        flat = self.model.to_tangent(states.detach().flatten(0, 1), by_states.flatten(0, 1))
        return self.model.adjoint(
            states.detach(),
            actions.detach(),
            flat.unflatten(0, states.shape[:2]),
            by_actions,
            scene,
        )

    def expand(
        self, states: Tensor, actions: Tensor, a: Tensor, b: Tensor
    ) -> tuple[Quadratic, Tensor, Tensor]:
        """Return the quadratic model along rollouts, with A and B as linearised there.

        Args:
            states: [T+1, B, nx].
            actions: [T, B, nu].
            a: [T, B, ndx, ndx].
            b: [T, B, ndx, nu].

        Returns:
            The steps' models [T, B, ...], and gradient [B, ndx] and Hessian [B, ndx, ndx] of phi.
        """
        shape = actions.shape[:2]
        points = StagePoints.along(states, actions, self.scene)
        flat = self.stage.quadratic(points, a.flatten(0, 1), b.flatten(0, 1), self.model)
        steps = Quadratic(*(part.unflatten(0, shape) for part in flat))
        if self.terminal is None:
            ndx = self.model.tangent_size
            return steps, a.new_zeros(shape[1], ndx), a.new_zeros(shape[1], ndx, ndx)
        last, counts = self._last(points)
        slope, curvature = self.terminal.quadratic(last, self.scene, len(actions), self.model)
        return steps, slope * counts[:, None], curvature * counts[:, None, None]

    def effort(self) -> Mapping[str, int]:
        """Return what has been spent on the model so far, by every problem that shares it."""
        model = self.model
        return {"control_steps": model.control_steps, "linearizations": model.linearizations}

    def _by_step(self, states: Tensor, actions: Tensor, scene: Scene) -> Tensor:
        """Costs [T, N], the terminal one with the last step's."""
        points = StagePoints.along(states, actions, scene)
        stage = self.stage(points).unflatten(0, actions.shape[:2])
        if self.terminal is None:
            return stage
        last, counts = self._last(points)
        phi = self.terminal(last, scene, len(actions)) * counts
        return torch.cat([stage[:-1], stage[-1:] + phi])

    def _last(self, points: StagePoints) -> tuple[Tensor, Tensor]:
        """Return x_T [N, nx], and where phi counts, [N].

        Where it does not, phi is given the first state: of states past an episode's end it may
        make anything, which zeros would not stop.
        """
        rows = len(points.state) // points.steps
        first, last = points.state[:rows], points.next_state[-rows:]
        over = None
        if self.terminal is not None and self.terminal.until_termination:
            over = self.stage.over(points)
        if over is None:
            return last, last.new_ones(rows)
        return torch.where(over[:, None], first.detach(), last), (~over).to(last.dtype)


def _taken(actions: Tensor, chosen: Tensor) -> Tensor:
    """Return candidates [T, F, B, nu] of [T, K, B, nu], by their indices [F, B] for every row."""
    if len(chosen) == actions.shape[1]:
        return actions
    index = chosen[None, :, :, None].expand(len(actions), *chosen.shape, actions.shape[-1])
    return actions.gather(1, index)
