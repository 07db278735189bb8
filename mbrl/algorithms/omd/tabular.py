"""Optimal model design on tables, beside maximum likelihood, for many models at once."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal, cast

import numpy as np
import torch
from torch import Tensor

from mbrl.algorithms.algorithm import Actor, Setting
from mbrl.algorithms.omd.idle import refuse_idle
from mbrl.algorithms.omd.soft_bellman import SoftBellman
from mbrl.algorithms.omd.studies import Study, Variant, check_study, draw
from mbrl.algorithms.omd.tabular_model import Estimates, Parameters, Projection, TabularModels
from mbrl.algorithms.optimizer import OptimizerOptions, make_optimizer, set_learning_rate
from mbrl.errors import ArgumentError, DivergenceError
from mbrl.planning.checks import check_counts, check_not_negative
from mbrl.tasks import TabularTask
from mbrl.types import Array, Exhibits

_ADAM = OptimizerOptions(lr=0.01)


class TabularOMD:
    r"""Models of a tabular process of bounded norm, learned for return or for likelihood.

    .. math:: \max_\theta J(Q^*(\theta)), \quad Q^* = B_\theta Q^* \qquad \text{(omd)}, \qquad
              \min_\theta \; \overline{(\hat r - r)^2} + \overline{KL(P \,\|\, \hat P_\theta)}
              \qquad \text{(mle)}, \qquad |\theta| \le c

    with the soft Bellman operator of the model; J is the return of the soft policy of Q* in the
    process itself, or minus the mean square of its Bellman errors there (Nikishin et al. 2022,
    arXiv:2106.03273). The gradient of Q* is implicit; its adjoint is exact, or leaves the inverse
    out (``identity``). With noise, J sees Q* plus draws that are fresh at every step, and what is
    reported is of the latest.

    Every combination of agent, adjoint, bound, noise and seed is a row of one batch. Rows of one
    seed start from one model, drawn uniformly from [0, 1], and share their noise but for its scale.
    The tables of the process are known, so no environment steps are taken. What is evaluated is the
    greedy policy of the Q function whose return is the highest.

    Args:
        setting: a tabular task, and the generator.
        updates: how many, of ``steps`` each.
        steps: optimiser steps of an update.
        study: what is shown of the results: returns or bounds on errors, against the bound on the
            norm, or returns against the noise.
        agent: which are trained.
        objective: J of omd.
        adjoint: which omd is trained with.
        bounds: c; null: none.
        projection: how models of too large a norm are shrunk: jointly, or each array by itself as
            in the original's figures; see :meth:`TabularModels.project`.
        noise: deviations of what is added to Q*.
        seeds: how many.
        optimizer: see :class:`OptimizerOptions`.

    Raises:
        ArgumentError: if the task has no tables, a number is out of range, the study has not one
            axis, or an option has no effect beside the others.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        updates: int = 100,
        steps: int = 100,
        study: Study = "returns",
        agent: Literal["omd", "mle", "both"] = "both",
        objective: Literal["returns", "bellman"] = "returns",
        adjoint: Literal["exact", "identity", "both"] = "exact",
        bounds: Sequence[float] | None = None,
        projection: Projection = "joint",
        noise: Sequence[float] = (0.0,),
        seeds: int = 10,
        optimizer: OptimizerOptions = _ADAM,
    ):
        check_counts("algorithm", updates=updates, steps=steps, seeds=seeds)
        for bound in bounds or ():
            check_not_negative("algorithm", bounds=bound)
        for deviation in noise:
            check_not_negative("algorithm", noise=deviation)
        check_study(study, bounds, noise)
        idle: dict[str, object]
        if agent == "mle":
            idle = {"objective": objective, "adjoint": adjoint}
            refuse_idle(TabularOMD, idle, "mle solves no inner problem", "agent=omd")
        if bounds is None:
            idle = {"projection": projection}
            refuse_idle(TabularOMD, idle, "no norm is bounded", "algorithm.bounds")
        task = setting.task
        if not isinstance(task, TabularTask):
            raise ArgumentError(f"task must be a tabular one for omd_tabular, got {task.name}")
        self._updates, self._steps, self._done = updates, steps, 0
        self._task, self._generator = task, setting.generator
        self._study, self._objective, self._projection = study, objective, projection
        self._bellman = SoftBellman(task.mdp)
        self._models = TabularModels(self._bellman)
        agents = ("omd", "mle") if agent == "both" else (agent,)
        adjoints = ("exact", "identity") if adjoint == "both" else (adjoint,)
        self._variants = _variants(agents, adjoints, bounds or (math.inf,), noise, seeds)
        self._lay_out()
        self._theta, self._q = self._drawn(seeds)
        self._options = optimizer
        self._optimizer = make_optimizer(self._theta, optimizer)
        self._draw = torch.zeros(*task.mdp.rewards.shape, seeds, dtype=torch.float64)

    @property
    def updates(self) -> int:
        """How many there are to be."""
        return self._updates

    def update(self) -> dict[str, float]:
        """Make ``steps`` optimiser steps."""
        before = copy.deepcopy(self.state_dict())
        try:
            rate = self._optimize()
            estimates = self._estimates()
        except DivergenceError:
            self.load_state_dict(before)
            raise
        self._done += 1
        measured = {"env_steps": 0.0, "return_mean": float(estimates.returns.mean())}
        for name in dict.fromkeys(variant.label for variant in self._variants):
            rows = [i for i, variant in enumerate(self._variants) if variant.label == name]
            key = name.replace(", ", "_")
            measured[f"return_{key}"] = float(estimates.returns[rows].mean())
            measured[f"q_error_{key}"] = float(estimates.q_errors[rows].mean())
        return {**measured, "learning_rate": rate}

    def actor(self) -> Actor:
        """Return the greedy policy of the Q function whose return is the highest."""
        q = self._reported()
        best = int(self._bellman.returns(q).argmax())
        return GreedyTable(q[..., best])

    def exhibits(self) -> Exhibits:
        """Return the study's chart, of the models as they are."""
        return Exhibits(chart=draw(self._study, self._variants, self._estimates()))

    def state_dict(self) -> dict[str, Any]:
        """The models, their Q functions, the optimiser, the latest noise, the random state."""
        return {
            "theta": {name: value.detach() for name, value in self._theta.items()},
            "q": self._q,
            "optimizer": self._optimizer.state_dict(),
            "draw": self._draw,
            "done": self._done,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        with torch.no_grad():
            for name, value in self._theta.items():
                value.copy_(state["theta"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self._q, self._draw = state["q"].clone(), state["draw"].clone()
        self._done = int(state["done"])
        self._generator.set_state(state["generator"])

    def _lay_out(self) -> None:
        """Turn the variants into tensors along the batch; omd's come first."""
        variants = self._variants
        self._omd = sum(variant.agent == "omd" for variant in variants)
        self._exact = torch.tensor([v.adjoint == "exact" for v in variants[: self._omd]])
        self._bounds = torch.tensor([v.bound for v in variants], dtype=torch.float64)
        self._noise = torch.tensor([v.noise for v in variants], dtype=torch.float64)
        self._row = torch.tensor([v.seed - 1 for v in variants])

    def _drawn(self, seeds: int) -> tuple[dict[str, torch.nn.Parameter], Tensor]:
        """Return initial models and Q functions, the same for every variant of a seed."""
        states, actions = self._task.mdp.rewards.shape
        shapes = {"logits": (states, actions, states), "rewards": (states, actions)}
        drawn = {
            name: torch.rand((*shape, seeds), generator=self._generator, dtype=torch.float64)
            for name, shape in {**shapes, "q": (states, actions)}.items()
        }
        rows = {name: value[..., self._row] for name, value in drawn.items()}
        return {name: torch.nn.Parameter(rows[name]) for name in shapes}, rows["q"]

    def _optimize(self) -> float:
        shape = (self._steps, *self._draw.shape)
        noisy, bounded = bool(self._noise.any()), bool(self._bounds.isfinite().any())
        draws = (
            torch.randn(shape, generator=self._generator, dtype=torch.float64) if noisy else None
        )
        rate = 0.0
        for step in range(self._steps):
            if draws is not None:
                self._draw = draws[step]
            progress = (self._done * self._steps + step) / (self._updates * self._steps)
            rate = set_learning_rate(self._optimizer, self._options, progress)
            self._optimizer.zero_grad()
            self._loss(noisy).backward()
            self._optimizer.step()
            if bounded:
                self._models.project(self._parameters, self._bounds, self._projection)
        self._draw = self._draw.clone()  # a view would be saved with all of them
        return rate

    def _loss(self, noisy: bool) -> Tensor:
        """Return the sum of all rows' losses, which do not depend on each other."""
        loss, omd = torch.zeros((), dtype=torch.float64), self._omd
        if omd:
            theta = {name: value[..., :omd] for name, value in self._parameters.items()}
            q = self._models.q_functions(theta, self._q[..., :omd], self._exact)
            self._q[..., :omd] = q.detach()
            loss = loss - self._objectives(self._noisy(q, noisy)).sum()
        if omd < len(self._variants):
            theta = {name: value[..., omd:] for name, value in self._parameters.items()}
            loss = loss + self._models.likelihood_losses(theta).sum()
        return loss

    def _objectives(self, q: Tensor) -> Tensor:
        if self._objective == "returns":
            return self._bellman.returns(q)
        return -self._bellman.bellman_errors(q).square().mean((0, 1))

    def _noisy(self, q: Tensor, noisy: bool) -> Tensor:
        rows = slice(q.shape[-1])
        return q + self._noise[rows] * self._draw[..., self._row[rows]] if noisy else q

    @property
    def _parameters(self) -> Parameters:
        return cast(Parameters, self._theta)

    def _reported(self) -> Tensor:
        """Return the Q functions of the models as they are, under the latest noise."""
        with torch.no_grad():
            tables = self._models.tables(self._parameters)
            return self._noisy(self._bellman.fixed_point(*tables, self._q), noisy=True)

    def _estimates(self) -> Estimates:
        q, omd = self._reported(), self._omd
        halves = []
        for rows, of_parts in ((slice(omd), False), (slice(omd, None), True)):
            theta = {name: value[..., rows] for name, value in self._parameters.items()}
            halves.append(self._models.estimates(theta, q[..., rows], of_parts=of_parts))
        return Estimates(*(torch.cat(pair) for pair in zip(*halves, strict=True)))


class GreedyTable:
    """An actor that takes the best action of a table.

    Args:
        q: [S, A].
    """

    def __init__(self, q: Tensor):
        self._actions: Array = q.argmax(-1).to(torch.float64).numpy()

    def act(self, observation: Array) -> Array:
        """[B, 1] -> [B, 1]: indices of states, indices of actions."""
        index = np.asarray(observation)[..., 0].astype(np.int64)
        chosen: Array = self._actions[index][..., None]
        return chosen

    def reset(self) -> None:
        """There is nothing to forget."""


def _variants(
    agents: Sequence[str],
    adjoints: Sequence[str],
    bounds: Sequence[float],
    noise: Sequence[float],
    seeds: int,
) -> list[Variant]:
    """Return all combinations, omd's first and seeds fastest; likelihood knows no noise."""
    numbers = range(1, seeds + 1)
    found = []
    if "omd" in agents:
        found += [Variant("omd", *v) for v in itertools.product(adjoints, bounds, noise, numbers)]
    if "mle" in agents:
        found += [Variant("mle", *v) for v in itertools.product(("",), bounds, (0.0,), numbers)]
    return found
