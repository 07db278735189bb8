"""Quadratic models of rewards and values, against differences along the manifold."""

import math

import mujoco
import pytest
import torch

import mbrl
from mbrl.errors import ArgumentError, ConfigError
from mbrl.physics import Simulator
from mbrl.planning import (
    CEM,
    ILQR,
    GradientShooting,
    Problem,
    RewardCost,
    Scene,
    SimulatorModel,
    TorchModel,
    ValueTerminal,
    Variational,
    make_problem,
    model_of,
)
from mbrl.planning.costs import DifferentiatedCost, StagePoints, convex
from tests.planning.test_model import FREE


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Curved:
    """A task in name only: a convex reward of (x, u, x') with mixed terms, on quaternions."""

    name, uses_time, context_size = "curved", False, 0

    def __init__(self, spec, nu):
        nx = spec.nx
        # Quaternions are drawn to a far centre ahead of them: the sphere bends the cost upward.
        self.center = torch.zeros(2 * nx + nu, dtype=torch.float64)
        self.center[torch.from_numpy(spec.quaternion_x[:, 0])] = 12.0
        self.center[nx + nu + torch.from_numpy(spec.quaternion_x[:, 0])] = 12.0
        root = normal(0, 2 * nx + nu, 2 * nx + nu) / (2 * nx) ** 0.5
        self.matrix = root @ root.T + 2.0 * torch.eye(2 * nx + nu).double()

    def reward(self, x, u, y, *, t=0, context=None):
        z = torch.cat([x, u, y], dim=1) - self.center
        return -0.5 * ((z @ self.matrix) * z).sum(-1)

    def terminated(self, y, *, t=0, context=None):
        return torch.zeros(len(y), dtype=torch.bool)


@pytest.fixture(scope="module")
def setting():
    simulator = Simulator(mujoco.MjModel.from_xml_string(FREE), threads=1)
    spec = simulator.spec
    at_rest = torch.cat([torch.from_numpy(simulator.model.qpos0), torch.zeros(spec.nv).double()])
    x = torch.from_numpy(spec.retract(at_rest.numpy(), 0.3 * normal(1, 2, spec.ndx).numpy()))
    model = SimulatorModel(simulator)
    actions = normal(2, 3, 2, 2)
    return model, spec, model.rollout(x, actions, Scene()), actions


def test_reward_expansion_is_the_derivative_along_linear_dynamics(setting):
    """c(x (+) dx, u + du, y (+) (A dx + B du)): that is what iLQR expands."""
    model, spec, states, actions = setting
    cost = RewardCost(Curved(spec, 2))
    points = StagePoints.along(states, actions, Scene())
    a, b = (m.flatten(0, 1) for m in model.linearize(states[:-1], actions, Scene()))
    found = cost.quadratic(points, a, b, model)
    above, below = [found.xx, found.ux.mT], [found.ux, found.uu]
    joint = torch.cat([torch.cat(above, dim=2), torch.cat(below, dim=2)], dim=1)

    def value(direction):
        dx, du = direction[: spec.ndx], direction[spec.ndx :]
        dy = (a @ dx + b @ du).numpy()
        return cost(
            points._replace(
                state=torch.from_numpy(spec.retract(points.state.numpy(), dx.numpy())),
                action=points.action + du,
                next_state=torch.from_numpy(spec.retract(points.next_state.numpy(), dy)),
            )
        )

    eps, here = 1e-4, value(torch.zeros(spec.ndx + 2).double())
    for seed in range(12):
        d = normal(10 + seed, spec.ndx + 2)
        ahead, behind = value(eps * d), value(-eps * d)
        slope = found.x @ d[: spec.ndx] + found.u @ d[spec.ndx :]
        torch.testing.assert_close(slope, (ahead - behind) / (2 * eps), rtol=1e-6, atol=1e-6)
        curve = (joint @ d) @ d
        expected = (ahead - 2 * here + behind) / eps**2
        torch.testing.assert_close(curve, expected, rtol=1e-4, atol=1e-4)


def test_hessian_of_a_stock_reward_is_its_control_cost():
    task = mbrl.make_task("HalfCheetah-v5", threads=1)
    model = model_of(task)
    x, u = task.reset(2, torch.Generator().manual_seed(0)), normal(3, 4, 2, 6)
    states = model.rollout(x, u, Scene())
    a, b = (m.flatten(0, 1) for m in model.linearize(states[:-1], u, Scene()))
    found = RewardCost(task).quadratic(StagePoints.along(states, u, Scene()), a, b, model)
    torch.testing.assert_close(found.uu, (0.2 * torch.eye(6).double()).expand(8, -1, -1))
    assert not found.xx.any()
    # d(-dx/dt)/du of the forward position, and the control cost.
    expected = -b[:, 0] / task.simulator.dt + 0.2 * u.flatten(0, 1)
    torch.testing.assert_close(found.u, expected)


def test_nothing_is_earned_after_the_end():
    task = mbrl.make_task("Hopper-v5", threads=1)
    problem = Problem(model_of(task), RewardCost(task), task.action_low, task.action_high, 60)
    on = Problem(
        model_of(task), RewardCost(task, until_termination=False), problem.low, problem.high, 60
    )
    x = task.reset(3, torch.Generator().manual_seed(0))
    u = normal(4, 60, 3, 3).clamp(-1, 1)
    states, costs = problem.rollout(x, u[:, None])
    _, without_end = on.rollout(x, u[:, None])
    for row in range(3):
        total, ended = 0.0, False
        for t in range(60):
            step = states[t, :, row], u[t, row : row + 1], states[t + 1, :, row]
            if not ended:
                total -= float(task.reward(*step))
            ended |= bool(task.terminated(step[2]))
        assert ended
        assert float(costs[0, row]) == pytest.approx(total)
    assert (without_end - costs).abs().min() > 1


class Falling:
    """log(1 - x'), until x' reaches 1/2: past 1 it is NaN, at 1 its derivatives are infinite."""

    name = "falling"

    def __init__(self, uses_time):
        self.uses_time = uses_time

    def reward(self, x, u, y, *, t=0, context=None):
        return torch.log(1 - y[:, 0])

    def terminated(self, y, *, t=0, context=None):
        return y[:, 0] >= 0.5


class Adds(torch.nn.Module):
    def forward(self, x, u):
        return x + u


@pytest.mark.parametrize("uses_time", [False, True])
def test_rewards_after_the_end_may_be_anything(uses_time):
    one, x = torch.ones(1).double(), torch.zeros(2, 1).double()
    problem = Problem(TorchModel(Adds(), 1), RewardCost(Falling(uses_time)), -one, one, 4)
    u = torch.tensor([[0.3, 0.25]], dtype=torch.float64).expand(4, -1)[:, :, None]
    states, costs = problem.rollout(x, u[:, None])
    assert states[-1, 0, 0, 0] > 1
    assert states[-1, 0, 1, 0] == 1
    expected = [-math.log(0.7) - math.log(0.4), -math.log(0.75) - math.log(0.5)]
    assert costs[0].tolist() == pytest.approx(expected, rel=1e-12)
    # J = -log(1 - u_1) - log(1 - u_1 - u_2): the second step is the last.
    slopes = [[1 / 0.7 + 1 / 0.4, 1 / 0.4, 0, 0], [1 / 0.75 + 1 / 0.5, 1 / 0.5, 0, 0]]
    gradient = problem.gradient(states[:, 0], u)[:, :, 0].T
    torch.testing.assert_close(gradient, torch.tensor(slopes, dtype=torch.float64))
    a, b = problem.model.linearize(states[:-1, 0], u, problem.scene)
    found, _, _ = problem.expand(states[:, 0], u, a, b)
    by_step = [[1 / 0.7, 1 / 0.75], [1 / 0.4, 1 / 0.5], [0, 0], [0, 0]]
    by_step = torch.tensor(by_step, dtype=torch.float64)
    torch.testing.assert_close(found.u[:, :, 0], by_step)
    torch.testing.assert_close(found.uu[:, :, 0, 0], by_step**2)
    assert ILQR(iterations=5).plan(problem, x, u).costs.isfinite().all()


def test_gradient_of_a_problem_is_the_slope_of_its_cost():
    task = mbrl.make_task("HalfCheetah-v5", threads=1)
    value = ValueTerminal(lambda x: -(x[:, 0] - 3).square() - x[:, 9:].square().sum(-1))
    problem = Problem(model_of(task), RewardCost(task), task.action_low, task.action_high, 6, value)
    x, u = task.reset(2, torch.Generator().manual_seed(1)), 0.2 * normal(5, 6, 2, 6)
    states, _ = problem.rollout(x, u[:, None])
    gradient, direction, eps = problem.gradient(states[:, 0], u), normal(6, 6, 2, 6), 1e-5
    pair = torch.stack([u + eps * direction, u - eps * direction], dim=1)
    ahead, behind = problem.rollout(x, pair)[1]
    slope = (gradient * direction).sum((0, 2))
    torch.testing.assert_close(slope, (ahead - behind) / (2 * eps), rtol=1e-5, atol=1e-6)


def test_terminal_value_on_the_manifold(setting):
    model, spec, states, _ = setting
    target = normal(7, spec.nx)
    cost = ValueTerminal(lambda x: -0.5 * (x - target).square().sum(-1) - x[:, 0].cos())
    x = states[-1]
    gradient, hessian = cost.quadratic(x, Scene(), 1, model)
    eps = 1e-4

    def value(d):
        return cost(torch.from_numpy(spec.retract(x.numpy(), d.numpy())), Scene(), 1)

    bent = []
    for seed in range(8):
        d = normal(30 + seed, spec.ndx)
        ahead, here, behind = value(eps * d), value(0 * d), value(-eps * d)
        torch.testing.assert_close(gradient @ d, (ahead - behind) / (2 * eps), rtol=1e-6, atol=1e-6)
        bent.append(((hessian @ d) @ d - (ahead - 2 * here + behind) / eps**2).min())
    # Convex: at least the true curvature, which may be negative.
    assert min(bent) > -1e-4
    assert torch.linalg.eigvalsh(hessian).min() > -1e-10


def test_convex_clips_eigenvalues():
    root = torch.linalg.qr(normal(8, 5, 6, 6)).Q
    values = torch.tensor([-2.0, -0.5, 0.0, 1e-9, 1.0, 3.0]).double()
    matrices = root @ torch.diag_embed(values.expand(5, -1)) @ root.mT
    expected = root @ torch.diag_embed(values.clamp(min=0).expand(5, -1)) @ root.mT
    torch.testing.assert_close(convex(matrices), expected, rtol=0, atol=1e-12)
    definite = root @ torch.diag_embed((values.abs() + 0.1).expand(5, -1)) @ root.mT
    torch.testing.assert_close(convex(definite), definite, rtol=0, atol=1e-14)


def test_a_reward_without_second_derivatives_is_refused_by_name():
    task = mbrl.make_task("Ant-v5", threads=1)
    problem = Problem(model_of(task), RewardCost(task), task.action_low, task.action_high, 2)
    x = task.reset(1, torch.Generator().manual_seed(0))
    with pytest.raises(ArgumentError, match="Ant-v5: its reward has no second derivatives"):
        ILQR().plan(problem, x)


@pytest.mark.parametrize("uses_time", [False, True])
def test_a_value_of_what_is_to_come_counts_where_the_episode_goes_on(uses_time):
    """V is NaN where the episode has ended."""
    one, x = torch.ones(1).double(), torch.zeros(2, 1).double()
    value = ValueTerminal(lambda x: torch.log(0.5 - x[:, 0]))
    problem = Problem(TorchModel(Adds(), 1), RewardCost(Falling(uses_time)), -one, one, 2, value)
    u = torch.tensor([[0.1, 0.3]], dtype=torch.float64).expand(2, -1)[:, :, None]
    states, costs = problem.rollout(x, u[:, None])
    ends = [-math.log(0.9) - math.log(0.8) - math.log(0.3), -math.log(0.7) - math.log(0.4)]
    assert costs[0].tolist() == pytest.approx(ends, rel=1e-12)
    gradient = problem.gradient(states[:, 0], u)[:, :, 0].T
    slopes = [[1 / 0.9 + 1 / 0.8 + 1 / 0.3, 1 / 0.8 + 1 / 0.3], [1 / 0.7 + 1 / 0.4, 1 / 0.4]]
    torch.testing.assert_close(gradient, torch.tensor(slopes, dtype=torch.float64))
    a, b = problem.model.linearize(states[:-1, 0], u, problem.scene)
    _, slope, curvature = problem.expand(states[:, 0], u, a, b)
    torch.testing.assert_close(slope[:, 0].tolist(), [1 / 0.3, 0.0])
    torch.testing.assert_close(curvature[:, 0, 0].tolist(), [1 / 0.3**2, 0.0])
    on = RewardCost(Falling(uses_time), until_termination=False)
    on = Problem(problem.model, on, -one, one, 2, value)
    assert on.rollout(x, u[:, None])[1].isfinite().tolist() == [[True, False]]


def test_a_reward_that_is_constant_has_no_slope():
    task = mbrl.make_task("InvertedPendulum-v5", threads=1)
    problem, x = make_problem(task, 10), task.reset(2, torch.Generator().manual_seed(0))
    for planner in (GradientShooting(iterations=2), Variational(iterations=2)):
        plan = planner.plan(problem, x)
        assert plan.costs.tolist() == [-10.0, -10.0]
        assert plan.actions.isfinite().all()


class Kinked(DifferentiatedCost):
    """|x'| + |u| - 2 u_1 + |u_2|^1.5 / 10: at 0 second derivatives are NaN or infinite."""

    def costs(self, x, u, y, points):
        length = u.norm(dim=-1)
        return y.norm(dim=-1) + length - 2 * u[:, 0] + 0.1 * u[:, 1].abs() ** 1.5


class Pays(DifferentiatedCost):
    """u^2 up to 1/2, minus infinity above."""

    def costs(self, x, u, y, points):
        return torch.where(u[:, 0] > 0.5, -torch.inf, u[:, 0].square())


class Root(DifferentiatedCost):
    """The same length as a norm's, whose derivative at 0 is NaN."""

    def costs(self, x, u, y, points):
        return u.square().sum(-1).sqrt()


def test_kinks_have_a_slope_and_no_curvature():
    class Shifts(torch.nn.Module):
        def forward(self, x, u):
            return x + 0.1 * u

    one = torch.ones(2).double()
    problem = Problem(TorchModel(Shifts(), 2), Kinked("kinked"), -one, one, 5)
    x = torch.tensor([[1.0, 0.5], [0.0, 0.0]]).double()
    plan = ILQR(iterations=20).plan(problem, x)
    for row in range(2):
        alone = ILQR(iterations=20).plan(problem, x[row : row + 1])
        torch.testing.assert_close(plan.actions[:, row], alone.actions[:, 0])
    reference = CEM(iterations=60, samples=500).plan(problem, x)
    assert (plan.costs < reference.costs + 0.02).all(), (plan.costs, reference.costs)


def test_what_earns_without_end_is_no_plan():
    one = torch.ones(1).double()
    problem = Problem(TorchModel(Adds(), 1), Pays("pays"), -one, one, 2)
    u = torch.tensor([0.1, 0.9]).double()[:, None, None].expand(2, -1, -1, -1)  # (T, K, B, nu)
    costs = problem.rollout(torch.zeros(1, 1).double(), u)[1]
    assert costs[:, 0].tolist() == [pytest.approx(0.02), torch.inf]


def test_a_cost_without_a_slope_is_refused():
    one = torch.ones(1).double()
    problem = Problem(TorchModel(Adds(), 1), Root("roots"), -one, one, 2)
    with pytest.raises(ArgumentError, match=r"roots: torch finds no finite slope of its cost"):
        ILQR().plan(problem, torch.zeros(1, 1).double())


def test_ends_do_not_count_for_a_cost_of_residuals():
    task = mbrl.make_task("InvertedPendulum-v5", threads=1)
    cost = {"pole": {"residual": {"kind": "control"}}}
    with pytest.raises(ConfigError, match=r"algorithm.until_termination has no effect: a cost of"):
        make_problem(task, 5, cost=cost, until_termination=False)
