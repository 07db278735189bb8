"""Systems with known dynamics, and data of them."""

import torch
from torch import Tensor

from mbrl.nn import DynamicsModel
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
