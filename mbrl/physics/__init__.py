"""MuJoCo as pure batched functions on NumPy arrays: state space, simulation, Jacobians."""

from mbrl.physics.differences import ManifoldDifference
from mbrl.physics.engine import quiet
from mbrl.physics.linearization import converge
from mbrl.physics.parameters import ModelParameters
from mbrl.physics.parametric import ParametricSimulator
from mbrl.physics.sensing import Probe, Sensing
from mbrl.physics.simulator import Simulator
from mbrl.physics.smoothing import (
    SMOOTHINGS,
    ImpedanceSmoothing,
    RandomizedSmoothing,
    Smoothing,
    smoothing_of,
)
from mbrl.physics.smoothing_bias import SmoothingBias, smoothing_bias
from mbrl.physics.state import StateSpec
from mbrl.physics.step_difference import bounds

__all__ = [
    "SMOOTHINGS",
    "ImpedanceSmoothing",
    "ManifoldDifference",
    "ModelParameters",
    "ParametricSimulator",
    "Probe",
    "RandomizedSmoothing",
    "Sensing",
    "Simulator",
    "Smoothing",
    "SmoothingBias",
    "StateSpec",
    "bounds",
    "converge",
    "quiet",
    "smoothing_bias",
    "smoothing_of",
]
