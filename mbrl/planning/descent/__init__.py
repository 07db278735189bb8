"""Ways down the gradient of a cost by the knots of a spline, by name."""

from collections.abc import Callable

from mbrl.planning.descent.adam import Adam
from mbrl.planning.descent.descent import Descent, Landscape, Point
from mbrl.planning.descent.lbfgs import LBFGS
from mbrl.planning.descent.normalized import Normalized

__all__ = ["OPTIMIZERS", "Descent", "Landscape", "Point"]

OPTIMIZERS: dict[str, Callable[..., Descent]] = {
    "adam": Adam,
    "lbfgs": LBFGS,
    "normalized": Normalized,
}
