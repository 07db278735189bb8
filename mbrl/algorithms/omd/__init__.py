"""Optimal model design: models learned for the return that comes of them."""

from mbrl.algorithms.omd.discrete import DiscreteOMD

__all__ = ["DiscreteOMD"]
