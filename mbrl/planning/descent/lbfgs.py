"""Limited-memory BFGS on the knots that no bound holds."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mbrl.errors import ArgumentError
from mbrl.planning.checks import check_at_least, check_counts
from mbrl.planning.descent.descent import Descent, Landscape, Point

_NEAR = 1e-3  # a knot this near to a bound (in half-ranges), pushed towards it, counts as held
_CURVED = 1e-10  # smallest cosine of the angle between s and y of a pair that is used
_TINY = 1e-300  # in place of a length of zero
_HOPELESS = 1e-9  # a line search along the gradient that begins below this is the last


class LBFGS(Descent):
    r"""Projected quasi-Newton steps with a parallel line search.

    .. math:: z(a) = P(z + a d), \qquad d_F = -H_{FF} \, g_F, \quad d_A = -g_A

    A are the knots at or near a bound that the gradient pushes against it, F the free ones
    (Bertsekas 1982, "Projected Newton methods for optimization problems with simple constraints").
    H_FF is the two-loop recursion on the free entries of the last m pairs
    s = z' - z, y = g' - g, of those pairs with s'y > 0 there (limited memory on a subspace as in
    Byrd, Lu, Nocedal and Zhu 1995, section 5). Every row has its own history.

    All step lengths 1, 1/r, r, r^2, ... are rolled out in one batch. Among those with Armijo's
    decrease, :math:`f(z(a)) \le f(z) + c \, g^\top (z(a) - z)` with a negative product, the best
    wins. A row that has none forgets its history; one that has no history shortens its step a
    thousandfold, and gives up where that is hopeless.

    Args:
        history: m.
        step_lengths: how many lengths are tried.
        contraction: r.
        decrease: c.
    """

    def __init__(
        self,
        *,
        history: int = 20,
        step_lengths: int = 10,
        contraction: float = 0.4,
        decrease: float = 1e-4,
    ):
        check_counts(history=history)
        check_at_least(2, step_lengths=step_lengths)
        for name, value in (("contraction", contraction), ("decrease", decrease)):
            if not 0 < value < 1:
                raise ArgumentError(f"{name} must lie between 0 and 1, got {value}")
        self._history, self._decrease = history, decrease
        # The full step first: of equal costs the first wins.
        exponents = torch.tensor([0, -1, *range(1, step_lengths - 1)], dtype=torch.float64)
        self._lengths = contraction**exponents  # (K)

    def begin(self, point: Point) -> Mapping[str, Tensor]:
        """See :class:`Descent`."""
        flat = _flat(point.knots)
        pairs = flat.new_zeros(self._history, *flat.shape)
        return {
            "moves": pairs,  # (m, B, n), newest last; zero: none
            "changes": pairs,
            "knots": flat,  # where the row was, and the gradient there
            "gradient": torch.zeros_like(flat),
            "reach": torch.ones_like(point.costs),  # of a first step along the gradient
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
        x, g = _flat(here.knots), _flat(gradient)
        s, y = _remembered(x, g, memory)
        direction = _direction(landscape, here.knots, gradient, s, y, memory["reach"])
        tried = landscape.project(
            here.knots[:, None] - self._lengths[:, None, None] * direction[:, None]
        )
        found = landscape(tried)
        slope = (gradient[:, None] * (tried - here.knots[:, None])).sum((0, 3))  # (K, B)
        enough = (slope < 0) & (found.costs <= here.costs + self._decrease * slope)
        best = found.candidate(torch.where(enough, found.costs, torch.inf).argmin(0))
        moved = enough.any(0) & good
        there = best.where(moved, here)
        size = (_flat(there.knots) - x).abs().amax(1)
        had = (s.abs().amax((0, 2)) > 0) & good
        reach = torch.where(moved, size, memory["reach"])
        reach = torch.where(moved | had, reach, 1e-3 * memory["reach"])
        kept = moved[:, None]
        after = {
            "moves": torch.where(kept, s, 0.0),
            "changes": torch.where(kept, y, 0.0),
            "knots": x,
            "gradient": g,
            "reach": reach,
        }
        return there, after, ~good | (~moved & ~had & (reach < _HOPELESS))


def _direction(
    landscape: Landscape, knots: Tensor, gradient: Tensor, s: Tensor, y: Tensor, reach: Tensor
) -> Tensor:
    """Return -d [P, B, nu]: quasi-Newton on the free knots, the gradient on those held."""
    residual = landscape.residual(knots, gradient)
    near = residual.abs().amax((0, 2)).clamp(max=_NEAR)[:, None]
    low, high = landscape.low + near, landscape.high - near  # (B, nu)
    held = _flat(torch.where(gradient > 0, knots <= low, knots >= high))
    g = _flat(gradient)
    free = torch.where(held, 0.0, g)
    newton, informed = _two_loops(free, *(torch.where(held, 0.0, part) for part in (s, y)))
    steepest = free * (reach / free.abs().amax(1).clamp(min=_TINY))[:, None]
    sound = informed & (_cosine(newton, free) > _CURVED)
    direction = torch.where(held, g, torch.where(sound[:, None], newton, steepest))
    return direction.unflatten(-1, (len(knots), -1)).transpose(0, 1)


def _remembered(x: Tensor, g: Tensor, memory: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Return the histories [m, B, n] with the last move, in rows where it saw curvature."""
    s, y = x - memory["knots"], g - memory["gradient"]
    curved = (_cosine(s, y) > _CURVED)[:, None]
    return (
        torch.where(curved, torch.cat([memory["moves"][1:], s[None]]), memory["moves"]),
        torch.where(curved, torch.cat([memory["changes"][1:], y[None]]), memory["changes"]),
    )


def _two_loops(g: Tensor, s: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return H g [B, n], and which rows [B] have a pair among their histories [m, B, n].

    Source: Nocedal and Wright 2006, algorithm 7.4.
    """
    used = _cosine(s, y) > _CURVED  # (m, B)
    curvature = (s * y).sum(-1)
    rho = torch.where(used, 1 / torch.where(used, curvature, 1.0), 0.0)
    scale = torch.ones_like(rho[0])
    for use, sy, change in zip(used, curvature, y, strict=True):  # the newest pair has the last say
        scale = torch.where(use, sy / change.square().sum(-1).clamp(min=_TINY), scale)
    alphas, q = [], g
    for i in range(len(s) - 1, -1, -1):
        alphas.append(rho[i] * (s[i] * q).sum(-1))
        q = q - alphas[-1][:, None] * y[i]
    r = scale[:, None] * q
    for i, alpha in enumerate(reversed(alphas)):
        beta = rho[i] * (y[i] * r).sum(-1)
        r = r + (alpha - beta)[:, None] * s[i]
    return r, used.any(0)


def _cosine(a: Tensor, b: Tensor) -> Tensor:
    """Of the angle between vectors [..., n]; 0 if one is zero."""
    length = a.norm(dim=-1) * b.norm(dim=-1)
    return (a * b).sum(-1) / length.clamp(min=_TINY)


def _flat(knots: Tensor) -> Tensor:
    """[P, B, nu] -> [B, P nu]."""
    return knots.transpose(0, 1).flatten(1)
