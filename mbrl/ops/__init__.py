"""Differentiable ops: MuJoCo's physics as ``torch.autograd.Function``s, and implicit gradients."""

from mbrl.ops.adjoints import (
    Adjoint,
    AdjointSystem,
    ConjugateGradient,
    Exact,
    Identity,
    Neumann,
)
from mbrl.ops.batch import batched, check_real
from mbrl.ops.dynamics import MujocoDynamics
from mbrl.ops.fields import MujocoFields
from mbrl.ops.first_order import FirstOrderOp
from mbrl.ops.implicit import implicit_gradient, implicit_solution
from mbrl.ops.parameters import ParametricDynamics
from mbrl.ops.rollout import MujocoRollout, Rollout
from mbrl.ops.surrogate import SurrogateDynamics

__all__ = [
    "Adjoint",
    "AdjointSystem",
    "ConjugateGradient",
    "Exact",
    "FirstOrderOp",
    "Identity",
    "MujocoDynamics",
    "MujocoFields",
    "MujocoRollout",
    "Neumann",
    "ParametricDynamics",
    "Rollout",
    "SurrogateDynamics",
    "batched",
    "check_real",
    "implicit_gradient",
    "implicit_solution",
]
