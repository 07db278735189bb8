"""Networks: perceptrons, policies, normalisers; torch only, no simulator."""

from mbrl.nn.mlp import MLP
from mbrl.nn.normalizer import RunningNormalizer
from mbrl.nn.policy import DeterministicMLP, GaussianMLP, Policy
from mbrl.nn.squash import Squash, saturation, soft_lower_bound

__all__ = [
    "MLP",
    "DeterministicMLP",
    "GaussianMLP",
    "Policy",
    "RunningNormalizer",
    "Squash",
    "saturation",
    "soft_lower_bound",
]
