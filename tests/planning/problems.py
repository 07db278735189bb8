"""Problems with known answers for planners."""

from dataclasses import dataclass, field, fields
from typing import NamedTuple

import mujoco
import numpy as np
import torch
from torch import Tensor, nn

from mbrl.physics import Simulator
from mbrl.planning import Model, Problem, StageCost, TorchModel
from mbrl.planning.costs import Quadratic, StagePoints
from mbrl.planning.model import SimulatorModel
from tests import models

PARTICLE = models.particle()
GOAL = torch.tensor([0.4, -0.3], dtype=torch.float64)


class SquaredCost(StageCost):
    """q |x' - goal|^2 + r |u|^2, with weights by coordinate."""

    def __init__(self, q: Tensor, r: Tensor, goal: Tensor):
        self.q, self.r, self.goal = q, r, goal

    def __call__(self, points: StagePoints) -> Tensor:
        away = points.next_state - self.goal
        return (self.q * away**2).sum(-1) + (self.r * points.action**2).sum(-1)

    def quadratic(self, points: StagePoints, a: Tensor, b: Tensor, model: Model) -> Quadratic:
        pull = 2 * self.q * (points.next_state - self.goal)
        curved = torch.diag(2 * self.q)
        return Quadratic(
            torch.einsum("ni,nij->nj", pull, a),
            torch.einsum("ni,nij->nj", pull, b) + 2 * self.r * points.action,
            a.mT @ curved @ a,
            b.mT @ curved @ a,
            b.mT @ curved @ b + torch.diag(2 * self.r),
        )


class Linear(nn.Module):
    """x' = A x + B u, every row on its own."""

    def __init__(self, a: Tensor, b: Tensor):
        super().__init__()
        self.a, self.b = a, b

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return (state[:, None] * self.a).sum(-1) + (action[:, None] * self.b).sum(-1)


class Walled(nn.Module):
    """A module that is NaN where the first action exceeds ``wall``."""

    def __init__(self, inner: nn.Module, wall: float):
        super().__init__()
        self.inner, self.wall = inner, wall

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        return torch.where(action[:, :1] > self.wall, torch.nan, self.inner(state, action))


class LinearQuadratic(NamedTuple):
    """A linear system with a quadratic cost, with and without bounds."""

    a: Tensor
    b: Tensor
    q: Tensor
    r: Tensor
    low: Tensor
    high: Tensor
    horizon: int

    def problem(self, wall: float | None = None) -> Problem:
        """What planners solve; with ``wall`` it diverges where the first action exceeds it."""
        dynamics: nn.Module = Linear(self.a, self.b)
        if wall is not None:
            dynamics = Walled(dynamics, wall)
        cost = SquaredCost(self.q, self.r, torch.zeros_like(self.q))
        model = TorchModel(dynamics, len(self.a))
        return Problem(model, cost, self.low, self.high, self.horizon)

    def cost(self, state: np.ndarray, actions: np.ndarray) -> float:
        """The cost of actions [T, nu], step by step."""
        x, total = state, 0.0
        for u in actions:
            x = self.a.numpy() @ x + self.b.numpy() @ u
            total += float(self.q.numpy() @ x**2 + self.r.numpy() @ u**2)
        return total

    def optimum(self, state: np.ndarray) -> tuple[np.ndarray, float]:
        """The optimal actions [T, nu] and their cost, from the dense quadratic program.

        Exact minimisation by one coordinate after the other, until the conditions of Karush, Kuhn
        and Tucker hold.
        """
        a, b, steps = self.a.numpy(), self.b.numpy(), self.horizon
        nx, nu = b.shape
        free = np.concatenate([np.linalg.matrix_power(a, t + 1) @ state for t in range(steps)])
        forced = np.zeros((steps * nx, steps * nu))
        for t in range(steps):
            for s in range(t + 1):
                block = np.linalg.matrix_power(a, t - s) @ b
                forced[t * nx : (t + 1) * nx, s * nu : (s + 1) * nu] = block
        q, r = np.tile(self.q.numpy(), steps), np.tile(self.r.numpy(), steps)
        hessian = 2 * (forced.T * q) @ forced + 2 * np.diag(r)
        slope = 2 * (forced.T * q) @ free
        low, high = np.tile(self.low.numpy(), steps), np.tile(self.high.numpy(), steps)
        u = np.clip(np.zeros(steps * nu), low, high)
        for _ in range(10_000):
            for i in range(len(u)):
                rest = slope[i] + hessian[i] @ u - hessian[i, i] * u[i]
                u[i] = np.clip(-rest / hessian[i, i], low[i], high[i])
            gradient = hessian @ u + slope
            if np.abs(u - np.clip(u - gradient, low, high)).max() < 1e-12:
                break
        else:
            raise AssertionError("the reference has not converged")
        actions = u.reshape(steps, nu)
        return actions, self.cost(state, actions)


@dataclass(frozen=True)
class Recorded(Problem):
    """A problem that remembers what was rolled out, and at what cost.

    Attributes:
        calls: actions [T, K, B, nu] and costs [K, B] of every call of rollout.
    """

    calls: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @classmethod
    def of(cls, problem: Problem) -> "Recorded":
        return cls(**{part.name: getattr(problem, part.name) for part in fields(problem)})

    def rollout(self, state: Tensor, actions: Tensor) -> tuple[Tensor, Tensor]:
        states, costs = super().rollout(state, actions)
        self.calls.append((actions, costs))
        return states, costs


def linear_quadratic(*, bounded: bool = True, horizon: int = 6) -> LinearQuadratic:
    """A mass on a line, pushed by one actuator with a short reach and one that is weak."""

    def tensor(values: list) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)

    reach = [0.5, 2.0] if bounded else [torch.inf, torch.inf]
    return LinearQuadratic(
        tensor([[1.0, 0.2], [-0.1, 0.9]]),
        tensor([[0.0, 0.1], [0.5, 0.1]]),
        tensor([1.0, 0.2]),
        tensor([0.05, 0.1]),
        -tensor(reach),
        tensor(reach),
        horizon,
    )


def particle(horizon: int = 25) -> Problem:
    """A point mass that shall be at GOAL, and rest there: 0.1 s a step, forces in [-1, 1]."""
    simulator = Simulator(mujoco.MjModel.from_xml_string(PARTICLE), threads=1)
    q = torch.tensor([5.0, 5.0, 0.1, 0.1], dtype=torch.float64)
    r = torch.tensor([0.1, 0.1], dtype=torch.float64)
    cost = SquaredCost(q, r, torch.cat([GOAL, torch.zeros(2, dtype=torch.float64)]))
    one = torch.ones(2, dtype=torch.float64)
    return Problem(SimulatorModel(simulator), cost, -one, one, horizon)


def distance_to_goal(states: Tensor) -> Tensor:
    """Distance of the final states of [T+1, B, nx] from GOAL, [B]."""
    return (states[-1, :, :2] - GOAL).norm(dim=-1)


def learned(horizon: int = 8) -> Problem:
    """A random network of two states and two actions, as a learned model would be."""
    torch.manual_seed(3)
    network = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 2)).double()

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, state: Tensor, action: Tensor) -> Tensor:
            return state + self.network(torch.cat([state, action], dim=1))

    one = torch.ones(2, dtype=torch.float64)
    cost = SquaredCost(one, 0.01 * one, torch.zeros(2, dtype=torch.float64))
    return Problem(TorchModel(Residual(), 2), cost, -one, one, horizon)
