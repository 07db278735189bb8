"""Networks: perceptrons, policies, models of dynamics, normalisers; torch only, no simulator."""

from mbrl.nn.devices import Device, find_device
from mbrl.nn.diagnostics import OneStepError, OpenLoopError, one_step_error, open_loop_error
from mbrl.nn.dynamics_model import DynamicsModel, Prediction, Rollout
from mbrl.nn.ensemble import PROPAGATIONS, EnsembleDynamics, Propagation
from mbrl.nn.fitting import FitReport, Fitting, fit
from mbrl.nn.flat_adam import FlatAdam
from mbrl.nn.flat_mlp import FlatMLP
from mbrl.nn.folded_ensemble import FoldedEnsemble, Futures
from mbrl.nn.folding import FoldedMLP
from mbrl.nn.gaussian import GaussianMLP, GaussianPolicy, OpenLoop
from mbrl.nn.mlp import MLP
from mbrl.nn.mlp_dynamics import MLPDynamics
from mbrl.nn.native_passes import threads_to_passes
from mbrl.nn.normalizer import RunningNormalizer
from mbrl.nn.policy import DeterministicMLP, Policy, act
from mbrl.nn.quantized import QuantizedMLP, is_quantizable
from mbrl.nn.quaternions import unit_quaternions
from mbrl.nn.saved import ModelDescription, load_dynamics, load_state_dynamics
from mbrl.nn.squash import Squash, saturated, saturation, soft_lower_bound
from mbrl.nn.stacked_layers import Parameters, Tape

__all__ = [
    "MLP",
    "PROPAGATIONS",
    "DeterministicMLP",
    "Device",
    "DynamicsModel",
    "EnsembleDynamics",
    "FitReport",
    "Fitting",
    "FlatAdam",
    "FlatMLP",
    "FoldedEnsemble",
    "FoldedMLP",
    "Futures",
    "GaussianMLP",
    "GaussianPolicy",
    "MLPDynamics",
    "ModelDescription",
    "OneStepError",
    "OpenLoop",
    "OpenLoopError",
    "Parameters",
    "Policy",
    "Prediction",
    "Propagation",
    "QuantizedMLP",
    "Rollout",
    "RunningNormalizer",
    "Squash",
    "Tape",
    "act",
    "find_device",
    "fit",
    "is_quantizable",
    "load_dynamics",
    "load_state_dynamics",
    "one_step_error",
    "open_loop_error",
    "saturated",
    "saturation",
    "soft_lower_bound",
    "threads_to_passes",
    "unit_quaternions",
]
