"""Optimal model design: models learned for what their optimal policies earn."""

from mbrl.algorithms.omd.continuous import ContinuousOMD
from mbrl.algorithms.omd.discrete import DiscreteOMD
from mbrl.algorithms.omd.tabular import TabularOMD

__all__ = ["ContinuousOMD", "DiscreteOMD", "TabularOMD"]
