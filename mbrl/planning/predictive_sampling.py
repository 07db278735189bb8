"""Predictive sampling: the best of a few perturbations of the last plan."""

from __future__ import annotations

import torch

from mbrl.planning.checks import check_counts, check_positive
from mbrl.planning.sampling import SamplingPlanner, SamplingSearch
from mbrl.planning.splines import Interpolation


class _Search(SamplingSearch["PredictiveSampling"]):
    def iterate(self) -> None:
        """Draw N splines for every row."""
        problem, batch = self.problem, len(self.state)
        noise = self._noise(self._planner.samples)
        noise[:, 0] = 0  # the nominal itself
        scale = self._planner.noise * problem.spread
        theta = problem.clip(self._theta[:, None] + scale * noise)
        before = self._costs
        winner = self._try(theta).argmin(dim=0)
        better = self._costs < before
        self._theta = torch.where(
            better[:, None], theta[:, winner, torch.arange(batch)], self._theta
        )


class PredictiveSampling(SamplingPlanner):
    r"""The best of N splines drawn around the nominal one, the nominal included.

    .. math:: \theta \leftarrow \arg\min_k J(x_0, S \theta^k), \qquad \theta^0 = \theta, \qquad
              \theta^k = \mathrm{clip}(\theta + \sigma \, s \odot \epsilon^k), \qquad
              \epsilon^k \sim N(0, I)

    with s the spread of the actions (half their range, 1 without bounds). Howell et al. 2022,
    "Predictive sampling: real-time behaviour synthesis with MuJoCo".

    Args:
        samples: N, with the nominal.
        noise: sigma, relative to the spread.
        knots: of the spline; None: every action is a knot.
        interpolation: between the knots.
        iterations: how often N splines are drawn.
    """

    search = _Search

    def __init__(
        self,
        *,
        samples: int = 64,
        noise: float = 0.2,
        knots: int | None = None,
        interpolation: Interpolation = "linear",
        iterations: int = 10,
    ):
        check_counts(samples=samples, iterations=iterations)
        check_positive(noise=noise)
        self.samples, self.noise, self.iterations = samples, noise, iterations
        self.knots, self.interpolation = knots, interpolation
