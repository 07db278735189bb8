"""The normalised gradient, with all step lengths tried at once."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mbrl.errors import ArgumentError
from mbrl.planning.checks import check_at_least
from mbrl.planning.descent.descent import Descent, Landscape, Point


class Normalized(Descent):
    r"""Steepest descent with a parallel line search along the projected path.

    .. math:: z(a) = P\left(z - a \, g / \max_i |g_i|\right), \qquad
              z \leftarrow \arg\min_{a \in \{0, a_1, \ldots, a_K\}} f(z(a))

    The K step lengths are log-spaced, in half-ranges of the knot that moves fastest, and rolled out
    in one batch; the best wins, so that no step makes the plan worse. What pushes against an active
    bound does not count in g. A row that no length improves has converged, as far as this method
    goes.

    Source: the gradient planner of MuJoCo MPC (Howell et al. 2022, "Predictive sampling: real-time
    behaviour synthesis with MuJoCo"), whose gradient is not normalised, so that its lengths depend
    on the scale of the cost.

    Args:
        step_lengths: K.
        longest: a_1.
        shortest: a_K.
    """

    def __init__(self, *, step_lengths: int = 16, longest: float = 1.0, shortest: float = 1e-4):
        check_at_least(2, step_lengths=step_lengths)
        if not 0 < shortest < longest:
            raise ArgumentError(
                f"shortest must lie between 0 and longest {longest}, got {shortest}"
            )
        ratio = torch.tensor(shortest / longest, dtype=torch.float64)
        exponents = torch.linspace(0.0, 1.0, step_lengths, dtype=torch.float64)
        self._lengths = longest * ratio**exponents  # (K)

    def begin(self, point: Point) -> Mapping[str, Tensor]:
        """See :class:`Descent`; there is nothing to remember."""
        return {}

    def step(
        self,
        landscape: Landscape,
        here: Point,
        gradient: Tensor,
        good: Tensor,
        memory: Mapping[str, Tensor],
    ) -> tuple[Point, Mapping[str, Tensor], Tensor]:
        """See :class:`Descent`."""
        inward = landscape.inward(here.knots, gradient)
        steepest = inward.abs().amax((0, 2))[:, None]  # (B, 1)
        direction = torch.where(steepest > 0, inward / steepest, 0.0)
        moves = self._lengths[:, None, None] * direction[:, None]  # (P, K, B, nu)
        found = landscape(landscape.project(here.knots[:, None] - moves))
        best = found.candidate(found.costs.argmin(0))
        # Rollouts of another batch size may differ in rounding: what did not move is no better.
        improved = (best.costs < here.costs) & (steepest[:, 0] > 0)
        return best.where(improved, here), memory, ~improved
