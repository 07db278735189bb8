"""Model predictive path integral control: an average weighted by exponentiated costs."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from mbrl.planning.checks import check_counts, check_positive
from mbrl.planning.sampling import SamplingPlanner, SamplingSearch
from mbrl.planning.splines import Interpolation


class _Search(SamplingSearch["MPPI"]):
    kept = (*SamplingSearch.kept, "_iteration", "_effective")

    def _begin(self, memory: Mapping[str, Tensor]) -> None:
        self._iteration, self._effective = 0, math.nan

    def iterate(self) -> None:
        """Draw N splines for every row, and average them."""
        problem, planner = self.problem, self._planner
        noise = self._noise(planner.samples)
        noise[:, 0] = 0  # the nominal itself
        annealed = planner.deviation(self._iteration, len(self._theta), self.iterations)
        deviation = annealed[:, None, None, None] * problem.spread
        nominal = self._theta[:, None]
        theta = problem.clip(nominal + deviation * noise)
        costs, _, _ = problem.compete(self.state, self._acted(theta))
        control = torch.zeros_like(costs)
        if planner.control_cost:
            control = (nominal / deviation**2 * (theta - nominal)).sum((0, -1))
        weights = planner.weights(costs, control)  # (K, B)
        self._effective = _effective(weights)
        self._move((weights[:, :, None] * theta).sum(1), costs.isfinite().any(0))
        self._iteration += 1

    def measured(self) -> dict[str, float]:
        """Effective number of samples, see Kish 1965, averaged over the rows."""
        return {"effective_samples": self._effective}

    def _move(self, theta: Tensor, where: Tensor) -> None:
        """Make knots [P, B, nu] the nominal of the rows ``where`` [B] if they do not diverge."""
        actions = self._acted(theta)
        states, costs = self.problem.rollout(self.state, actions[:, None])
        good = where & costs[0].isfinite()
        self._theta = torch.where(good[:, None], theta, self._theta)
        self._adopt(good, actions, states[:, 0], costs[0])


class MPPI(SamplingPlanner):
    r"""The average of N splines drawn around the nominal one, weighted by their costs.

    .. math:: \theta \leftarrow \sum_k w_k \theta^k, \qquad
              w_k \propto \exp\Bigl(-\frac{J_k - \min J}{\lambda}
              - \theta^\top \Sigma^{-1} \epsilon^k\Bigr), \qquad
              \theta^k = \mathrm{clip}(\theta + \epsilon^k), \qquad \epsilon^k \sim N(0, \Sigma)

    Williams et al. 2017, "Information theoretic MPC for model-based reinforcement learning",
    algorithm 2. The term in :math:`\Sigma` is the control cost: it makes large actions unlikely, as
    it corrects from samples around the nominal to samples around zero. With costs scaled,
    :math:`\lambda` is a temperature times the standard deviation of the costs.

    Annealing (Xue et al. 2024, "Full-order sampling-based MPC for torque-level locomotion control
    via diffusion-style annealing") lowers the noise with the iteration i of I and raises it with
    the knot h of H, as early actions have been improved by the plans before:

    .. math:: \Sigma^{1/2} = \sigma \, s \,
              \exp\Bigl(-\frac{i}{\beta_1 I} - \frac{H - h}{\beta_2 H}\Bigr),
              \qquad i = 0, \ldots, I - 1, \quad h = 1, \ldots, H

    with s the spread of the actions (half their range, 1 without bounds). The first sample is the
    nominal spline. Samples that diverge have weight zero. The average becomes the plan even where
    it costs more than the plan before, as in the original; not where it, or all samples, diverge.

    Args:
        samples: N, with the nominal.
        noise: sigma, relative to the spread.
        temperature: lambda; relative to the costs' standard deviation if they are scaled.
        scale_costs: whether they are.
        control_cost: whether large actions are unlikely.
        anneal_iterations: beta_1; None: the noise is that of every iteration.
        anneal_horizon: beta_2; None: the noise is that of every knot.
        knots: of the spline; None: every action is a knot.
        interpolation: between the knots.
        iterations: how often N splines are drawn.
    """

    search = _Search

    def __init__(
        self,
        *,
        samples: int = 128,
        noise: float = 0.3,
        temperature: float = 0.1,
        scale_costs: bool = True,
        control_cost: bool = False,
        anneal_iterations: float | None = None,
        anneal_horizon: float | None = None,
        knots: int | None = None,
        interpolation: Interpolation = "linear",
        iterations: int = 10,
    ):
        check_counts(samples=samples, iterations=iterations)
        check_positive(
            noise=noise,
            temperature=temperature,
            anneal_iterations=anneal_iterations,
            anneal_horizon=anneal_horizon,
        )
        self.samples, self.noise, self.iterations = samples, noise, iterations
        self.temperature, self.scale_costs = temperature, scale_costs
        self.control_cost = control_cost
        self.anneal_iterations, self.anneal_horizon = anneal_iterations, anneal_horizon
        self.knots, self.interpolation = knots, interpolation

    def deviation(self, iteration: int, knots: int, iterations: int | None = None) -> Tensor:
        """Return the noise of every knot, [P], relative to the spread.

        Args:
            iteration: i, from 0.
            knots: P.
            iterations: I; None: the planner's own.
        """
        iterations = iterations or self.iterations
        exponent = torch.zeros(knots, dtype=torch.float64)
        if self.anneal_iterations is not None:
            done = min(iteration, iterations - 1) / iterations
            exponent -= done / self.anneal_iterations
        if self.anneal_horizon is not None:
            ahead = torch.arange(1, knots + 1, dtype=torch.float64) / knots
            exponent -= (1 - ahead) / self.anneal_horizon
        return self.noise * exponent.exp()

    def weights(self, costs: Tensor, control: Tensor) -> Tensor:
        """Costs and control costs [K, B] -> weights that sum to 1; 0 if a row has no finite cost.

        Args:
            costs: J.
            control: the quadratic form, which is added to J / lambda.
        """
        finite = costs.isfinite()
        costs = torch.where(finite, costs, costs.new_zeros(()))
        scale = costs.new_full(costs.shape[1:], self.temperature)
        if self.scale_costs:
            count = finite.sum(0).clamp(min=1)
            mean = costs.sum(0) / count
            square = torch.where(finite, (costs - mean) ** 2, costs.new_zeros(()))
            scale = scale * (square.sum(0) / count).sqrt()
        scale = scale.clamp(min=torch.finfo(costs.dtype).tiny)  # costs that are all the same
        lowest = torch.where(finite, costs, torch.inf).amin(0)
        logits = torch.where(finite, (lowest - costs) / scale - control, -torch.inf)
        return torch.where(finite.any(0), logits.softmax(dim=0), costs.new_zeros(()))


def _effective(weights: Tensor) -> float:
    """Return the mean of (sum w)^2 / sum w^2 over the rows of [K, B]; 0 where all are zero."""
    squares = (weights**2).sum(0).clamp(min=torch.finfo(weights.dtype).tiny)
    return float((weights.sum(0) ** 2 / squares).mean())
