"""Linear-quadratic problems, and solvers of them that share nothing with the planners."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from mbrl.planning import Problem, StageCost, TerminalCost, TorchModel
from mbrl.planning.costs import Quadratic


class Linear(nn.Module):
    """x' = A x + B u."""

    def __init__(self, a: Tensor, b: Tensor):
        super().__init__()
        self.a, self.b = a, b

    def forward(self, state, action):
        return state @ self.a.T + action @ self.b.T


class Weights(NamedTuple):
    a: Tensor
    b: Tensor
    q: Tensor
    r: Tensor
    n: Tensor  # (nu, nx): mixed term
    final: Tensor


class StageLQ(StageCost):
    """(x'Qx + u'Ru) / 2 + u'Nx."""

    def __init__(self, w: Weights):
        self.w = w

    def __call__(self, points):
        x, u, w = points.state, points.action, self.w
        return (0.5 * (x @ w.q) * x).sum(-1) + ((0.5 * u @ w.r + x @ w.n.T) * u).sum(-1)

    def quadratic(self, points, a, b, model):
        x, u, w, rows = points.state, points.action, self.w, len(points.state)
        return Quadratic(
            x @ w.q + u @ w.n,
            u @ w.r + x @ w.n.T,
            *(part.expand(rows, -1, -1) for part in (w.q, w.n, w.r)),
        )


class FinalLQ(TerminalCost):
    """x'Fx / 2."""

    def __init__(self, w: Weights):
        self.w = w

    def __call__(self, state, scene, steps):
        return (0.5 * (state @ self.w.final) * state).sum(-1)

    def quadratic(self, state, scene, steps, model):
        return state @ self.w.final, self.w.final.expand(len(state), -1, -1)


def random_weights(seed: int, nx: int, nu: int) -> Weights:
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def definite(n):
        root = normal(n, n)
        return root @ root.T / n + 0.1 * torch.eye(n, dtype=torch.float64)

    joint = definite(nx + nu)  # so that the mixed term leaves the stage cost convex
    return Weights(
        normal(nx, nx) / nx**0.5,
        normal(nx, nu),
        joint[:nx, :nx],
        joint[nx:, nx:],
        joint[nx:, :nx],
        definite(nx),
    )


def problem_of(w: Weights, horizon: int, bound: float = float("inf")) -> Problem:
    nx, nu = w.b.shape
    limit = torch.full((nu,), bound, dtype=torch.float64)
    return Problem(TorchModel(Linear(w.a, w.b), nx), StageLQ(w), -limit, limit, horizon, FinalLQ(w))


def riccati(w: Weights, horizon: int) -> tuple[Tensor, Tensor]:
    """Gains [T, nu, nx] and the Hessian of the value at the start, by the textbook recursion."""
    p, gains = w.final, []
    for _ in range(horizon):
        cross = w.n + w.b.T @ p @ w.a
        gains.insert(0, -torch.linalg.inv(w.r + w.b.T @ p @ w.b) @ cross)
        p = w.q + w.a.T @ p @ w.a + cross.T @ gains[0]
    return torch.stack(gains), p


def condensed(w: Weights, horizon: int, x0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """H, g and the constant of the cost as a quadratic function of all actions, (T nu)."""
    nx, nu = w.b.shape
    powers = [torch.eye(nx, dtype=torch.float64)]
    for _ in range(horizon):
        powers.append(w.a @ powers[-1])
    free = torch.cat([power @ x0 for power in powers])  # ((T+1) nx)
    forced = torch.zeros((horizon + 1) * nx, horizon * nu, dtype=torch.float64)
    for t in range(1, horizon + 1):
        for s in range(t):
            forced[t * nx : (t + 1) * nx, s * nu : (s + 1) * nu] = powers[t - 1 - s] @ w.b
    q = torch.block_diag(*[w.q] * horizon, w.final)
    r = torch.block_diag(*[w.r] * horizon)
    n = torch.zeros(horizon * nu, (horizon + 1) * nx, dtype=torch.float64)
    n[:, : horizon * nx] = torch.block_diag(*[w.n] * horizon)
    h = forced.T @ q @ forced + r + n @ forced + forced.T @ n.T
    g = forced.T @ q @ free + n @ free
    return h, g, 0.5 * free @ q @ free


def projected_gradient(h: Tensor, g: Tensor, bound: float) -> Tensor:
    """The minimiser of u'Hu/2 + g'u in a box, by Nesterov's method run to rounding."""
    largest = torch.linalg.eigvalsh(h)
    rate = ((largest[-1] / largest[0]).sqrt() - 1) / ((largest[-1] / largest[0]).sqrt() + 1)
    u = before = torch.zeros_like(g)
    for _ in range(20_000):
        ahead = u + rate * (u - before)
        before, u = u, (ahead - (h @ ahead + g) / largest[-1]).clamp(-bound, bound)
        if (u - before).abs().max() < 1e-15:
            break
    return u
