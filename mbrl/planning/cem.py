"""The cross-entropy method: a Gaussian fitted to the best of its own samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from mbrl.errors import ArgumentError
from mbrl.planning.planner import NOTHING, Planner, Search
from mbrl.planning.problem import Problem
from mbrl.planning.sampling import SamplingSearch, check_counts, check_positive
from mbrl.planning.splines import Interpolation, Spline


class CEM(Planner):
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
        check_cem(samples, elites, noise, momentum, floor, iterations)
        self.samples, self.elites, self.noise = samples, elites, noise
        self.momentum, self.floor, self.iterations = momentum, floor, iterations
        self.knots, self.interpolation = knots, interpolation

    def begin(
        self,
        problem: Problem,
        state: Tensor,
        actions: Tensor,
        generator: torch.Generator,
        memory: Mapping[str, Tensor] = NOTHING,
    ) -> Search:
        """See :class:`Planner`."""
        return _Search(self, problem, state, actions, generator)


def check_cem(
    samples: int, elites: int, noise: float, momentum: float, floor: float, iterations: int
) -> None:
    """Check the options of a planner that fits a Gaussian to elites.

    Raises:
        ArgumentError: naming the first that is illegal.
    """
    check_counts(samples=samples, elites=elites, iterations=iterations)
    if elites > samples:
        raise ArgumentError(f"elites must be at most samples = {samples}, got {elites}")
    check_positive(noise=noise)
    if not 0 <= momentum < 1:
        raise ArgumentError(f"momentum must lie in [0, 1), got {momentum}")
    if not floor >= 0:
        raise ArgumentError(f"floor must not be negative, got {floor}")


class GaussianSearch(SamplingSearch):
    """Alternate between drawing a population and fitting a diagonal Gaussian to its elites.

    Args:
        problem: what to solve.
        state: initial states, [B, nx].
        actions: where to begin, [T, B, nu].
        spline: from knots to actions.
        elites: how many samples are fitted.
        noise: first deviation, relative to the spread.
        momentum: share of the old Gaussian in the next.
        floor: least deviation, relative to the spread.
    """

    kept: ClassVar[Sequence[str]] = (*SamplingSearch.kept, "_mean", "_deviation")

    def __init__(
        self,
        problem: Problem,
        state: Tensor,
        actions: Tensor,
        spline: Spline,
        *,
        elites: int,
        noise: float,
        momentum: float,
        floor: float,
    ):
        super().__init__(problem, state, actions, spline)
        self._count, self._momentum, self._floor = elites, momentum, floor * problem.spread
        self._mean = problem.clip(spline.fit(actions))  # (P, B, nu)
        self._deviation = noise * problem.spread.expand_as(self._mean)

    def measured(self) -> dict[str, float]:
        """Deviation of the Gaussian, relative to the spread."""
        return {"deviation": float((self._deviation / self.problem.spread).mean())}

    def _iterate(self, theta: Tensor) -> Tensor:
        """Fit the Gaussian to the elites of [P, N, B, nu]; return them, [P, E, B, nu]."""
        costs = self._try(torch.cat([theta, self._mean[:, None]], dim=1))[:-1]
        lowest, order = costs.sort(dim=0, stable=True)  # (N, B)
        chosen = order[: self._count, :, None].expand(-1, -1, theta.shape[-1])
        elites = theta.gather(1, chosen.expand(len(theta), -1, -1, -1))
        self._fit(elites, lowest[: self._count].isfinite())
        return elites

    def _fit(self, elites: Tensor, good: Tensor) -> None:
        """Move the Gaussian towards the ``good`` [E, B] of elites [P, E, B, nu]."""
        weights = good.to(elites.dtype)[:, :, None]
        weights = weights / weights.sum(0).clamp(min=1)
        mean = (weights * elites).sum(1)
        deviation = (weights * (elites - mean[:, None]) ** 2).sum(1).sqrt()
        some, alpha = good.any(0)[:, None], self._momentum
        blended = alpha * self._deviation + (1 - alpha) * deviation
        self._deviation = torch.where(some, torch.maximum(blended, self._floor), self._deviation)
        self._mean = torch.where(some, alpha * self._mean + (1 - alpha) * mean, self._mean)


class _Search(GaussianSearch):
    def __init__(
        self,
        planner: CEM,
        problem: Problem,
        state: Tensor,
        actions: Tensor,
        generator: torch.Generator,
    ):
        super().__init__(
            problem,
            state,
            actions,
            Spline(problem.horizon, planner.knots, planner.interpolation),
            elites=planner.elites,
            noise=planner.noise,
            momentum=planner.momentum,
            floor=planner.floor,
        )
        self._samples, self._generator = planner.samples, generator

    def iterate(self) -> None:
        """Draw a population, and fit the Gaussian to its elites."""
        knots, batch, nu = self._mean.shape
        shape = knots, self._samples, batch, nu
        noise = torch.randn(shape, generator=self._generator, dtype=torch.float64)
        self._iterate(self.problem.clip(self._mean[:, None] + self._deviation[:, None] * noise))
