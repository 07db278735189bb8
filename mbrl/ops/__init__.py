"""Differentiable ops: MuJoCo's physics as ``torch.autograd.Function``s."""

from mbrl.ops.dynamics import MujocoDynamics

__all__ = ["MujocoDynamics"]
