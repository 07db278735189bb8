"""Gradients of those rollouts that have one."""

from __future__ import annotations

import torch
from torch import Tensor

from mbrl.errors import DivergenceError
from mbrl.planning.model import Scene, without
from mbrl.planning.problem import Problem


def finite_gradient(
    problem: Problem,
    states: Tensor,
    actions: Tensor,
    costs: Tensor,
    *,
    scene: Scene | None = None,
    weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Differentiate the rollouts that have a gradient, and say which they are.

    Args:
        problem: what is differentiated.
        states: [T+1, N, nx]; NaN where a row diverged.
        actions: [T, N, nu].
        costs: [N]; infinite where a row diverged.
        scene: of N rows; None: the problem's own.
        weights: see :meth:`Problem.gradient`.

    Returns:
        Gradients [T, N, nu], zero in rows whose cost is not finite, that the model cannot linearise
        or whose gradient is not finite; and which rows [N] are not so.
    """
    scene = scene or problem.scene
    gradient = torch.zeros_like(actions)
    rows = (costs.isfinite() & states.isfinite().all(-1).all(0)).nonzero()[:, 0]
    while len(rows):
        part = scene.rows(rows)
        try:
            found = problem.gradient(states[:, rows], actions[:, rows], scene=part, weights=weights)
        except DivergenceError as error:
            rows = without(rows, error)
        else:
            rows_good = found.isfinite().all(-1).all(0)
            rows = rows[rows_good]
            gradient[:, rows] = found[:, rows_good]
            break
    good = torch.zeros(len(costs), dtype=torch.bool)
    good[rows] = True
    return gradient, good
