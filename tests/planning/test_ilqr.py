"""iLQR against Riccati, a QP solver, differences of the cost, and its own promises."""

import numpy as np
import pytest
import torch
from torch import nn

from mbrl.errors import ArgumentError, DivergenceError
from mbrl.planning import ILQR, Problem, StageCost, TorchModel
from mbrl.planning.costs import Quadratic, StagePoints
from mbrl.planning.riccati import LocalModel, backward_pass
from tests.planning.lq import condensed, problem_of, projected_gradient, random_weights, riccati
from tests.planning.pendulum import HANGING, Upright, pendulum

pytestmark = pytest.mark.usefixtures("implementation")

SIZES = [(1, 1, 5), (2, 1, 10), (4, 2, 30), (7, 3, 25), (12, 4, 40)]


def begun(planner, problem, state, actions=None):
    actions = problem.still(len(state)) if actions is None else actions
    return planner.begin(problem, state, actions, torch.Generator().manual_seed(0))


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("regularize", ["state", "control"])
@pytest.mark.parametrize(("nx", "nu", "horizon"), SIZES)
def test_linear_quadratic_problems_take_one_iteration(nx, nu, horizon, regularize):
    w = random_weights(nx, nx, nu)
    problem, x0 = problem_of(w, horizon), normal(1, 3, nx)
    search = begun(ILQR(regularize=regularize), problem, x0)
    search.iterate()
    gains, value = riccati(w, horizon)
    plan = search.plan
    optimum = (0.5 * (x0 @ value) * x0).sum(-1)
    torch.testing.assert_close(plan.costs, optimum, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(plan.gains, gains[:, None].expand_as(plan.gains), rtol=0, atol=1e-8)
    closed_loop = (gains[:, None] @ plan.states[:-1, :, :, None])[..., 0]
    torch.testing.assert_close(plan.actions, closed_loop, rtol=0, atol=1e-8)


@pytest.mark.parametrize(("nx", "nu", "horizon"), SIZES[1:])
@pytest.mark.parametrize("bound", [0.05, 0.5])
def test_with_bounds_it_finds_the_optimum_of_a_qp_solver(nx, nu, horizon, bound):
    w = random_weights(nx + 10, nx, nu)
    w = w._replace(a=0.9 * w.a / torch.linalg.eigvals(w.a).abs().max())
    problem, x0 = problem_of(w, horizon, bound), 5 * normal(2, 2, nx)
    plan = ILQR(iterations=200, tolerance=0.0).plan(problem, x0)
    held = 0
    for row in range(2):
        h, g, constant = condensed(w, horizon, x0[row])
        u = projected_gradient(h, g, bound)
        optimum = 0.5 * u @ h @ u + g @ u + constant
        assert abs(plan.costs[row] - optimum) < 1e-8 * (1 + optimum)
        torch.testing.assert_close(plan.actions[:, row].flatten(), u, rtol=0, atol=1e-6)
        held += int((u.abs() == bound).sum())
    assert held > 0
    assert plan.actions.abs().max() <= bound


def test_a_single_step_has_nothing_to_skip():
    problem, start = pendulum(1), torch.full((1, 3, 1), 0.1).double()
    plans = [ILQR(derivative_skip=n, iterations=3).plan(problem, HANGING, start) for n in (0, 2)]
    assert torch.equal(plans[0].actions, plans[1].actions)


@pytest.mark.parametrize(
    "options", [{}, {"acceptance": "armijo"}, {"regularize": "control"}, {"derivative_skip": 2}]
)
def test_swing_up(options):
    problem = pendulum(120)
    # Hanging still is stationary: a push breaks the symmetry.
    search = begun(ILQR(**options), problem, HANGING, torch.full((120, 3, 1), 0.1).double())
    costs = [search.plan.costs]
    for _ in range(100):
        if search.converged:
            break
        search.iterate()
        costs.append(search.plan.costs)
    plan = search.plan
    assert (torch.stack(costs).diff(dim=0) <= 0).all()
    assert (plan.states[-1, :, 0].cos() > 0.99).all()
    assert plan.actions.abs().max() <= 2.0
    # What the plan says is what the physics give.
    states, again = problem.rollout(HANGING, plan.actions[:, None])
    torch.testing.assert_close(again[0], plan.costs, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(states[:, 0], plan.states, rtol=0, atol=1e-7)


def test_converges_to_a_stationary_point():
    problem = pendulum()
    start = torch.full((80, 3, 1), 0.1, dtype=torch.float64)
    plan = ILQR(iterations=300, tolerance=1e-14).plan(problem, HANGING, start)
    eps = 1e-5
    for step in (0, 17, 40, 79):
        moved = plan.actions[:, None].repeat(1, 2, 1, 1)
        moved[step, 0] += eps
        moved[step, 1] -= eps
        # Beyond a bound the engine clamps: there only the inward half of the difference counts.
        _, costs = problem.rollout(HANGING, moved)
        slope = (costs[0] - costs[1]) / (2 * eps)
        at_high, at_low = (plan.actions[step, :, 0] >= 2), (plan.actions[step, :, 0] <= -2)
        ok = (slope.abs() < 2e-4) | (at_high & (slope <= 0)) | (at_low & (slope >= 0))
        assert ok.all(), (step, slope)


def test_promises_are_kept_where_the_problem_is_quadratic():
    w = random_weights(3, 4, 2)
    problem, x0 = problem_of(w, 12), normal(4, 2, 4)
    states, costs = problem.rollout(x0, problem.still(2)[:, None])
    states, actions = states[:, 0], problem.still(2)
    a, b = problem.model.linearize(states[:-1], actions, problem.scene)
    stage, final_x, final_xx = problem.expand(states, actions, a, b)
    local = LocalModel(*(part.numpy() for part in (a, b, *stage, final_x, final_xx)))
    unlimited = np.full(actions.shape, np.inf)
    step = backward_pass(local, -unlimited, unlimited, np.zeros(2), np.zeros(actions.shape))
    for length in (1.0, 0.3):

        def law(t, x, length=length):
            k, gains = torch.from_numpy(step.k[t]), torch.from_numpy(step.gains[t])
            return length * k + (gains @ (x - states[t])[:, :, None])[:, :, 0]

        _, _, moved = problem.closed_loop(x0, law)
        promised = -(length * step.linear + 0.5 * length**2 * step.quadratic)
        np.testing.assert_allclose((costs[0] - moved).numpy(), promised, rtol=1e-9)


class Saddle(StageCost):
    """cos(x) + u^2 / 2: concave where the start is."""

    def __call__(self, points):
        return points.next_state[:, 0].cos() + 0.5 * points.action[:, 0].square()

    def quadratic(self, points, a, b, model):
        x, u = points.next_state, points.action
        slope, curve = -x.sin()[:, None], -x.cos()[:, :, None]
        return Quadratic(
            (slope @ a)[:, 0],
            (slope @ b)[:, 0] + u,
            a.mT @ curve @ a,
            b.mT @ curve @ a,
            b.mT @ curve @ b + torch.eye(1, dtype=torch.float64),
        )


class Integrator(nn.Module):
    def forward(self, state, action):
        return state + 2 * action


@pytest.mark.parametrize("regularize", ["state", "control"])
def test_regularisation_gets_over_negative_curvature(regularize):
    limit = torch.tensor([5.0], dtype=torch.float64)
    problem = Problem(TorchModel(Integrator(), 1), Saddle(), -limit, limit, 6)
    x0 = torch.tensor([[0.3], [-0.2]], dtype=torch.float64)
    search = begun(ILQR(regularize=regularize), problem, x0)
    search.iterate()
    assert search.measured()["regularization"] > 0  # Q_uu was not positive definite
    for _ in range(60):
        search.iterate()
    assert (search.plan.states[-1, :, 0].cos() < -0.99).all()


def test_samples_leave_a_stationary_point():
    problem, hanging = pendulum(60), HANGING[:1]
    stuck = ILQR().plan(problem, hanging)
    assert not stuck.actions.any()  # at rest, straight down: no gradient says which way
    freed = begun(ILQR(samples=8), problem, hanging)
    costs = []
    for _ in range(15):
        freed.iterate()
        costs.append(freed.plan.costs.item())
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 0.9 * stuck.costs.item()
    _, again = problem.rollout(hanging, freed.plan.actions[:, None])
    assert again.item() == pytest.approx(costs[-1], rel=1e-9)


def test_samples_are_drawn_as_documented():
    planner, problem = ILQR(samples=3, noise=0.2, knots=None), pendulum(2000)
    noise = planner.drawn(problem, 2, torch.Generator().manual_seed(0))
    assert noise.shape == (2000, 3, 2, 1)
    expected = torch.tensor([0.2, 0.02, 0.002]).double() * 2.0  # half the range of the control
    torch.testing.assert_close(noise.std((0, 2, 3)), expected, rtol=0.06, atol=0)


def test_the_regularisation_goes_on_in_the_next_plan():
    problem = pendulum(40)
    start = torch.full((40, 3, 1), 0.1, dtype=torch.float64)
    whole = ILQR(iterations=6).plan(problem, HANGING, start)
    half = ILQR(iterations=3).plan(problem, HANGING, start)
    memory = half.rows(torch.arange(3)).shifted(0).memory
    again = ILQR(iterations=3).plan(problem, HANGING, half.actions, memory=memory)
    torch.testing.assert_close(again.actions, whole.actions, rtol=0, atol=1e-9)
    for name, value in whole.memory.items():
        assert torch.equal(again.memory[name], value)
    assert half.memory["regularization"].shape == half.shifted(7).memory["growth"].shape


def test_rows_are_independent():
    problem = pendulum(40)
    start = torch.full((40, 3, 1), 0.1, dtype=torch.float64)
    together = ILQR(iterations=8).plan(problem, HANGING, start)
    for row in range(3):
        part = slice(row, row + 1)
        alone = ILQR(iterations=8).plan(problem, HANGING[part], start[:, part])
        torch.testing.assert_close(alone.actions, together.actions[:, part], rtol=0, atol=1e-9)


def test_goes_on_bit_for_bit_from_its_state():
    problem, planner = pendulum(40), ILQR(samples=4)
    start = torch.full((40, 3, 1), 0.1, dtype=torch.float64)
    search = begun(planner, problem, HANGING, start)
    for _ in range(3):
        search.iterate()
    saved = search.state_dict()
    other = begun(planner, problem, HANGING, start)
    other.load_state_dict(saved)
    other._generator.set_state(search._generator.get_state())
    for _ in range(3):
        search.iterate()
        other.iterate()
    assert torch.equal(search.plan.actions, other.plan.actions)
    assert torch.equal(search.plan.gains, other.plan.gains)


def test_a_start_that_diverges_is_named():
    class Exploding(nn.Module):
        def forward(self, state, action):
            return state**9

    limit = torch.tensor([5.0], dtype=torch.float64)
    problem = Problem(TorchModel(Exploding(), 1), Saddle(), -limit, limit, 9)
    with pytest.raises(DivergenceError, match=r"initial actions of a plan diverge in rows \[1\]"):
        ILQR().plan(problem, torch.tensor([[0.5], [3.0]], dtype=torch.float64))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"step_lengths": 0}, "step_lengths must be at least 1, got 0"),
        ({"derivative_skip": -1}, "derivative_skip must be at least 0, got -1"),
        ({"regularization": -1.0}, "regularization must lie in"),
        ({"regularize": "sate"}, "did you mean 'state'"),
        ({"acceptance": "bets"}, "did you mean 'best'"),
        ({"samples": -1}, "samples must be at least 0, got -1"),
        ({"samples": 3, "acceptance": "armijo"}, "samples must be 0 with acceptance armijo"),
        ({"noise": 0.0}, "noise must be positive, got 0.0"),
        ({"knots": 0}, "knots must be at least 1, got 0"),
        ({"tolerance": float("nan")}, "tolerance must not be negative"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ArgumentError, match=message):
        ILQR(**options)


def test_only_the_default_number_of_knots_shrinks_with_the_horizon():
    problem = pendulum(5)
    noise = ILQR(samples=3).drawn(problem, 2, torch.Generator().manual_seed(0))
    every = ILQR(samples=3, knots=None).drawn(problem, 2, torch.Generator().manual_seed(0))
    torch.testing.assert_close(noise, every)  # five knots for five steps
    assert ILQR(samples=3).plan(problem, HANGING, iterations=1).actions.shape == (5, 3, 1)
    with pytest.raises(ArgumentError, match=r"^knots must be at most the horizon 5, got 6$"):
        ILQR(samples=3, knots=6).plan(problem, HANGING)


def test_quadratic_models_of_the_test_costs_are_right():
    """The oracle's oracle: Gauss-Newton gradients against autograd of the cost itself."""
    problem = pendulum(5)
    actions = 0.3 * normal(5, 5, 3, 1)
    states = problem.model.rollout(HANGING, actions, problem.scene)
    a, b = problem.model.linearize(states[:-1], actions, problem.scene)
    points = StagePoints.along(states, actions, problem.scene)
    found = Upright().quadratic(points, a.flatten(0, 1), b.flatten(0, 1), problem.model)
    y = points.next_state.clone().requires_grad_()
    u = points.action.clone().requires_grad_()
    total = Upright()(points._replace(next_state=y, action=u)).sum()
    by_y, by_u = torch.autograd.grad(total, (y, u))
    expected = (by_y[:, None] @ b.flatten(0, 1))[:, 0] + by_u
    torch.testing.assert_close(found.u, expected)
