"""MuJoCo as pure batched functions on NumPy arrays: state space, simulation, Jacobians."""

from mbrl.physics.engine import quiet
from mbrl.physics.simulator import Simulator
from mbrl.physics.state import StateSpec

__all__ = ["Simulator", "StateSpec", "quiet"]
