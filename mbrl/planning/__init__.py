"""Planners: optimal control over a horizon, on simulated and learned dynamics alike."""

from mbrl.planning.building import (
    DEFAULT_PLANNER,
    PlannerChoice,
    SmoothingChoice,
    make_planner,
    make_problem,
    model_of,
    observed_problem,
)
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
from mbrl.planning.gradient_shooting import GradientShooting
from mbrl.planning.icem import ICEM
from mbrl.planning.ilqr import ILQR
from mbrl.planning.learned_model import (
    LearnedEnsemble,
    LearnedMLP,
    LearnedModel,
    PropagationOptions,
    learned_model,
)
from mbrl.planning.model import Model, Scene, SimulatorModel, TorchModel
from mbrl.planning.mppi import MPPI
from mbrl.planning.node import PlanNode
from mbrl.planning.observed import ObservedStage, ObservingController, PredictedReward
from mbrl.planning.planner import Plan, Planner, Search
from mbrl.planning.predictive_sampling import PredictiveSampling
from mbrl.planning.problem import Policy, Problem
from mbrl.planning.random_shooting import RandomShooting
from mbrl.planning.receding_horizon import RecedingHorizon, Schedule, Tail
from mbrl.planning.sampling import SamplingPlanner
from mbrl.planning.variational import Variational

__all__ = [
    "CEM",
    "CMAES",
    "DEFAULT_PLANNER",
    "ICEM",
    "ILQR",
    "MPPI",
    "GradientShooting",
    "LearnedEnsemble",
    "LearnedMLP",
    "LearnedModel",
    "Model",
    "ObservedStage",
    "ObservingController",
    "Plan",
    "PlanNode",
    "Planner",
    "PlannerChoice",
    "Policy",
    "PredictedReward",
    "PredictiveSampling",
    "Problem",
    "PropagationOptions",
    "RandomShooting",
    "RecedingHorizon",
    "ResidualStage",
    "ResidualTerminal",
    "RewardCost",
    "SamplingPlanner",
    "Scene",
    "Schedule",
    "Search",
    "SimulatorModel",
    "SmoothingChoice",
    "StageCost",
    "Tail",
    "TerminalCost",
    "TorchModel",
    "ValueTerminal",
    "Variational",
    "learned_model",
    "make_planner",
    "make_problem",
    "model_of",
    "observed_problem",
]
