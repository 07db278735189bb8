"""Gradient shooting against independent solvers, and the promises of a planner."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import mbrl
from mbrl.errors import ArgumentError, ConfigError
from mbrl.options import completed
from mbrl.planning import GradientShooting
from mbrl.registry import PLANNERS
from tests.planning.gradient_problems import (
    box_optimum,
    cliff,
    dense,
    inside,
    linear_quadratic,
    point_mass,
    same,
    smooth,
    states,
    stored,
    unrolled,
)

KINDS = ["adam", "lbfgs", "normalized"]


def planner(kind="lbfgs", iterations=50, **options):
    own = {"lr", "betas", "patience", "history", "step_lengths"}
    optimizer = {name: options.pop(name) for name in own & options.keys()}
    return GradientShooting(iterations=iterations, optimizer={"kind": kind, **optimizer}, **options)


def reduced(problem, x0, spline=None, goal=None):
    """Return the box QP of one row, perhaps by the knots of a spline."""
    h_matrix, h_vector = dense(problem, x0, goal)
    s = np.eye(problem.horizon) if spline is None else spline
    return s.T @ h_matrix @ s, s.T @ h_vector


@pytest.mark.parametrize("seed", range(4))
def test_lbfgs_meets_the_conditions_of_optimality_in_a_box(seed):
    goals = states(3, seed=seed + 50)
    problem = linear_quadratic(seed=seed, context=goals)
    x0 = states(3, seed=seed)
    found = planner(iterations=200).plan(problem, x0)
    low, high = float(problem.low), float(problem.high)
    active = 0
    for row in range(3):
        h_matrix, h_vector = reduced(problem, x0[row], goal=goals[row])
        u = found.actions[:, row, 0].numpy()
        gradient = h_matrix @ u + h_vector
        assert np.abs(u - np.clip(u - gradient, low, high)).max() < 1e-6
        optimum = box_optimum(h_matrix, h_vector, low, high)
        np.testing.assert_allclose(u, optimum, atol=1e-6)
        active += int(((optimum == low) | (optimum == high)).sum())
    assert 0 < active < 18


def zero_spline():
    return np.kron(np.eye(3), np.ones((2, 1)))  # each of three knots is held for two steps


def linear_spline():
    place = np.linspace(0, 2, 6)
    return np.maximum(0, 1 - np.abs(place[:, None] - np.arange(3)))  # hat functions


@pytest.mark.parametrize(
    ("interpolation", "matrix"), [("zero", zero_spline()), ("linear", linear_spline())]
)
def test_with_few_knots_lbfgs_finds_the_best_spline(interpolation, matrix):
    problem, x0 = linear_quadratic(seed=1), states(3)
    found = planner(iterations=200, knots=3, interpolation=interpolation).plan(problem, x0)
    for row in range(3):
        h_matrix, h_vector = reduced(problem, x0[row], matrix)
        theta = box_optimum(h_matrix, h_vector, float(problem.low), float(problem.high))
        np.testing.assert_allclose(found.actions[:, row, 0], matrix @ theta, atol=1e-6)


@pytest.mark.parametrize("kind", ["adam", "normalized"])
def test_the_others_come_near_the_optimum_in_a_box(kind):
    problem, x0 = linear_quadratic(seed=1), states(3)
    found = planner(kind, iterations=400).plan(problem, x0)
    begun = problem.rollout(x0, problem.still(3)[:, None])[1][0]
    for row in range(3):
        h_matrix, h_vector = reduced(problem, x0[row])
        u = box_optimum(h_matrix, h_vector, float(problem.low), float(problem.high))
        gain = -(0.5 * u @ h_matrix @ u + h_vector @ u)  # over zeros
        assert begun[row] - found.costs[row] > 0.999 * gain
        assert begun[row] - found.costs[row] < gain + 1e-9


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("interpolation", ["linear", "cubic"])
def test_the_point_mass_is_home_after_fifty_iterations(kind, interpolation):
    problem, x0 = point_mass()
    knots = None if interpolation == "linear" else 13
    found = planner(kind, interpolation=interpolation, knots=knots).plan(problem, x0)
    assert found.states[-1, 0, :2].norm() < 1e-2
    assert found.actions.abs().max() == 1  # the bounds are active on the way
    replayed = problem.model.simulator.rollout(x0.numpy(), found.actions.numpy())
    assert np.array_equal(replayed, found.states.numpy())


@pytest.mark.parametrize("kind", KINDS)
def test_a_learned_model_is_descended_like_any_other(kind):
    problem, x0 = smooth(), states(4)
    start = inside(problem, 4)
    found = planner(kind, iterations=150).plan(problem, x0, start)
    before = problem.rollout(x0, start[:, None])[1][0]
    assert (found.costs < before - 0.1).all()
    assert (found.actions >= problem.low).all()
    assert (found.actions <= problem.high).all()
    if kind == "lbfgs":
        u = found.actions.clone().requires_grad_()
        unrolled(problem, x0, u).sum().backward()
        residual = u - torch.clamp(u - u.grad, problem.low, problem.high)
        assert residual.abs().max() < 1e-5
    torch.testing.assert_close(unrolled(problem, x0, found.actions).sum(0), found.costs)


@pytest.mark.parametrize("kind", KINDS)
def test_the_plan_never_gets_worse_and_begins_with_the_actions_given(kind):
    problem, x0 = smooth(), states(3)
    start = inside(problem, 3)
    search = planner(kind, knots=3, interpolation="cubic").begin(problem, x0, start, None)
    first = search.plan
    given = problem.rollout(x0, start[:, None])
    assert (first.costs <= given[1][0]).all()
    kept = first.costs == given[1][0]
    assert torch.equal(first.actions[:, kept], start[:, kept])
    costs = first.costs
    for _ in range(20):
        search.iterate()
        assert (search.plan.costs <= costs).all()
        costs = search.plan.costs
    again, total = problem.rollout(x0, search.plan.actions[:, None])
    torch.testing.assert_close(total[0], costs)
    torch.testing.assert_close(again[:, 0], search.plan.states)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("after", [0, 1, 7])
def test_a_search_that_is_resumed_goes_on_bit_by_bit(kind, after):
    problem, x0 = point_mass()
    x0 = torch.cat([x0, -0.5 * x0])
    make = planner(kind, knots=6, interpolation="cubic")
    straight = make.begin(problem, x0, problem.still(2), None)
    resumed = make.begin(problem, x0, problem.still(2), None)
    for _ in range(after):
        straight.iterate()
    resumed.load_state_dict(stored(straight))
    for _ in range(8):
        straight.iterate()
        resumed.iterate()
        assert same(straight.plan, resumed.plan)
        assert straight.converged == resumed.converged
    assert (straight.plan.costs < make.begin(problem, x0, problem.still(2), None).plan.costs).all()


@pytest.mark.parametrize("kind", KINDS)
def test_rows_do_not_know_each_other(kind):
    problem, x0 = point_mass()
    others = [torch.cat([x0, factor * x0]) for factor in (0.0, 0.7, 1.3)]
    plans = [planner(kind, iterations=12).plan(problem, pair) for pair in others]
    alone = planner(kind, iterations=12).plan(problem, x0)
    for plan in plans:
        assert torch.equal(plan.actions[:, 0], plans[0].actions[:, 0])
        torch.testing.assert_close(plan.actions[:, :1], alone.actions, rtol=1e-7, atol=1e-7)
    assert not torch.equal(plans[1].actions[:, 1], plans[2].actions[:, 1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_that_diverges_whatever_it_does_leaves_the_other_alone(kind):
    problem = cliff(at=1.5)
    x0 = torch.tensor([[0.0], [5.0]], dtype=torch.float64)
    found = planner(kind, iterations=100).plan(problem, x0)
    assert found.costs[1] == math.inf
    assert found.actions.isfinite().all()
    assert found.costs[0].isfinite()
    assert found.states[:, 0].abs().max() <= 1.5
    waiting = problem.rollout(x0[:1].repeat(2, 1), problem.still(2)[:, None])[1][0, 0]
    assert found.costs[0] < 0.7 * waiting
    search = planner(kind).begin(problem, x0[1:].repeat(2, 1), problem.still(2), None)
    search.iterate()
    assert search.converged


def test_adam_goes_on_after_it_fell_off_a_cliff():
    problem = cliff(horizon=1, at=0.3)  # x = 0.5 u: the best is at the edge, u = 0.6
    x0 = torch.zeros(2, 1, dtype=torch.float64)
    search = planner("adam", lr=0.8).begin(problem, x0, problem.still(2), None)
    search.iterate()
    assert (search.plan.actions == 0).all()  # it fell
    for _ in range(60):
        search.iterate()
    assert (search.plan.actions > 0.59).all()
    assert (search.plan.actions <= 0.6).all()


@pytest.mark.parametrize("kind", ["lbfgs", "normalized"])
def test_it_stops_when_it_has_converged(kind):
    problem, x0 = linear_quadratic(seed=1), states(3)
    search = planner(kind).begin(problem, x0, problem.still(3), None)
    count = 0
    while not search.converged and count < 2000:
        search.iterate()
        count += 1
    assert search.converged
    before = search.plan
    search.iterate()
    assert same(before, search.plan)
    if kind == "lbfgs":
        assert count < 100


def test_at_the_optimum_nothing_is_left_to_do():
    problem, x0 = linear_quadratic(seed=1), states(1)
    h_matrix, h_vector = reduced(problem, x0[0])
    u = box_optimum(h_matrix, h_vector, float(problem.low), float(problem.high))
    start = torch.from_numpy(u)[:, None, None]
    for kind in KINDS:
        search = planner(kind).begin(problem, x0, start, None)
        search.iterate()
        assert search.converged
        assert search.measured()["residual"] < 1e-10


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_that_has_converged_is_left_alone_while_others_go_on(kind):
    problem, x0 = linear_quadratic(seed=1), states(2)
    h_matrix, h_vector = reduced(problem, x0[0])
    start = problem.still(2)
    u = box_optimum(h_matrix, h_vector, float(problem.low), float(problem.high))
    start[:, 0, 0] = torch.from_numpy(u)
    search = planner(kind).begin(problem, x0, start, None)
    before = search.state_dict()["_here"]["knots"]
    for _ in range(3):
        search.iterate()
    after = search.state_dict()["_here"]["knots"]
    assert torch.equal(before[:, 0], after[:, 0])
    assert not torch.equal(before[:, 1], after[:, 1])
    assert not search.converged


def test_without_bounds_actions_may_be_large():
    problem, x0 = linear_quadratic(seed=2), 50 * states(2)
    far = torch.full((1,), math.inf, dtype=torch.float64)
    problem = replace(problem, low=-far, high=far)
    found = planner(iterations=200).plan(problem, x0)
    for row in range(2):
        h_matrix, h_vector = dense(problem, x0[row])
        expected = np.linalg.solve(h_matrix, -h_vector)
        np.testing.assert_allclose(found.actions[:, row, 0], expected, rtol=1e-5, atol=1e-4)
    assert found.actions.abs().max() > 10


def test_it_is_registered_and_its_arguments_are_its_options():
    assert PLANNERS["gradient_shooting"] is mbrl.planning.GradientShooting
    found = completed(GradientShooting, {"optimizer": {"kind": "adam", "lr": 0.2}}, "planner")
    assert found["optimizer"] == {"kind": "adam", "lr": 0.2, "betas": (0.9, 0.999), "patience": 5}
    assert GradientShooting(**found).iterations == 50
    assert completed(GradientShooting, {}, "planner")["optimizer"]["kind"] == "lbfgs"
    with pytest.raises(ConfigError, match=r"planner.optimizer.kind: unknown value 'lbgfs'.*lbfgs"):
        completed(GradientShooting, {"optimizer": {"kind": "lbgfs"}}, "planner")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"tolerance": -1.0}, "tolerance must not be negative, got -1.0"),
        ({"tolerance": math.nan}, "tolerance must not be negative, got nan"),
        ({"knots": 0}, "knots must be at least 1, got 0"),
        ({"interpolation": "linaer"}, "interpolation: unknown value 'linaer'.*did you mean"),
        ({"kind": "adam", "lr": 0.0}, "optimizer.lr must be positive, got 0.0"),
        ({"kind": "adam", "betas": (0.9, 1.0)}, r"optimizer.betas must be two numbers in \[0, 1\)"),
        ({"kind": "adam", "patience": 1}, "optimizer.patience must be at least 2, got 1"),
        ({"history": 0}, "optimizer.history must be at least 1, got 0"),
        ({"step_lengths": 1}, "optimizer.step_lengths must be at least 2, got 1"),
        ({"kind": "normalized", "step_lengths": 1}, "optimizer.step_lengths must be at least 2"),
    ],
)
def test_bad_options_are_told_in_one_line(options, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        planner(**options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("optimizer", "message"),
    [
        ({"kind": "lbfgs", "contraction": 1.0}, "optimizer.contraction must lie between 0 and 1"),
        ({"kind": "lbfgs", "decrease": 0.0}, "optimizer.decrease must lie between 0 and 1"),
        ({"kind": "normalized", "shortest": 2.0}, "optimizer.shortest must lie between 0 and"),
    ],
)
def test_bad_options_of_an_optimizer_name_it(optimizer, message):
    with pytest.raises(ArgumentError, match=message):
        GradientShooting(optimizer=optimizer)


def test_more_knots_than_steps_are_refused():
    problem, x0 = linear_quadratic(), states(1)
    with pytest.raises(ArgumentError, match="knots must be at most the horizon 6, got 7"):
        planner(knots=7).plan(problem, x0)
