"""Tasks declared in YAML: a model, a cost of named residuals, and what counts as success."""

from mbrl.tasks.residual.cost import Expansion, ResidualCost
from mbrl.tasks.residual.environment import ResidualEnv, register_residual
from mbrl.tasks.residual.norms import NORMS
from mbrl.tasks.residual.residuals import RESIDUALS
from mbrl.tasks.residual.success import Success

__all__ = [
    "NORMS",
    "RESIDUALS",
    "Expansion",
    "ResidualCost",
    "ResidualEnv",
    "Success",
    "register_residual",
]
