"""Algorithms: what is done with a task and a graph."""

from mbrl.algorithms.algorithm import Actor, Algorithm, Setting
from mbrl.algorithms.policy_gradient import PolicyGradient

__all__ = ["Actor", "Algorithm", "PolicyGradient", "Setting"]
