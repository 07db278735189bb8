"""The cross-entropy method: a Gaussian fitted to the best of its own samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, TypeVar

import torch
from torch import Tensor

from mbrl.errors import ArgumentError
from mbrl.planning.checks import check_counts, check_not_negative, check_positive
from mbrl.planning.sampling import SamplingPlanner, SamplingSearch
from mbrl.planning.splines import Interpolation


class GaussianPlanner(SamplingPlanner):
    """A planner that fits a Gaussian to elites.

    Args:
        samples: how many are drawn.
        elites: how many are fitted, at most all.
        noise: first deviation, relative to the spread of the actions.
        momentum: share of the old Gaussian in the next.
        floor: least deviation, relative to the spread.
        iterations: populations.

    Raises:
        ArgumentError: if a number is out of its range.
    """

    def __init__(
        self,
        *,
        samples: int,
        elites: int,
        noise: float,
        momentum: float,
        floor: float,
        iterations: int,
    ):
        check_counts(samples=samples, elites=elites, iterations=iterations)
        if elites > samples:
            raise ArgumentError(f"elites must be at most samples = {samples}, got {elites}")
        check_positive(noise=noise)
        check_not_negative(floor=floor)
        if not 0 <= momentum < 1:
            raise ArgumentError(f"momentum must lie in [0, 1), got {momentum}")
        self.samples, self.elites, self.noise = samples, elites, noise
        self.momentum, self.floor, self.iterations = momentum, floor, iterations


G = TypeVar("G", bound=GaussianPlanner)


class GaussianSearch(SamplingSearch[G]):
    """Alternate between drawing a population and fitting a diagonal Gaussian to its elites.

    Its mean is the nominal spline.
    """

    kept: ClassVar[Sequence[str]] = (*SamplingSearch.kept, "_deviation")

    def _begin(self, memory: Mapping[str, Tensor]) -> None:
        spread = self.problem.spread
        self._floor = self._planner.floor * spread
        self._deviation = self._planner.noise * spread.expand_as(self._theta)

    def measured(self) -> dict[str, float]:
        """Deviation of the Gaussian, relative to the spread."""
        return {"deviation": float((self._deviation / self.problem.spread).mean())}

    def _iterate(self, theta: Tensor) -> Tensor:
        """Fit the Gaussian to the elites of [P, N, B, nu]; return them, [P, E, B, nu]."""
        costs = self._try(torch.cat([theta, self._theta[:, None]], dim=1))[:-1]
        lowest, order = costs.sort(dim=0, stable=True)  # (N, B)
        chosen = order[: self._planner.elites, :, None].expand(-1, -1, theta.shape[-1])
        elites = theta.gather(1, chosen.expand(len(theta), -1, -1, -1))
        self._fit(elites, lowest[: self._planner.elites].isfinite())
        return elites

    def _fit(self, elites: Tensor, good: Tensor) -> None:
        """Move the Gaussian towards the ``good`` [E, B] of elites [P, E, B, nu]."""
        weights = good.to(elites.dtype)[:, :, None]
        weights = weights / weights.sum(0).clamp(min=1)
        mean = (weights * elites).sum(1)
        deviation = (weights * (elites - mean[:, None]) ** 2).sum(1).sqrt()
        some, alpha = good.any(0)[:, None], self._planner.momentum
        blended = alpha * self._deviation + (1 - alpha) * deviation
        self._deviation = torch.where(some, torch.maximum(blended, self._floor), self._deviation)
        self._theta = torch.where(some, alpha * self._theta + (1 - alpha) * mean, self._theta)


class _Search(GaussianSearch["CEM"]):
    def iterate(self) -> None:
        """Draw a population, and fit the Gaussian to its elites."""
        noise = self._noise(self._planner.samples)
        self._iterate(self.problem.clip(self._theta[:, None] + self._deviation[:, None] * noise))


class CEM(GaussianPlanner):
    r"""A diagonal Gaussian over knots, fitted to the E best of N samples.

    .. math:: \theta^k = \mathrm{clip}(\mu + \sigma \odot \epsilon^k), \qquad
              \mu \leftarrow \alpha \mu + (1 - \alpha) \, \mathrm{mean}_E \theta, \qquad
              \sigma \leftarrow
              \max(\alpha \sigma + (1 - \alpha) \, \mathrm{std}_E \theta, \underline\sigma s)

    with s the spread of the actions (half their range, 1 without bounds) and the population's
    standard deviation, :math:`\mathrm{std}^2 = \tfrac1E \sum (\theta - \bar\theta)^2`. Rubinstein
    and Kroese 2004, "The cross-entropy method"; with the momentum of Chua et al. 2018, "Deep
    reinforcement learning in a handful of trials using probabilistic dynamics models".

    The mean is evaluated with every population and may become the plan, the best sequence found so
    far, but it is no sample: counted among the elites it would narrow the next Gaussian. Samples
    that diverge are no elites; where all do, the Gaussian stays.

    Args:
        samples: N.
        elites: E, at most N.
        noise: sigma of the first population, relative to the spread.
        momentum: alpha, in [0, 1).
        floor: least sigma, relative to the spread.
        knots: of the spline; None: every action is a knot.
        interpolation: between the knots.
        iterations: populations.
    """

    search = _Search

    def __init__(
        self,
        *,
        samples: int = 200,
        elites: int = 20,
        noise: float = 0.5,
        momentum: float = 0.1,
        floor: float = 0.01,
        knots: int | None = None,
        interpolation: Interpolation = "linear",
        iterations: int = 5,
    ):
        super().__init__(
            samples=samples,
            elites=elites,
            noise=noise,
            momentum=momentum,
            floor=floor,
            iterations=iterations,
        )
        self.knots, self.interpolation = knots, interpolation
