"""Algorithms: what is done with a task and a graph."""

from mbrl.algorithms.algorithm import Actor, Algorithm, Setting, StateActor
from mbrl.algorithms.fit_dynamics import FitDynamics
from mbrl.algorithms.learned_mpc import LearnedMPC
from mbrl.algorithms.model_predictive_control import ModelPredictiveControl
from mbrl.algorithms.omd import ContinuousOMD, DiscreteOMD, TabularOMD
from mbrl.algorithms.policy_gradient import PolicyGradient
from mbrl.algorithms.trajectory_optimization import TrajectoryOptimization

__all__ = [
    "Actor",
    "Algorithm",
    "ContinuousOMD",
    "DiscreteOMD",
    "FitDynamics",
    "LearnedMPC",
    "ModelPredictiveControl",
    "PolicyGradient",
    "Setting",
    "StateActor",
    "TabularOMD",
    "TrajectoryOptimization",
]
