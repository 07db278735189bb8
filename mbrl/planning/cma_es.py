"""Covariance matrix adaptation, by the package of its author."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbrl.planning.checks import check_at_least, check_counts, check_positive
from mbrl.planning.sampling import SamplingPlanner, SamplingSearch
from mbrl.planning.splines import Interpolation
from mbrl.types import Array

_LEAST_SAMPLES = 4
_LARGEST_SEED = 2**63 - 1


class _Search(SamplingSearch["CMAES"]):
    kept = (*SamplingSearch.kept, "_seeds", "_told")

    def _begin(self, memory: Mapping[str, Tensor]) -> None:
        self._seeds: Tensor | None = None  # [B]
        self._told: list[Tensor] = []  # costs [N, B] of every iteration
        self._rows: list[_Strategy] = []

    def iterate(self) -> None:
        """Ask for a population, and tell what it costs."""
        if self._seeds is None:
            batch = len(self.state)
            self._seeds = torch.randint(_LARGEST_SEED, (batch,), generator=self._generator)
            self._rows = self._strategies(self._seeds)
        asked = np.stack([row.ask() for row in self._rows], axis=1)  # (N + 1, B, P nu)
        shape = len(asked), len(self._rows), self._spline.knots, -1
        scaled = torch.from_numpy(asked).reshape(shape).permute(2, 0, 1, 3)
        costs = self._try(self.problem.clip(scaled * self.problem.spread))[:-1]
        self._tell(costs)
        self._told = [*self._told, costs]

    def measured(self) -> dict[str, float]:
        """Step size relative to the spread, averaged over the rows."""
        return {"step_size": float(np.mean([row.step_size for row in self._rows] or [math.nan]))}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See :class:`Search`; tells new strategies what the old ones were told."""
        super().load_state_dict(state)
        self._rows = [] if self._seeds is None else self._strategies(self._seeds)
        for costs in self._told:
            for row in self._rows:
                row.ask()
            self._tell(costs)

    def _strategies(self, seeds: Tensor) -> list[_Strategy]:
        problem, knots = self.problem, self._spline.knots
        spread = problem.spread
        low, high = (
            (bound / spread).repeat(knots).numpy() for bound in (problem.low, problem.high)
        )
        starts = (self._theta / spread).transpose(0, 1).flatten(1).numpy()  # (B, P nu)
        return [
            _Strategy(start, low, high, int(seed), self._planner)
            for start, seed in zip(starts, seeds, strict=True)
        ]

    def _tell(self, costs: Tensor) -> None:
        for row, told in zip(self._rows, costs.unbind(1), strict=True):
            row.tell(told.numpy())


class CMAES(SamplingPlanner):
    r"""A Gaussian over knots whose mean, step size and covariance are adapted, one for every row.

    .. math:: \theta^k = s \odot b(m + \varsigma \, C^{1/2} \epsilon^k), \qquad
              \epsilon^k \sim N(0, I), \qquad
              m \leftarrow \sum_{k \le \mu} w_k x^{k:N}

    where :math:`x^{k:N}` is the k-th best of N samples, s the spread of the actions (half their
    range, 1 without bounds), and :math:`\varsigma` and C follow evolution paths: Hansen 2016, "The
    CMA evolution strategy: a tutorial", appendix A, with negative weights, as in the package `cma`.
    The function b folds the line into the bounds, linear inside and quadratic near them (the
    package's BoundTransform): every sample is legal, and the mean cannot drift away where clipping
    would make the cost flat.

    The strategy is told ranks, on which alone it depends; samples that diverge rank last, and an
    iteration in which all do changes nothing. The mean is evaluated with every population; the plan
    is the best sequence of all. The rows are independent: each has a seed of its own, drawn in the
    first iteration, the only randomness taken from the generator. The state of a search is its
    start, these seeds and the costs told, which are told again when it is restored.

    Args:
        samples: N, at least 4; None: 4 + 3 ln n for n numbers.
        noise: the first step size, relative to the spread.
        diagonal: whether C is diagonal; cheaper, for hundreds of numbers.
        knots: of the spline; None: every action is a knot.
        interpolation: between the knots.
        iterations: populations.
    """

    search = _Search

    def __init__(
        self,
        *,
        samples: int | None = None,
        noise: float = 0.3,
        diagonal: bool = False,
        knots: int | None = None,
        interpolation: Interpolation = "linear",
        iterations: int = 20,
    ):
        check_at_least(_LEAST_SAMPLES, samples=samples)
        check_counts(iterations=iterations)
        check_positive(noise=noise)
        self.samples, self.noise, self.diagonal = samples, noise, diagonal
        self.knots, self.interpolation, self.iterations = knots, interpolation, iterations


class _Strategy:
    """One row's strategy, over P nu numbers relative to the spread of the actions."""

    def __init__(self, start: Array, low: Array, high: Array, seed: int, planner: CMAES):
        random = np.random.default_rng(seed)
        options = {
            "bounds": [list(low), list(high)],
            "CMA_diagonal": planner.diagonal,
            "CMA_mirrors": 0,
            "maxstd": np.inf,  # else a third of the range, and an error where one number is sought
            # Instead of NumPy's global generator, which is then neither seeded nor drawn from.
            "randn": lambda *shape: random.standard_normal(shape),
            "signals_filename": None,  # read no file
            "verbose": -9,
        }
        if planner.samples is not None:
            options["popsize"] = planner.samples
        with _silenced():
            # Here, because it imports matplotlib, which takes longer than all of this package.
            import cma

            options["AdaptSigma"] = cma.sigma_adaptation.CMAAdaptSigmaCSA
            inside = np.clip(start, low, high)
            self._strategy = cma.CMAEvolutionStrategy(inside, planner.noise, options)
        self._asked: list[Array] = []

    @property
    def step_size(self) -> float:
        """The overall step size."""
        return float(self._strategy.sigma)

    def ask(self) -> Array:
        """Return N samples and, last, their mean, [N + 1, P nu]."""
        strategy = self._strategy
        with _silenced():
            self._asked = strategy.ask()
            mean = strategy.gp.pheno(strategy.mean, into_bounds=strategy.boundary_handler.repair)
        return np.stack([*self._asked, mean])

    def tell(self, costs: Array) -> None:
        """Tell the costs [N] of the samples asked for last."""
        if np.isfinite(costs).any():
            ranks = costs.argsort(kind="stable").argsort(kind="stable")
            with _silenced():
                self._strategy.tell(self._asked, ranks.astype(float).tolist())


@contextmanager
def _silenced() -> Iterator[None]:
    """Keep the package's warnings, and what it does to their filters, to itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
