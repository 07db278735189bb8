"""Loss landscapes: the loss of a solution along two directions of its parameters."""

from mbrl.landscape.loss import Loss
from mbrl.landscape.options import LandscapeOptions
from mbrl.landscape.policy import PolicyLoss
from mbrl.landscape.surface import Surface, surface
from mbrl.landscape.trajectory import TrajectoryLoss

__all__ = ["LandscapeOptions", "Loss", "PolicyLoss", "Surface", "TrajectoryLoss", "surface"]
