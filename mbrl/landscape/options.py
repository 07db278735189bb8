"""What a landscape can be asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mbrl.errors import ConfigError

_MOST_POINTS = 2000  # along an axis: four million rollouts


@dataclass(frozen=True)
class LandscapeOptions:
    """Options of ``--mode landscape``, given as ``landscape.points=50``.

    Attributes:
        points: along each axis; an odd number puts the solution itself on the grid.
        span: s; the grid covers [-s, s] in units of the directions.
        directions: random, or principal, along which the loss changes most; see
            ``mbrl.landscape.directions``.
        normalize: filter: directions are scaled as the parameters are, and action sequences by the
            ranges of their controls; none: random directions are standard normal, principal ones
            have norm 1.
        seed: of directions, start states and noise.
        batch: rollouts of a policy whose mean is its loss; null: as many as in training. Their
            length is ``algorithm.horizon``.
        policy: which checkpoint, latest or best; null: the one that the run was evaluated with.
        samples: gradients that principal directions are made of.
        radius: how far from the solution they are taken, in units of random directions.
        scale: of the contour lines: linear; log: evenly spaced in the logarithm of what the loss
            is above its lowest value; auto: log where it spans decades.
    """

    points: int = 100
    span: float = 1.0
    directions: Literal["random", "principal"] = "random"
    normalize: Literal["filter", "none"] = "filter"
    seed: int = 0
    batch: int | None = None
    policy: Literal["latest", "best"] | None = None
    samples: int = 64
    radius: float = 0.1
    scale: Literal["auto", "linear", "log"] = "auto"

    def __post_init__(self) -> None:
        if not 2 <= self.points <= _MOST_POINTS:
            raise ConfigError(f"points must lie in [2, {_MOST_POINTS}], got {self.points}")
        for name, value in (("span", self.span), ("radius", self.radius)):
            if not value > 0:
                raise ConfigError(f"{name} must be positive, got {value}")
        if not 0 <= self.seed < 2**31:
            raise ConfigError(f"seed must lie in [0, 2^31), got {self.seed}")
        if self.batch is not None and self.batch < 1:
            raise ConfigError(f"batch must be at least 1 or null, got {self.batch}")
        if self.samples < 2:
            raise ConfigError(f"samples must be at least 2, got {self.samples}")
