"""Systems with known dynamics, and data of them."""

import torch
from torch import Tensor

from mbrl.nn import DynamicsModel, EnsembleDynamics
from mbrl.types import Transitions

A = torch.tensor([[1.0, 0.1, 0.0], [-0.2, 0.9, 0.05], [0.0, 0.3, 0.8]], dtype=torch.float64)
B = torch.tensor([[0.0, 0.02], [0.5, 0.0], [0.1, -0.4]], dtype=torch.float64)
DRIFT = torch.tensor([0.3, 0.0, -0.1], dtype=torch.float64)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def affine(rows: int, seed: int = 0, noise: float = 0.0) -> Transitions:
    """x' = A x + B u + c, coordinates of different means and sizes; r = x_1 - |u|^2 / 2."""
    states = normal(seed, rows, 3) * torch.tensor([1.0, 10.0, 0.1]) + torch.tensor([0.0, 5.0, 1.0])
    actions = normal(seed + 1, rows, 2)
    following = states @ A.T + actions @ B.T + DRIFT + noise * normal(seed + 2, rows, 3)
    rewards = states[:, 0] - 0.5 * actions.square().sum(1)
    return Transitions(states, actions, following, rewards)


def standardize(model: DynamicsModel, data: Transitions) -> None:
    inputs = torch.cat([data.states, data.actions], dim=1)
    changes = data.next_states - data.states
    rewards = data.rewards
    model.set_statistics(
        inputs=(inputs.mean(0), inputs.std(0)),
        differences=(changes.mean(0), changes.std(0)),
        rewards=(rewards.mean(), rewards.std()) if model.predicts_reward else None,
    )


# Scalar linear members x' = (1 + a_e) x + u + sd_e noise: their moments over time are known.

GAINS = torch.tensor([0.3, -0.6, 0.1, -0.2], dtype=torch.float64)
DEVIATIONS = torch.tensor([0.5, 0.9, 0.7, 0.6], dtype=torch.float64)


def linear_gaussian() -> EnsembleDynamics:
    model = EnsembleDynamics(1, 1, seeded(), hidden=(), members=4, dtype="float64")
    (layer,) = model.network.layers
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[:, 0, 0] = GAINS
        layer.weight[:, 1, 0] = 1.0
        # Bounds far away leave log variances as they are.
        model.highest_log_variance.fill_(40.0)
        model.lowest_log_variance.fill_(-40.0)
        layer.bias[:, 0, 1] = 2 * DEVIATIONS.log()
    return model


def moments_in_theory(mode: str, x0: float, u: float, steps: int) -> tuple[float, float]:
    """Mean and variance of a particle after some steps."""
    if mode == "ts1":  # the member is independent of the particle
        first, second = x0, x0**2
        for _ in range(steps):
            a, s = 1 + GAINS, DEVIATIONS
            second = float((a**2 * second + 2 * a * u * first + u**2 + s**2).mean())
            first = float((a * first + u).mean())
        return first, second - first**2
    means, variances = torch.full((4,), x0).double(), torch.zeros(4).double()
    for _ in range(steps):
        means, variances = (1 + GAINS) * means + u, (1 + GAINS) ** 2 * variances + DEVIATIONS**2
    return float(means.mean()), float((variances + means**2).mean() - means.mean() ** 2)
