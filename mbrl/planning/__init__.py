"""Planners: optimal control over a horizon, on simulated and learned dynamics alike."""

from mbrl.planning.cem import CEM
from mbrl.planning.cma_es import CMAES
from mbrl.planning.costs import (
    ResidualStage,
    ResidualTerminal,
    RewardCost,
    StageCost,
    TerminalCost,
    ValueTerminal,
)
from mbrl.planning.icem import ICEM
from mbrl.planning.model import Model, Scene, SimulatorModel, TorchModel, model_of
from mbrl.planning.mppi import MPPI
from mbrl.planning.planner import Plan, Planner, Search
from mbrl.planning.predictive_sampling import PredictiveSampling
from mbrl.planning.problem import Problem
from mbrl.planning.random_shooting import RandomShooting

__all__ = [
    "CEM",
    "CMAES",
    "ICEM",
    "MPPI",
    "Model",
    "Plan",
    "Planner",
    "PredictiveSampling",
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
    "model_of",
]
