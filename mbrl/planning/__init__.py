"""Planners: optimal control over a horizon, on simulated and learned dynamics alike."""

from mbrl.planning.costs import (
    ResidualStage,
    ResidualTerminal,
    RewardCost,
    StageCost,
    TerminalCost,
    ValueTerminal,
)
from mbrl.planning.gradient_shooting import GradientShooting
from mbrl.planning.model import Model, Scene, SimulatorModel, TorchModel, model_of
from mbrl.planning.planner import Plan, Planner, Search
from mbrl.planning.problem import Problem
from mbrl.planning.random_shooting import RandomShooting
from mbrl.planning.variational import Variational

__all__ = [
    "GradientShooting",
    "Model",
    "Plan",
    "Planner",
    "Problem",
    "RandomShooting",
    "ResidualStage",
    "ResidualTerminal",
    "RewardCost",
    "Scene",
    "Search",
    "SimulatorModel",
    "StageCost",
    "TerminalCost",
    "TorchModel",
    "ValueTerminal",
    "Variational",
    "model_of",
]
