"""Policy gradient through the unrolled computation graph."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Annotated, Any

import torch

from mbrl.algorithms.algorithm import Actor, Setting
from mbrl.algorithms.diagnostics import ActionGradients, step_diagnostics
from mbrl.algorithms.estimators import ESTIMATORS, Estimator, Problem, Subject
from mbrl.algorithms.optimizer import OptimizerOptions, make_optimizer, set_learning_rate
from mbrl.algorithms.start_states import STARTS, ResetStart
from mbrl.algorithms.weighting import Weighting, weighed
from mbrl.errors import ArgumentError, DivergenceError, MbrlError
from mbrl.graph import GraphPolicy, build_graph
from mbrl.landscape import PolicyLoss
from mbrl.nn import RunningNormalizer, saturation
from mbrl.options import Choice, chosen
from mbrl.types import Diagnostics, Start, Trajectory

Chosen = Mapping[str, Any]

_LONGEST = 1e12  # what torch clips in single precision, whose squares end at 1e38


class PolicyGradient:
    r"""Gradient ascent on the return of short rollouts through the physics.

    .. math:: J(\theta) = E \sum_{t=0}^{H-1} \gamma^t r(x_t, u_t, x_{t+1}), \qquad
              u_t = \pi_\theta(o(x_t), \xi_t), \quad x_{t+1} = F(x_t, u_t)

    over N rollouts an update, with x_0 drawn from ``start`` and the noise xi from the policy. How
    rollouts make a gradient is the estimator's business: differentiated with the noise held fixed
    (pathwise, the default: Heess et al. 2015, section 4, with the true dynamics in place of a
    model; the method of Model-Based-RL), by the policy's density alone, or by both.

    With an ``open_loop`` policy of as many steps this is trajectory optimisation, from one state if
    the task is reset to one: ``task_args: {reset_noise_scale: 0}`` for most environments. The
    evaluation then begins there too; ``eval_task_args: {max_episode_steps: H}`` ends it with the
    trajectory.

    Of several ranks each rolls out and differentiates a part of the batch; the gradient is that of
    one which does it all.

    Args:
        setting: task, graph, generator and ranks.
        updates: gradient steps in all.
        horizon: steps H of a rollout, at the end.
        horizon_start: steps of a rollout in the first update. A system that falls multiplies
            gradients at every step, so rollouts lengthen only as fast as the policy learns to hold
            it: by a twentieth after an update whose gradient norm (before clipping) was at most
            ``stable_norm``. A longer gradient is noise: it is not followed, and rollouts shorten by
            a fifth (in the spirit of adaptive horizons, Georgiev et al. 2024). null: ``horizon``
            throughout, and every gradient is followed.
        stable_norm: see ``horizon_start``.
        batch: rollouts N of an update.
        discount: gamma.
        estimator: ``{kind: ..., **options}``: pathwise, score_function, sum, interpolated or
            hybrid; see ``mbrl.algorithms.estimators``.
        weighting: how the rewards that follow an action are weighed in its gradient: sum, average
            or prioritise; see :func:`weighed`.
        start: where rollouts begin: ``{kind: reset}``, or ``{kind: replay, size: 32768, fresh:
            0.25}``; see :class:`ReplayStart`.
        optimizer: see :class:`OptimizerOptions`.
        clip_norm: largest norm of the gradient; longer ones are scaled down. null: no limit.
        clip_value: largest magnitude of a single entry of the gradient. null: no limit.

    Raises:
        ArgumentError: if a number is out of its range, the graph has nothing to train, or options
            do not fit each other or the policies.
        GraphError: if the graph is wired wrongly.
    """

    shares_ranks = True
    uses_graph = True

    def __init__(
        self,
        setting: Setting,
        *,
        updates: int = 100,
        horizon: int = 50,
        horizon_start: int | None = None,
        stable_norm: float = 10.0,
        batch: int = 16,
        discount: float = 1.0,
        estimator: Annotated[Chosen, Choice(ESTIMATORS)] = MappingProxyType({"kind": "pathwise"}),
        weighting: Weighting = "sum",
        start: Annotated[Chosen, Choice(STARTS)] = MappingProxyType({"kind": "reset"}),
        optimizer: OptimizerOptions = OptimizerOptions(),  # noqa: B008 (frozen)
        clip_norm: float | None = 1.0,
        clip_value: float | None = None,
    ):
        for name, value in (("updates", updates), ("horizon", horizon), ("batch", batch)):
            if value < 1:
                raise ArgumentError(f"algorithm.{name} must be at least 1, got {value}")
        if horizon_start is not None and not 1 <= horizon_start <= horizon:
            raise ArgumentError(
                f"algorithm.horizon_start must lie between 1 and horizon, got {horizon_start}"
            )
        for name, limit in (("clip_norm", clip_norm), ("clip_value", clip_value)):
            if limit is not None and limit <= 0:
                raise ArgumentError(f"algorithm.{name} must be positive or null, got {limit}")
        if not stable_norm > 0:
            raise ArgumentError(f"algorithm.stable_norm must be positive, got {stable_norm}")
        if not 0 < discount <= 1:
            raise ArgumentError(f"algorithm.discount must lie in (0, 1], got {discount}")
        self.updates, self._batch = updates, batch
        self._horizon, self._shortest = horizon, horizon_start or horizon
        self._length, self._stable_norm = self._shortest, stable_norm
        self._clip_norm, self._clip_value = clip_norm, clip_value
        self._task, self._generator, self._ranks = setting.task, setting.generator, setting.ranks
        if batch < self._ranks.size:
            raise ArgumentError(
                f"algorithm.batch must be at least the number of ranks, {self._ranks.size}, "
                f"got {batch}"
            )
        self.graph = build_graph(setting.graph, setting.task, generator=setting.generator)
        subject = Subject.of(self.graph, horizon=horizon, batch=batch)
        self._parameters = subject.parameters
        self._estimator = _estimator(estimator, subject)
        self._start = _start(start, subject)
        if weighting != "sum" and subject.others:
            raise ArgumentError(
                f"algorithm.weighting: {weighting} weighs what reaches policies, and "
                f"graph.nodes.{subject.others[0]} has parameters too; legal here: sum"
            )
        self._weighting, self._discounts = weighting, discount ** torch.arange(horizon).double()
        self._normalizers = self.graph.normalizers()
        self._options = optimizer
        self._optimizer = make_optimizer(self._parameters, optimizer)
        self._imagined = any(node.is_imagined for node in subject.graph.nodes.values())
        self._done = 0
        self._measured_with: Mapping[str, torch.Tensor] = self.graph.state_dict()
        self._gradients, self._last = ActionGradients(), dict[str, torch.Tensor]()

    def update(self) -> dict[str, float]:
        """Roll out, differentiate, step; let the normalisers see the observations."""
        normalizers = [n for found in self._normalizers.values() for n in found]
        before = [copy.deepcopy(n.state_dict()) for n in normalizers]
        try:
            return self._updated(normalizers)
        except MbrlError:
            for normalizer, state in zip(normalizers, before, strict=True):
                normalizer.load_state_dict(state)
            raise

    def _updated(self, normalizers: list[RunningNormalizer]) -> dict[str, float]:
        rate = set_learning_rate(self._optimizer, self._options, self._done / self.updates)
        for normalizer in normalizers:
            normalizer.refresh()
        self._measured_with = copy.deepcopy(self.graph.state_dict())
        start = self._start.draw(self._batch, self._generator)
        estimate = self._estimator.estimate(self._problem(start))
        # The last word to other ranks: whoever is lost later finds nothing half done.
        self._gradients.settle(self._ranks)
        for name, parameter in self._parameters.items():
            parameter.grad = estimate.gradients[name]
        norm = self._gradient_norm()
        follow = norm <= self._stable_norm or self._length == self._shortest
        if follow:
            self._clip()
        # Nothing is remembered of an update that diverged.
        self._start.note(estimate.trajectory, start.context)
        if follow:
            self._optimizer.step()
        self._done += 1
        self._adapt_horizon(norm)
        self._update_normalizers(estimate.trajectory)
        self._last = _detached(estimate.trajectory)
        return {
            **self._measured(estimate.trajectory, estimate.returns, norm, follow),
            "learning_rate": rate,
            **estimate.measured,
        }

    def actor(self) -> Actor:
        """Return the policy of the graph."""
        return GraphPolicy.of(self.graph)

    def diagnostics(self) -> Diagnostics:
        """Return the norms of gradients and the statistics of actions, step by step."""
        if not self._last:
            return {}
        norms = self._gradients.norms()
        return {
            **({} if norms is None else {"action_gradient_norm": norms}),
            **step_diagnostics(
                **self._last, low=self._task.action_low, high=self._task.action_high
            ),
        }

    def loss(self, generator: torch.Generator, batch: int | None = None) -> PolicyLoss:
        """Return what is descended, over fixed starts and noise, at the present parameters.

        Args:
            generator: draws starts and noise.
            batch: rollouts; None: as many as an update has.
        """
        start = self._start.draw(batch or self._batch, generator)
        return PolicyLoss(self.graph, self._parameters, start, self._discounts, generator)

    def state_dict(self) -> dict[str, Any]:
        """Weights, normalisers, optimiser, estimator, start states, random state and count."""
        return {
            "graph": self.graph.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "estimator": self._estimator.state_dict(),
            "start": self._start.state_dict(),
            "generator": self._generator.get_state(),
            "done": self._done,
            "length": self._length,
        }

    def measured_state_dict(self) -> dict[str, Any]:
        """Return :meth:`state_dict` with the weights that the last rollouts were made by."""
        return {**self.state_dict(), "graph": self._measured_with}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.graph.load_state_dict(state["graph"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._estimator.load_state_dict(state["estimator"])
        self._start.load_state_dict(state["start"])
        self._generator.set_state(state["generator"])
        self._done, self._length = int(state["done"]), int(state["length"])

    def _problem(self, start: Start) -> Problem:
        wanted = {*self._normalizers, *(n for n in self._start.record if n in self.graph.widths)}
        objective = weighed(self._weighting, self._discounts[: self._length])
        self._gradients = ActionGradients()  # those of this update
        ranks = self._ranks
        return Problem(
            Start(*(part[ranks.rows(self._batch)] for part in start)),
            self._length,
            objective,
            self._generator,
            tuple(sorted(wanted)),
            self._gradients.watch,
            ranks,
            self._batch,
        )

    def _adapt_horizon(self, norm: float) -> None:
        if norm <= self._stable_norm:
            self._length = min(self._horizon, self._length + math.ceil(self._length / 20))
        else:
            self._length = max(self._shortest, self._length - math.ceil(self._length / 5))

    def _gradient_norm(self) -> float:
        """Return the norm of the gradient.

        Raises:
            DivergenceError: if it is not finite, and there is no shorter horizon to go back to.
        """
        norm = _norm_of([p.grad for p in self._parameters.values() if p.grad is not None])
        if not math.isfinite(norm) and self._length == self._shortest:
            raise DivergenceError("the gradient of the return is not finite; shorten the horizon")
        return norm

    def _clip(self) -> None:
        if self._clip_value is not None:
            torch.nn.utils.clip_grad_value_(self._parameters.values(), self._clip_value)
        gradients = [p.grad for p in self._parameters.values() if p.grad is not None]
        if self._clip_norm is not None:
            norm = _norm_of(gradients)
            if norm > _LONGEST:
                for gradient in gradients:
                    gradient.mul_(_LONGEST / norm)
            torch.nn.utils.clip_grad_norm_(self._parameters.values(), self._clip_norm)
        if self._options.kind == "adam" and not all(
            bool(gradient.square().isfinite().all()) for gradient in gradients
        ):
            raise DivergenceError(
                "the gradient of the return is too large to be squared, as Adam does; shorten the "
                "horizon, or set algorithm.clip_norm"
            )

    def _update_normalizers(self, trajectory: Trajectory) -> None:
        for value, normalizers in self._normalizers.items():
            seen = trajectory.values[value].detach()[trajectory.alive]
            for normalizer in normalizers:
                normalizer.update(seen)

    def _measured(
        self, trajectory: Trajectory, returns: torch.Tensor, norm: float, follow: bool
    ) -> dict[str, float]:
        alive = trajectory.alive
        actions = trajectory.actions.detach()[alive]
        return {
            "env_steps": 0.0 if self._imagined else float(alive.sum()),
            "horizon": float(len(alive)),
            "return_mean": float(returns.mean()),
            "return_std": float(returns.std(unbiased=False)),
            "length_mean": float(alive.sum(0).to(torch.float64).mean()),
            "gradient_norm": norm,
            "followed": float(follow),
            "saturation": saturation(actions, self._task.action_low, self._task.action_high),
        }


def _norm_of(gradients: Sequence[torch.Tensor]) -> float:
    """Return the norm of all, in double precision: single overflows at 1e19."""
    squares = [gradient.double().square().sum() for gradient in gradients]
    return math.sqrt(float(torch.stack(squares).sum()))


def _estimator(options: Chosen, subject: Subject) -> Estimator:
    complete = chosen(ESTIMATORS, options, "algorithm.estimator")
    return ESTIMATORS[complete.pop("kind")](subject, **complete)


def _detached(trajectory: Trajectory) -> dict[str, torch.Tensor]:
    """Return what is diagnosed of rollouts, without what it was computed from."""
    actions, rewards = trajectory.actions.detach(), trajectory.rewards.detach()
    return {"actions": actions, "rewards": rewards, "alive": trajectory.alive}


def _start(options: Chosen, subject: Subject) -> ResetStart:
    complete = chosen(STARTS, options, "algorithm.start")
    kind = complete.pop("kind")
    for name, node in subject.graph.nodes.items():
        if kind == "replay" and getattr(node, "uses_time", False):
            raise ArgumentError(
                f"algorithm.start.kind: replay does not fit graph.nodes.{name}, which depends on "
                "the step index t of an episode: a remembered state has lost it; legal here: reset"
            )
    return STARTS[kind](subject.graph.task, **complete)
