"""The loss of a policy in a computation graph."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from mbrl.errors import ArgumentError, DivergenceError
from mbrl.graph import Graph
from mbrl.graph.nodes import PolicyNode
from mbrl.landscape.parameter_sets import stacked, with_parameter_sets
from mbrl.nn import OpenLoop
from mbrl.types import Start

_MOST_ROWS = 16_384  # of a rollout
_MOST_NUMBERS = 2**25  # that a rollout, or the sets of parameters, hold: 256 MB
_SHARE_WITH_GRADIENT = 16  # what back-propagation remembers, in rollouts


class PolicyLoss:
    r"""Minus the mean return over fixed starts and fixed noise.

    .. math:: L(\theta) = -\frac{1}{B} \sum_{b=1}^{B} \sum_{t=0}^{H-1} \gamma^t
              r(x_t^b, u_t^b, x_{t+1}^b), \qquad u_t^b = \pi_\theta(o(x_t^b), \xi_t^b)

    with the same x_0 and xi for every theta, so that the surface shows theta's doing alone.

    Args:
        graph: pi, physics and reward.
        parameters: theta, by names in the graph.
        start: x_0 and contexts, B rows.
        discounts: gamma^t, [H].
        generator: draws the seed of xi.

    Attributes:
        start: x_0 and contexts.
        noise_seed: of the generator that every unrolling is given.
    """

    def __init__(
        self,
        graph: Graph,
        parameters: Mapping[str, nn.Parameter],
        start: Start,
        discounts: Tensor,
        generator: torch.Generator,
    ):
        self._graph, self._parameters = graph, parameters
        self.start, self._discounts = start, discounts
        self.noise_seed = int(torch.randint(2**31 - 1, (), generator=generator))
        self.solution = torch.cat([p.detach().double().flatten() for p in parameters.values()])
        self.layout = {name: tuple(p.shape) for name, p in parameters.items()}
        self._ranges = _ranges(graph)
        self.unit = torch.cat(
            [
                self._ranges.get(n, torch.ones(())).double().expand(p.shape).flatten()
                for n, p in parameters.items()
            ]
        )
        batch = len(start.state)
        width = sum(max(1, w) for w in graph.widths.values())
        rows = min(_MOST_ROWS, _MOST_NUMBERS // (width * (len(discounts) + 1)))
        self.at_once = max(1, min(rows // batch, _MOST_NUMBERS // len(self.solution)))

    def values(self, points: Tensor) -> Tensor:
        """See :class:`~mbrl.landscape.Loss`."""
        with torch.no_grad():
            return self._losses(points)

    def gradients(self, points: Tensor) -> Tensor:
        """See :class:`~mbrl.landscape.Loss`; through the physics.

        Raises:
            ArgumentError: if rewards do not depend on the parameters differentiably.
            DivergenceError: if a rollout cannot be differentiated.
        """
        found = []
        for part in points.split(max(1, self.at_once // _SHARE_WITH_GRADIENT)):
            leaf = part.detach().clone().requires_grad_()
            losses = self._losses(leaf)
            good = losses.detach().isfinite()
            if not good.any():
                found.append(torch.full_like(part, torch.nan))
                continue
            if not losses.requires_grad:
                raise ArgumentError(
                    f"landscape.directions: the reward of {self._graph.task.name} is constant "
                    "along a rollout: there are no gradients to find principal ones; legal: random"
                )
            (gradient,) = torch.autograd.grad(losses[good].sum(), leaf)
            found.append(torch.where(good[:, None], gradient, torch.nan))
        return torch.cat(found)

    def filtered(self, direction: Tensor) -> Tensor:
        r"""Return a direction [n] with the norm of every filter that of the parameters' filter.

        .. math:: d_i \leftarrow \frac{d_i}{\lVert d_i \rVert} \lVert \theta_i \rVert

        A filter is what makes one neuron: a row of a matrix of weights; a bias, or another vector,
        is one by itself. Trajectories of open-loop policies are scaled by half the range of each
        control instead.

        Source: Li et al. 2018, "Visualizing the loss landscape of neural nets", section 4.
        """
        parts, sizes = [], [p.numel() for p in self._parameters.values()]
        for d, (name, parameter) in zip(
            direction.split(sizes), self._parameters.items(), strict=True
        ):
            d = d.reshape(parameter.shape)
            if name in self._ranges:
                parts.append((self._ranges[name] * d).flatten())
                continue
            axis = list(range(1, parameter.ndim)) or None
            norm, wanted = (
                torch.linalg.vector_norm(v, dim=axis, keepdim=True)
                for v in (d, parameter.detach().double())
            )
            parts.append((d * torch.where(norm > 0, wanted / norm, 0.0)).flatten())
        return torch.cat(parts)

    def _losses(self, points: Tensor) -> Tensor:
        """Losses [K] at points [K, n]."""
        (state, context), sets = self.start, len(points)
        batch = len(state)
        graph, lost = with_parameter_sets(self._graph, stacked(points, self._parameters), batch)
        try:
            trajectory = graph.unroll(
                state.repeat(sets, 1),
                len(self._discounts),
                generator=torch.Generator().manual_seed(self.noise_seed),
                context=context.repeat(sets, 1),
            )
        except DivergenceError as error:
            if not error.rows:
                raise
            return points.new_full((sets,), torch.inf)  # no row was left
        returns = (self._discounts[:, None] * trajectory.rewards).sum(0)
        losses = -returns.reshape(sets, batch).mean(1)
        bad = lost.reshape(sets, batch).any(1) | ~losses.detach().isfinite()
        return torch.where(bad, torch.inf, losses)


def _ranges(graph: Graph) -> dict[str, Tensor]:
    """Return half the range of each control, for parameters that are trajectories of them."""
    found = {}
    for name, node in graph.nodes.items():
        if isinstance(node, PolicyNode) and isinstance(node.policy, OpenLoop):
            found[f"nodes.{name}.policy.mean"] = node.policy.squash.unit
    return found
