"""The loss on a grid of two directions."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mbrl.landscape.directions import directions
from mbrl.landscape.loss import Loss
from mbrl.landscape.options import LandscapeOptions
from mbrl.types import Array


class Surface(NamedTuple):
    r"""Losses :math:`L(\theta + \alpha_i d_1 + \beta_j d_2)` around a solution theta."""

    alpha: Array  # (P)
    beta: Array  # (P)
    losses: Array  # (P, P): entry [j, i] at beta[j], alpha[i]; inf where a rollout diverges
    loss: float  # of the solution itself
    solution: Array  # (n)
    directions: Array  # (2, n)
    shares: Array  # (2): see Directions
    layout: str  # JSON: the shapes of the parameters, by name
    options: str  # JSON: the options

    def save(self, path: Path) -> None:
        """Write an archive that ``numpy.load`` reads without pickles; keys are the names here."""
        arrays: dict[str, Any] = {name: np.asarray(v) for name, v in self._asdict().items()}
        np.savez_compressed(path, **arrays)


def surface(
    loss: Loss,
    options: LandscapeOptions,
    generator: torch.Generator,
    *,
    evaluated: Callable[[int], None] = lambda count: None,
) -> Surface:
    """Evaluate a loss on a grid, as many points at once as fit into memory.

    Args:
        loss: what to evaluate.
        options: the grid and its directions.
        generator: draws the directions.
        evaluated: told, again and again, how many more points of the grid are done.

    Raises:
        ArgumentError: if there are no such directions.
        DivergenceError: if there are no gradients to find principal ones.
    """
    found = directions(loss, options, generator)
    axis = torch.linspace(-options.span, options.span, options.points, dtype=torch.float64)
    if options.points % 2:
        axis[options.points // 2] = 0.0
    beta, alpha = torch.meshgrid(axis, axis, indexing="ij")
    places = torch.stack([alpha.flatten(), beta.flatten()], dim=1)  # (P P, 2)
    values: list[Tensor] = []
    for part in places.split(loss.at_once):
        values.append(loss.values(loss.solution + part @ found.vectors))
        evaluated(len(part))
    return Surface(
        axis.numpy(),
        axis.numpy(),
        torch.cat(values).reshape(alpha.shape).numpy(),
        float(loss.values(loss.solution[None])),
        loss.solution.numpy(),
        found.vectors.numpy(),
        found.shares.numpy(),
        json.dumps(loss.layout),
        json.dumps(dataclasses.asdict(options)),
    )
