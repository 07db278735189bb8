"""Networks: perceptrons, policies, normalisers; torch only, no simulator."""

from mbrl.nn.gaussian import GaussianMLP, GaussianPolicy, OpenLoop
from mbrl.nn.mlp import MLP
from mbrl.nn.normalizer import RunningNormalizer
from mbrl.nn.policy import DeterministicMLP, Policy, act
from mbrl.nn.squash import Squash, saturation, soft_lower_bound

__all__ = [
    "MLP",
    "DeterministicMLP",
    "GaussianMLP",
    "GaussianPolicy",
    "OpenLoop",
    "Policy",
    "RunningNormalizer",
    "Squash",
    "act",
    "saturation",
    "soft_lower_bound",
]
