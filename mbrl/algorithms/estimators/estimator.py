"""What an estimator of the policy gradient is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mbrl.algorithms.weighting import Objective
from mbrl.errors import ArgumentError, DivergenceError
from mbrl.graph import Graph, GraphPolicy
from mbrl.graph.nodes import PolicyNode
from mbrl.nn import Policy
from mbrl.ranks import ALONE, Ranks
from mbrl.types import Part, Start, Trajectory


class Subject(NamedTuple):
    """What is trained, and the size of the rollouts it is trained on."""

    graph: Graph  # which is unrolled
    parameters: Mapping[str, nn.Parameter]  # of the nodes that lead to the action
    policies: Mapping[str, Policy]  # those that have such parameters, by node
    others: tuple[str, ...]  # nodes that are no policies and have such parameters
    horizon: int  # the longest there will be
    batch: int  # rows of all ranks together

    @classmethod
    def of(cls, graph: Graph, *, horizon: int, batch: int) -> Subject:
        """Return what there is to train in a graph.

        Raises:
            ArgumentError: if there is nothing.
        """
        # The policy's parameters alone: other nodes may have some that are not to flatter it.
        actor = GraphPolicy.of(graph)
        parameters = {n: p for n, p in actor.named_parameters() if p.requires_grad}
        if not parameters:
            raise ArgumentError(
                "graph: its policy has no parameters; a policy gradient has nothing to do"
            )
        trained = {
            name: node
            for name, node in actor.nodes.items()
            if any(p.requires_grad for p in node.parameters())
        }
        policies = {n: node.policy for n, node in trained.items() if isinstance(node, PolicyNode)}
        others = tuple(name for name in trained if name not in policies)
        return cls(graph, parameters, policies, others, horizon, batch)


class Problem(NamedTuple):
    """The rollouts of one update, and what is to be ascended.

    Of several ranks each has a part of the batch, B rows of it.
    """

    start: Start  # (B, nx), (B, n)
    horizon: int  # steps of every rollout
    objective: Objective  # how rewards are weighed
    generator: torch.Generator  # of the policy's noise
    record: tuple[str, ...] = ()  # values of the graph that others want to see
    watch: Callable[[int, Tensor], None] | None = None  # see ``Graph.unroll``
    ranks: Ranks = ALONE  # the processes that share the batch
    batch: int | None = None  # rows of all ranks together; None: there is one

    @property
    def size(self) -> int:
        """Rows of all ranks together."""
        return len(self.start.state) if self.batch is None else self.batch

    @property
    def rows(self) -> range:
        """Which rows of the whole batch are here."""
        return range(self.size)[self.ranks.rows(self.size)]

    def unroll(self, graph: Graph, **sampling: Any) -> Trajectory:
        """Run the graph; ``sampling`` as in ``Graph.unroll``.

        Raises:
            DivergenceError: if physics or returns are not finite.
        """
        with self.ranks.together():
            trajectory = graph.unroll(
                self.start.state,
                self.horizon,
                generator=self.generator,
                context=self.start.context,
                record=self.record,
                watch=self.watch,
                part=Part(self.rows, self.size),
                **sampling,
            )
            if not self.returns(trajectory).isfinite().all():
                raise DivergenceError("the return is not finite")
        return trajectory

    def returns(self, trajectory: Trajectory) -> Tensor:
        """Return the discounted returns [B], nothing flowing back."""
        return (self.objective.discounts[:, None] * trajectory.rewards.detach()).sum(0)

    def whole(self, trajectory: Trajectory) -> Trajectory:
        """Return the rollouts of all ranks in order, nothing flowing back."""

        def gathered(value: Tensor) -> Tensor:  # (T, B, ...)
            return self.ranks.gathered(value.transpose(0, 1), self.size).transpose(0, 1)

        states, actions, rewards, alive = map(gathered, trajectory[:4])
        values = {name: gathered(value) for name, value in trajectory.values.items()}
        return Trajectory(states, actions, rewards, alive, values)

    def gradients(
        self, loss: Tensor, parameters: Mapping[str, nn.Parameter], *, keep: bool = False
    ) -> dict[str, Tensor | None]:
        """Differentiate the sum of all ranks' losses; ``keep`` it to differentiate again."""
        with self.ranks.together():
            found = torch.autograd.grad(
                loss, list(parameters.values()), allow_unused=True, retain_graph=keep
            )
        return dict(zip(parameters, self.ranks.totals(found), strict=True))


class Estimate(NamedTuple):
    """What an estimator gives."""

    gradients: Mapping[str, Tensor | None]  # of -J, by name of the parameter
    trajectory: Trajectory  # real transitions, as many as were made, of all ranks
    returns: Tensor  # (B), discounted, of all ranks
    measured: Mapping[str, float]  # the same names at every update


class Estimator:
    r"""Turns rollouts into an estimate of a policy gradient, reproducibly.

    What is estimated is the direction that :class:`Objective` defines, by default

    .. math:: \nabla_\theta J, \qquad J(\theta) = E \sum_{t=0}^{H-1} \gamma^t r_t.

    Subclasses state formula, bias and source.

    Args:
        subject: what is trained.

    Raises:
        ArgumentError: if the estimator does not fit the policies.
    """

    def __init__(self, subject: Subject):
        self._subject = subject

    def estimate(self, problem: Problem) -> Estimate:
        """Roll out and differentiate.

        Raises:
            ArgumentError: if what is trained has no such gradient.
            DivergenceError: if physics or returns are not finite.
        """
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next estimate depends on: tensors and plain data only."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""

    def _result(
        self,
        problem: Problem,
        trajectory: Trajectory,
        loss: Tensor,
        measured: Mapping[str, float] | None = None,
    ) -> Estimate:
        """Differentiate a loss whose gradient is the estimate."""
        gradients = problem.gradients(loss, self._subject.parameters)
        whole = problem.whole(trajectory)
        return Estimate(gradients, whole, problem.returns(whole), measured or {})
