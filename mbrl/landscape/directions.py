r"""Two directions in the space of parameters.

* random: two standard normal vectors, as in Model-Based-RL; by default filter-normalised (Li et al.
  2018, section 4).
* principal: the two along which the loss changes most, on average near the solution: the leading
  eigenvectors of

  .. math:: C = \frac{1}{M} \sum_{m=1}^{M} g_m g_m^\top, \qquad
            g_m = \nabla_\varphi L(\theta + r \, d_m), \qquad \varphi = \theta / h,

  with random directions d_m and h the parameters' units (half the range of a control, 1 for weights
  of a network): the active subspace (Constantine, Dow and Wang 2014, section 2). The gradients are
  those through the physics. At an optimum, where :math:`g_m \approx r H d_m`, these are the
  directions of largest curvature. By default they are as long as random ones, in units of phi.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mbrl.errors import ArgumentError, DivergenceError
from mbrl.landscape.loss import Loss
from mbrl.landscape.options import LandscapeOptions


class Directions(NamedTuple):
    """What the axes of a landscape are."""

    vectors: Tensor  # (2, n)
    shares: Tensor  # (2): of the trace of C that principal ones explain; NaN of random ones


def directions(loss: Loss, options: LandscapeOptions, generator: torch.Generator) -> Directions:
    """Return the directions that options ask for.

    Raises:
        ArgumentError: if there are fewer than two parameters, or no gradients.
        DivergenceError: if the loss is finite nowhere near the solution.
    """
    if len(loss.solution) < 2:
        raise ArgumentError(
            f"landscape: two directions need two parameters, got {len(loss.solution)}"
        )
    if options.directions == "principal":
        found = _principal(loss, options, generator)
    else:
        vectors = torch.stack([_random(loss, options, generator) for _ in range(2)])
        found = Directions(vectors, torch.full((2,), torch.nan, dtype=torch.float64))
    if not (found.vectors.norm(dim=1) > 0).all():
        raise ArgumentError(
            "landscape.normalize: filter scales directions as the parameters are, and these are "
            "all zero; legal: none"
        )
    return found


def _random(loss: Loss, options: LandscapeOptions, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(len(loss.solution), generator=generator, dtype=torch.float64)
    return loss.filtered(drawn) if options.normalize == "filter" else drawn


def _principal(loss: Loss, options: LandscapeOptions, generator: torch.Generator) -> Directions:
    near = [_random(loss, options, generator) for _ in range(options.samples)]
    gradients = loss.gradients(loss.solution + options.radius * torch.stack(near))
    gradients = gradients[gradients.isfinite().all(1)] * loss.unit  # by phi
    if len(gradients) < 2:
        raise DivergenceError(
            f"landscape.radius: rollouts diverge in {options.samples - len(gradients)} of "
            f"{options.samples} places {options.radius:g} away from the solution: make it smaller"
        )
    _, sizes, axes = torch.linalg.svd(gradients, full_matrices=False)
    total = sizes.square().sum()
    if not total > 0:
        raise ArgumentError(
            "landscape.directions: the loss does not change near the solution; legal: random"
        )
    # The sign of an eigenvector is nobody's: its largest entry is made positive.
    chosen = axes[:2]
    largest = chosen.gather(1, chosen.abs().argmax(1, keepdim=True))
    vectors = chosen * largest.sign() * loss.unit  # by theta
    lengths = (torch.stack(near) / loss.unit).norm(dim=1)
    if options.normalize == "filter":
        vectors = vectors * lengths.square().mean().sqrt()
    else:
        vectors = vectors / vectors.norm(dim=1, keepdim=True)
    return Directions(vectors, sizes[:2].square() / total)
