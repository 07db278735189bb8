"""Differentiable ops: MuJoCo's physics as ``torch.autograd.Function``s."""

from mbrl.ops.dynamics import MujocoDynamics
from mbrl.ops.fields import MujocoFields

__all__ = ["MujocoDynamics", "MujocoFields"]
