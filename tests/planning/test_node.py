"""MPC as a node of a graph."""

import numpy as np
import pytest
import torch

import mbrl
from mbrl.errors import ArgumentError, GraphError
from mbrl.graph import GraphPolicy
from mbrl.planning import ILQR, RecedingHorizon, Schedule, make_problem
from mbrl.tasks import evaluate

COST = {
    "upright": {"residual": {"kind": "joint_position", "joint": "hinge"}, "weight": 10},
    "centred": {"residual": {"kind": "joint_position", "joint": "slider"}},
    "effort": {"residual": {"kind": "control"}, "weight": 0.01},
}


def section(**options):
    plan = {"kind": "mpc", "horizon": 15, "cost": COST, **options}
    return {
        "nodes": {"observe": None, "policy": None, "plan": plan},
        "carry": {"plan": {"source": "next_plan", "width": 15}},
    }


@pytest.fixture(scope="module")
def task():
    return mbrl.make_task("InvertedPendulum-v5", threads=1, reset_noise_scale=0.1)


@pytest.fixture(scope="module")
def start(task):
    return task.reset(3, torch.Generator().manual_seed(0))


def test_it_does_what_the_policy_of_planners_does(task, start):
    graph = mbrl.build_graph(section(), task)
    rollout = graph.unroll(start, 8)
    policy = RecedingHorizon(make_problem(task, 15, cost=COST), ILQR(), schedule=Schedule())
    for t in range(8):
        action = policy.act(rollout.states[t].numpy(), t)
        np.testing.assert_array_equal(action, rollout.actions[t].numpy())


def test_its_derivative_is_that_of_a_converged_plan(task, start):
    """Where plans converge, du/dx is the slope of the optimal action."""
    graph = mbrl.build_graph(section(first_iterations=100, planner={"kind": "ilqr"}), task)
    x = start.clone().requires_grad_()
    action = graph.unroll(x, 1).actions[0, :, 0]
    (slope,) = torch.autograd.grad(action.sum(), x)
    direction = torch.randn(3, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    eps = 1e-4
    with torch.no_grad():
        ahead, behind = (
            graph.unroll(start + sign * eps * direction, 1).actions[0, :, 0] for sign in (1, -1)
        )
    expected = (ahead - behind) / (2 * eps)
    # The gain neglects second derivatives of the dynamics, as iLQR does.
    torch.testing.assert_close((slope * direction).sum(1), expected, rtol=0.05, atol=0.01)


def test_it_acts_on_states_in_the_real_environment(task):
    graph = mbrl.build_graph(section(), task)
    actor = GraphPolicy.of(graph)
    assert actor.on_states
    found = evaluate(task, actor.act, episodes=2, seed=0, on_states=True)
    assert found.returns.tolist() == [1000.0, 1000.0]


def test_an_observing_policy_beside_it_sees_observations(task, start):
    nodes = section(outputs=["planned", "next_plan"])
    nodes["nodes"] |= {
        "observe": {"kind": "observe"},
        "policy": {"kind": "deterministic_mlp", "outputs": ["correction"]},
        "total": {"kind": "sum", "inputs": ["planned", "correction"], "outputs": ["action"]},
    }
    graph = mbrl.build_graph(nodes, task)
    actor = GraphPolicy.of(graph)
    with torch.no_grad():
        rollout = graph.unroll(start, 5)
    for t in range(5):
        action = actor.act(rollout.states[t].numpy())
        np.testing.assert_array_equal(action, rollout.actions[t].numpy())


def test_a_planner_that_samples_repeats_itself(task, start):
    sampling = section(planner={"kind": "cem", "samples": 16, "elites": 4, "iterations": 2})
    rollouts = [mbrl.build_graph(sampling, task).unroll(start, 4).actions for _ in range(2)]
    assert torch.equal(*rollouts)


def test_the_carried_plan_must_fit(task):
    wrong = section()
    wrong["carry"]["plan"]["width"] = 14
    with pytest.raises(GraphError, match=r"'plan' must have width 15 \(horizon 15 times 1"):
        mbrl.build_graph(wrong, task)


def test_options_are_checked_by_key(task):
    for options, message in (
        ({"planner": {"kind": "ilrq"}}, r"graph.nodes.plan.planner.kind: .* mean 'ilqr'"),
        ({"planner": {"iterations": 3}}, r"graph.nodes.plan.planner.kind"),
        ({"horizn": 3}, "did you mean 'horizon'"),
        (
            {"planner": {"kind": "mppi", "knots": 16}},
            "^graph.nodes.plan.planner.knots must be at most the horizon 15, got 16$",
        ),
        ({"cost": {"a": {"residual": {"kind": "contrl"}}}}, "did you mean 'control'"),
    ):
        with pytest.raises(mbrl.MbrlError, match=message):
            mbrl.build_graph(section(**options), task)


def test_it_acts_where_observations_are_narrower_than_states():
    task = mbrl.make_task("Hopper-v5", threads=1)
    cost = {"effort": {"residual": {"kind": "control"}}}
    plan = {"kind": "mpc", "horizon": 2, "cost": cost, "planner": {"kind": "predictive_sampling"}}
    graph = mbrl.build_graph(
        {
            "nodes": {"observe": None, "policy": None, "plan": plan},
            "carry": {"plan": {"source": "next_plan", "width": 6}},
        },
        task,
    )
    assert task.observation_size < task.state_size
    state = task.reset(2, torch.Generator().manual_seed(0))
    acted = GraphPolicy.of(graph).act(state.numpy())
    np.testing.assert_array_equal(acted, graph.unroll(state, 1).actions[0].numpy())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "graph.nodes.plan.iterations must be at least 1, got 0"),
        ({"first_iterations": -1}, "graph.nodes.plan.first_iterations must be at least 1, got -1"),
        ({"initial_sd": -1.0}, "graph.nodes.plan.initial_sd must not be negative, got -1.0"),
    ],
)
def test_numbers_out_of_range_are_named(task, options, message):
    with pytest.raises(ArgumentError, match=message):
        mbrl.build_graph(section(**options), task)
