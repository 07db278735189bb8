"""Unrolling against a loop written out by hand: carries, frozen rows, nodes of one's own."""

import copy

import numpy as np
import pytest
import torch

import mbrl
from mbrl.errors import ArgumentError
from mbrl.graph import GraphPolicy, Node, Step
from mbrl.registry import NODES

SMOOTH = "mbrl/SmoothInvertedPendulum-v0"


@pytest.fixture(scope="module")
def pendulum():
    return mbrl.make_task(SMOOTH, threads=1)


def start(task, batch, seed=0):
    return task.reset(batch, torch.Generator().manual_seed(seed))


def test_unroll_equals_the_loop_written_out(pendulum):
    graph = mbrl.build_graph({"nodes": {"policy": {"kind": "gaussian_mlp"}}}, pendulum)
    state = start(pendulum, 3)
    trajectory = graph.unroll(
        state, 6, generator=torch.Generator().manual_seed(5), record=["observation"]
    )
    policy, noise = graph.nodes["policy"].policy, torch.Generator().manual_seed(5)
    x = state
    for t in range(6):
        u = policy(pendulum.observe(x), Step(generator=noise))
        following = torch.from_numpy(pendulum.simulator.step(x.numpy(), u.detach().numpy()))
        assert torch.equal(trajectory.states[t], x)
        assert torch.equal(trajectory.values["observation"][t], pendulum.observe(x))
        assert torch.equal(trajectory.actions[t], u)
        assert torch.equal(trajectory.rewards[t], pendulum.reward(x, u.detach(), following))
        x = following
    assert torch.equal(trajectory.states[6], x)
    assert bool(trajectory.alive.all())


@pytest.mark.parametrize("why", [None, "time", "context", "own step", "carried"])
def test_a_reward_of_single_rows_is_computed_once_for_all_steps(pendulum, monkeypatch, why):
    section = {"nodes": {"total": {"kind": "sum", "inputs": ["reward", "reward"]}}}
    if why == "time":
        monkeypatch.setattr(pendulum, "uses_time", True)
    elif why == "context":
        monkeypatch.setattr(pendulum, "context_size", 1)
    elif why == "own step":
        monkeypatch.setattr(type(pendulum), "has_reward_formula", False)
    elif why == "carried":
        section["carry"] = {"earned": {"source": "total", "width": 0}}
    graph = mbrl.build_graph(section, pendulum)
    monkeypatch.undo()
    seen = []
    graph.nodes["reward"].register_forward_pre_hook(
        lambda node, inputs: seen.append((inputs[0].t, len(inputs[1])))
    )
    state = start(pendulum, 2)
    trajectory = graph.unroll(state, 3, start=7, record=["total"])
    assert seen == ([(0, 6)] if why is None else [(7, 2), (8, 2), (9, 2)])
    for t in range(3):
        here, action, there = trajectory.states[t], trajectory.actions[t], trajectory.states[t + 1]
        assert torch.equal(trajectory.rewards[t], pendulum.reward(here, action, there))
        assert torch.equal(trajectory.values["total"][t], 2 * trajectory.rewards[t])


def test_rows_that_end_are_frozen_and_carry_finite_gradients():
    task = mbrl.make_task("InvertedDoublePendulum-v5", threads=1)
    graph = mbrl.build_graph(None, task)
    state = start(task, 4)
    state[1, 1], state[1, 4] = 0.5, 3.0  # falls below one metre in a few steps
    trajectory = graph.unroll(state, 20)
    alive = trajectory.alive
    assert bool(alive[0].all())
    assert not bool(alive[-1, 1])
    last = int(alive[:, 1].sum())  # steps that row 1 took
    assert 0 < last < 20
    assert bool(task.terminated(trajectory.states[last])[1])
    assert not bool(task.terminated(trajectory.states[last - 1])[1])
    for t in range(last, 20):
        assert torch.equal(trajectory.states[t + 1, 1], trajectory.states[last, 1])
        assert float(trajectory.rewards[t, 1].detach()) == 0.0
        assert float(trajectory.actions[t, 1].abs().sum().detach()) == 0.0
    gradients = torch.autograd.grad(trajectory.rewards.sum(), list(graph.parameters()))
    assert all(bool(g.isfinite().all()) for g in gradients)
    # The frozen row contributes exactly what it does when it is unrolled alone, up to its end.
    alone = graph.unroll(state[1:2], last)
    mine = torch.autograd.grad(alone.rewards.sum(), list(graph.parameters()))
    others = graph.unroll(state[[0, 2, 3]], 20)
    theirs = torch.autograd.grad(others.rewards.sum(), list(graph.parameters()))
    for total, a, b in zip(gradients, mine, theirs, strict=True):
        torch.testing.assert_close(total, a + b, rtol=1e-4, atol=1e-6)


def test_a_dead_row_never_reaches_the_engine_in_its_last_state(pendulum):
    class Explode(Node):
        """Ends every row at once, in a state that the engine would refuse."""

        inputs = {"state": "nx", "action": "nu"}
        outputs = {"next_state": "nx", "terminated": 0}

        def forward(self, step, state, action):
            assert bool(state.isfinite().all())
            return state / 0 + action.sum(-1, keepdim=True), torch.ones(
                len(state), dtype=torch.bool
            )

    mbrl.register_node("test_explode")(Explode)
    try:
        section = {
            "base": "empty",
            "nodes": {
                "observe": {"kind": "observe"},
                "policy": {"kind": "deterministic_mlp"},
                "explode": {"kind": "test_explode"},
                "reward": {"kind": "reward", "inputs": {"next_state": "state"}},
            },
            "carry": {"state": "next_state"},
        }
        graph = mbrl.build_graph(section, pendulum)
        trajectory = graph.unroll(start(pendulum, 2), 3)
    finally:
        del NODES._entries["test_explode"]
    assert trajectory.alive.tolist() == [[True, True], [False, False], [False, False]]
    assert bool(trajectory.rewards.isfinite().all())


def test_carried_values_reach_the_next_step_and_the_acting_policy(pendulum):
    class Average(Node):
        """Half the observation's first entries, half the action before: a policy with memory."""

        inputs = {"observation": "n_obs", "previous": "nu"}
        outputs = {"action": "nu"}

        def forward(self, step, observation, previous):
            return 0.5 * observation[:, :1] + 0.5 * previous + 0.01 * step.t

    mbrl.register_node("test_average")(Average)
    try:
        section = {
            "base": "empty",
            "nodes": {
                "observe": {"kind": "observe"},
                "average": {"kind": "test_average"},
                "dynamics": {"kind": "dynamics"},
                "reward": {"kind": "reward"},
            },
            "carry": {"state": "next_state", "previous": {"source": "action", "initial": 0.25}},
        }
        graph = mbrl.build_graph(section, pendulum)
        state = start(pendulum, 2)
        trajectory = graph.unroll(state, 4)
        previous = torch.full((2, 1), 0.25, dtype=torch.float64)
        for t in range(4):
            previous = 0.5 * trajectory.states[t][:, :1] + 0.5 * previous + 0.01 * t
            assert torch.equal(trajectory.actions[t], previous)
        actor = GraphPolicy.of(graph)
        for t in range(4):
            np.testing.assert_array_equal(
                actor.act(trajectory.states[t].numpy()), trajectory.actions[t]
            )
        actor.reset()
        one = actor.act(trajectory.states[0, 0].numpy())
        np.testing.assert_array_equal(one, trajectory.actions[0, 0])
    finally:
        del NODES._entries["test_average"]


def test_an_agent_cannot_act_on_what_it_does_not_observe(pendulum):
    graph = mbrl.build_graph({"nodes": {"policy": {"inputs": ["state"]}}}, pendulum)
    with pytest.raises(mbrl.MbrlError, match="the action depends on the state itself"):
        GraphPolicy.of(graph)


def test_bad_arguments_are_refused_by_name(pendulum):
    graph = mbrl.build_graph(None, pendulum)
    state = start(pendulum, 2)
    with pytest.raises(ArgumentError, match=r"state must have shape \[B, 4\], got \[4\]"):
        graph.unroll(state[0], 3)
    with pytest.raises(ArgumentError, match="horizon must be a positive integer, got 0"):
        graph.unroll(state, 0)
    with pytest.raises(ArgumentError, match=r"no value 'observatoin'.*'observation'"):
        graph.unroll(state, 3, record=["observatoin"])
    with pytest.raises(ArgumentError, match=r"observation must have shape \[4\] or \[B, 4\]"):
        GraphPolicy.of(graph).act(np.zeros(3))


def test_only_an_observation_of_the_state_counts_as_observed(pendulum):
    section = {
        "nodes": {
            "again": {
                "kind": "observe",
                "inputs": ["next_state"],
                "outputs": ["next_observation"],
            },
            "policy": {"inputs": ["before"]},
        },
        "carry": {"before": {"source": "next_observation", "width": "n_obs"}},
    }
    graph = mbrl.build_graph(section, pendulum)
    with pytest.raises(mbrl.MbrlError, match="the action depends on the state itself"):
        GraphPolicy.of(graph)


def test_graphs_can_be_copied(pendulum):
    graph = mbrl.build_graph(None, pendulum)
    policy = copy.deepcopy(graph.nodes["policy"].policy)
    assert policy is not graph.nodes["policy"].policy
    dynamics = copy.deepcopy(graph.nodes["dynamics"].dynamics)
    state = start(pendulum, 2).requires_grad_()
    action = torch.zeros(2, 1, dtype=torch.float64)
    ours, theirs = (
        torch.autograd.grad(d(state, action).sum(), state)
        for d in (dynamics, graph.nodes["dynamics"].dynamics)
    )
    assert torch.equal(ours[0], theirs[0])


def test_a_node_whose_output_has_no_width_is_named(pendulum):
    class Shapeless(Node):
        inputs = {"state": "nx"}
        outputs = {"thing": None}

    mbrl.register_node("test_shapeless")(Shapeless)
    try:
        with pytest.raises(mbrl.MbrlError, match=r"graph\.nodes\.odd: the width of its output"):
            mbrl.build_graph({"nodes": {"odd": {"kind": "test_shapeless"}}}, pendulum)
    finally:
        del NODES._entries["test_shapeless"]
