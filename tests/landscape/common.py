"""Losses with surfaces in closed form."""

import numpy as np
import torch

from mbrl.landscape import TrajectoryLoss
from tests.planning.problems import LinearQuadratic

START = np.array([0.8, -0.5])


def bowl(system: LinearQuadratic, wall: float | None = None) -> TrajectoryLoss:
    """The loss of the optimal actions of a linear-quadratic problem."""
    actions, _ = system.optimum(START)
    return TrajectoryLoss(
        system.problem(wall), torch.from_numpy(START)[None], torch.from_numpy(actions)[:, None]
    )


def hessian(system: LinearQuadratic) -> np.ndarray:
    """Second derivative of the cost by all actions [T nu, T nu], from the impulse responses."""
    a, b, steps = system.a.numpy(), system.b.numpy(), system.horizon
    nu = b.shape[1]
    found = 2 * np.diag(np.tile(system.r.numpy(), steps))
    for t in range(1, steps + 1):
        response = np.zeros((len(a), steps * nu))
        for s in range(t):
            response[:, s * nu : (s + 1) * nu] = np.linalg.matrix_power(a, t - 1 - s) @ b
        found += 2 * response.T @ np.diag(system.q.numpy()) @ response
    return found
