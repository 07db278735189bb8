"""Differentiable ops: MuJoCo's physics as ``torch.autograd.Function``s."""

from mbrl.ops.batch import batched
from mbrl.ops.dynamics import MujocoDynamics
from mbrl.ops.fields import MujocoFields
from mbrl.ops.first_order import FirstOrderOp
from mbrl.ops.parameters import ParametricDynamics
from mbrl.ops.rollout import MujocoRollout, Rollout
from mbrl.ops.surrogate import SurrogateDynamics

__all__ = [
    "FirstOrderOp",
    "MujocoDynamics",
    "MujocoFields",
    "MujocoRollout",
    "ParametricDynamics",
    "Rollout",
    "SurrogateDynamics",
    "batched",
]
