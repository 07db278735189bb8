"""Problems whose costs, gradients and optima are known without any planner."""

import io
import itertools

import mujoco
import numpy as np
import torch
from torch import nn

from mbrl.physics import Simulator
from mbrl.planning import Problem, Scene, SimulatorModel, StageCost, TerminalCost, TorchModel
from tests import models
from tests.planning.problems import Linear


class Smooth(nn.Module):
    """x' = x + a random MLP of (x, u)."""

    def __init__(self, nx, nu, seed=0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        draw = {"generator": generator, "dtype": torch.float64}
        self.w = torch.randn(16, nx + nu, **draw) / 2
        self.v = torch.randn(nx, 16, **draw) / 6

    def forward(self, state, action):
        return state + torch.tanh(torch.cat([state, action], -1) @ self.w.mT) @ self.v.mT


class Cliff(nn.Module):
    """x' = x + 0.5 u, and NaN past a cliff."""

    def __init__(self, cliff):
        super().__init__()
        self.cliff = cliff

    def forward(self, state, action):
        following = state + 0.5 * action
        return torch.where(following.abs() > self.cliff, torch.nan, following)


class Bowl(StageCost):
    """1/2 |x' - goal|^2_Q + 1/2 |u|^2_R; the goal is the context, or 0."""

    def __init__(self, q, r):
        self.q, self.r = q, r

    def __call__(self, points):
        goal = points.scene.flattened(points.steps)
        x = points.next_state if goal is None else points.next_state - goal
        u = points.action
        return 0.5 * ((x @ self.q) * x).sum(-1) + 0.5 * ((u @ self.r) * u).sum(-1)

    def quadratic(self, points, a, b, model):
        raise NotImplementedError


class End(TerminalCost):
    """1/2 w |x|^2."""

    def __init__(self, weight):
        self.weight = weight

    def __call__(self, state, scene, steps):
        return 0.5 * self.weight * state.square().sum(-1)

    def quadratic(self, state, scene, steps, model):
        raise NotImplementedError


class Wavy(StageCost):
    """Smooth and not quadratic; differs from step to step."""

    def __call__(self, points):
        weight = 1 + 0.1 * points.times
        x, u, y = points.state, points.action, points.next_state
        return weight * (torch.sin(2 * y).sum(-1) + (x[:, 0] * u[:, 0]).cos()) + u.pow(4).sum(-1)

    def quadratic(self, points, a, b, model):
        raise NotImplementedError


def linear_quadratic(horizon=6, nu=1, limit=0.5, seed=0, context=None):
    """A random LQ problem with nx = 3 in a box that is not symmetric."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    a, b = torch.eye(3, dtype=torch.float64) + 0.2 * draw(3, 3), draw(3, nu)
    q, r = draw(3, 3), 0.1 * torch.eye(nu, dtype=torch.float64)
    low = torch.full((nu,), -limit, dtype=torch.float64)
    return Problem(
        TorchModel(Linear(a, b), 3),
        Bowl(q @ q.mT, r),
        low,
        -1.5 * low,
        horizon,
        End(0.7),
        Scene(context=context),
    )


def dense(problem, x0, goal=None):
    """Return H, h of J(U) = 1/2 U'HU + h'U + c of one row, U = actions [T nu], by hand."""
    module, stage = problem.model._dynamics, problem.stage
    a, b = module.a.numpy(), module.b.numpy()
    steps, (nx, nu) = problem.horizon, b.shape
    goal = np.zeros(nx) if goal is None else goal.numpy()
    h_matrix = np.kron(np.eye(steps), stage.r.numpy())
    h_vector = np.zeros(steps * nu)
    x, by_u = x0.numpy(), np.zeros((nx, steps * nu))
    for t in range(steps):
        x, by_u = a @ x, a @ by_u
        by_u[:, t * nu : (t + 1) * nu] += b
        h_matrix += by_u.T @ stage.q.numpy() @ by_u
        h_vector += by_u.T @ stage.q.numpy() @ (x - goal)
    weight = problem.terminal.weight
    return h_matrix + weight * by_u.T @ by_u, h_vector + weight * by_u.T @ x


def box_optimum(h_matrix, h_vector, low, high):
    """Return the minimiser in a box, by trying every set of active bounds."""
    for kinds in itertools.product((-1, 0, 1), repeat=len(h_vector)):
        kind = np.array(kinds)
        x = np.where(kind < 0, low, np.where(kind > 0, high, 0.0))
        free = kind == 0
        rest = h_vector + h_matrix @ x
        x[free] = np.linalg.solve(h_matrix[np.ix_(free, free)], -rest[free])
        gradient = h_matrix @ x + h_vector
        feasible = ((x >= low) & (x <= high)).all()
        if feasible and (gradient[kind < 0] >= 0).all() and (gradient[kind > 0] <= 0).all():
            return x
    raise AssertionError("a strictly convex problem in a box has an optimum")


def smooth(horizon=9, seed=0):
    """A random smooth MLP under a cost that is not convex; nx = 3, nu = 2."""
    low = torch.tensor([-1.0, -0.5], dtype=torch.float64)
    high = torch.tensor([1.0, 2.0], dtype=torch.float64)
    return Problem(TorchModel(Smooth(3, 2, seed), 3), Wavy(), low, high, horizon, End(0.3))


def cliff(horizon=4, at=1.5):
    """One coordinate with a cliff on both sides, and a cost that pulls to 2."""
    one = torch.ones(1, dtype=torch.float64)
    goal = torch.full((2, 1), 2.0, dtype=torch.float64)
    stage = Bowl(torch.eye(1, dtype=torch.float64), 0.01 * torch.eye(1, dtype=torch.float64))
    scene = Scene(context=goal)
    return Problem(TorchModel(Cliff(at), 1), stage, -one, one, horizon, scene=scene)


class PointMassCost(StageCost):
    """Of position, velocity and control."""

    def __call__(self, points):
        position, velocity = points.next_state.split(2, dim=1)
        return (
            5 * position.square().sum(1)
            + 0.1 * velocity.square().sum(1)
            + 0.1 * points.action.square().sum(1)
        )

    def quadratic(self, points, a, b, model):
        raise NotImplementedError


def point_mass():
    """2.5 s in steps of 0.1 s, and where it begins."""
    simulator = Simulator(
        mujoco.MjModel.from_xml_string(models.particle(mass=0.3, damping=1)), threads=1
    )
    one = torch.ones(2, dtype=torch.float64)
    problem = Problem(SimulatorModel(simulator), PointMassCost(), -one, one, 25)
    return problem, torch.tensor([[0.8, -0.5, 0.0, 0.0]], dtype=torch.float64)


def states(batch, nx=3, seed=0):
    generator = torch.Generator().manual_seed(100 + seed)
    return torch.randn(batch, nx, generator=generator, dtype=torch.float64)


def inside(problem, batch, seed=0):
    """Actions [T, B, nu] inside the bounds."""
    generator = torch.Generator().manual_seed(200 + seed)
    shape = problem.horizon, batch, problem.action_size
    share = torch.rand(shape, generator=generator, dtype=torch.float64)
    return problem.low + share * (problem.high - problem.low)


def unrolled(problem, x0, actions):
    """Costs by step [T, N] of actions [T, N, nu] from x0 [N, nx], by autograd through the model."""
    x, visited = x0, [x0]
    for u in actions:
        x = problem.model._dynamics(x, u)
        visited.append(x)
    return problem._by_step(torch.stack(visited), actions, problem.scene)


def stored(search):
    """What a checkpoint would give back: through a file, tensors and plain data only."""
    buffer = io.BytesIO()
    torch.save(search.state_dict(), buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


def same(a, b):
    """Whether two plans are equal to the bit."""
    return all(torch.equal(x, y) for x, y in zip(a[:3], b[:3], strict=True))
