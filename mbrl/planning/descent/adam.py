"""Adam on the knots, kept inside their bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from mbrl.errors import ArgumentError
from mbrl.planning.checks import check_at_least, check_positive
from mbrl.planning.descent.descent import Descent, Landscape, Point

_EPS = 1e-8
_HOPELESS = 1e-6  # a rate (in half-ranges) below which a row gives up


class Adam(Descent):
    r"""Adam (Kingma and Ba 2015, algorithm 1), projected, at a rate that falls when it must.

    .. math:: z \leftarrow P\left(z - \eta \, \hat m / (\sqrt{\hat v} + 10^{-8})\right)

    with z in half-ranges of the actions, and moments of the gradient without what pushes against
    an active bound. Adam's steps hardly shrink with the gradient: at a constant rate it ends up
    circling the optimum, or wanders off where gradients are chaotic. A row that has not improved
    on its best knots for ``patience`` steps, or whose rollout has no gradient because it diverged,
    therefore returns to them, forgets its moments, and goes on at half its rate.

    Args:
        lr: eta at first, as a share of half the range of an action.
        betas: decay rates of the moments.
        patience: see above; None: Adam as it is, but for rows that diverge.
    """

    def __init__(
        self, *, lr: float = 0.1, betas: Sequence[float] = (0.9, 0.999), patience: int | None = 5
    ):
        check_positive(lr=lr)
        check_at_least(2, patience=patience)
        self._lr, self._betas, self._patience = lr, checked_betas(betas), patience

    def begin(self, point: Point) -> Mapping[str, Tensor]:
        """See :class:`Descent`."""
        return {
            **no_moments(point.knots),
            "rate": torch.full_like(point.costs, self._lr),
            "home": point.knots,  # the best with a gradient
            "lowest": torch.full_like(point.costs, torch.inf),  # the cost there
            "waited": torch.zeros_like(point.costs),
        }

    def step(
        self,
        landscape: Landscape,
        here: Point,
        gradient: Tensor,
        good: Tensor,
        memory: Mapping[str, Tensor],
    ) -> tuple[Point, Mapping[str, Tensor], Tensor]:
        """See :class:`Descent`."""
        improved = good & (here.costs < memory["lowest"])
        home = torch.where(improved[:, None], here.knots, memory["home"])
        lowest = torch.where(improved, here.costs, memory["lowest"])
        waited = torch.where(improved, 0.0, memory["waited"] + 1)
        back = ~good
        if self._patience is not None:
            back = back | (waited >= self._patience)
        inward = landscape.inward(here.knots, gradient)
        direction, moments = adapted(inward, good, memory, self._betas)
        rate = torch.where(back, 0.5 * memory["rate"], memory["rate"])
        moved = landscape.project(here.knots - rate[:, None] * direction)
        knots = torch.where(back[:, None], home, moved)
        there = landscape(knots[:, None]).candidate(torch.zeros(len(good), dtype=torch.long))
        after = {
            **{name: torch.where(_rows(back, m), 0.0, m) for name, m in moments.items()},
            "rate": rate,
            "home": home,
            "lowest": lowest,
            "waited": torch.where(back, 0.0, waited),
        }
        nowhere = ~good & (here.knots == home).all(-1).all(0)
        return there, after, nowhere | (rate < _HOPELESS)


def checked_betas(betas: Sequence[float]) -> tuple[float, float]:
    """Return decay rates of moments.

    Raises:
        ArgumentError: if they are not two numbers in [0, 1).
    """
    if len(betas) != 2 or not all(0 <= beta < 1 for beta in betas):
        raise ArgumentError(f"betas must be two numbers in [0, 1), got {list(betas)}")
    return betas[0], betas[1]


def no_moments(like: Tensor) -> dict[str, Tensor]:
    """Return Adam's memory of gradients [..., B, n] before the first: m, v and their count [B]."""
    return {
        "first": torch.zeros_like(like),
        "second": torch.zeros_like(like),
        "count": like.new_zeros(like.shape[-2]),
    }


def adapted(
    gradient: Tensor, rows: Tensor, memory: Mapping[str, Tensor], betas: tuple[float, float]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return Adam's direction, and its memory after this gradient.

    Args:
        gradient: [..., B, n].
        rows: which rows [B] have one; the others do not move, and remember what they did.
        memory: see :func:`no_moments`.
        betas: decay rates.

    Returns:
        The direction [..., B, n], to be subtracted, and the memory.
    """
    first = torch.lerp(gradient, memory["first"], betas[0])
    second = torch.lerp(gradient.square(), memory["second"], betas[1])
    count = memory["count"] + 1
    mean = first / (1 - betas[0] ** count)[:, None]
    deviation = (second / (1 - betas[1] ** count)[:, None]).sqrt()
    found = {"first": first, "second": second, "count": count}
    moments = {
        name: torch.where(_rows(rows, new), new, memory[name]) for name, new in found.items()
    }
    return torch.where(rows[:, None], mean / (deviation + _EPS), 0.0), moments


def _rows(rows: Tensor, like: Tensor) -> Tensor:
    """Rows [B], to be broadcast against [B] or [..., B, n]."""
    return rows if like.ndim == 1 else rows[:, None]
