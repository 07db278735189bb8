"""The acting policy against the unrolling and the environment; copies and pickles of both."""

import copy
import io
import pickle

import numpy as np
import pytest
import torch

import mbrl
from mbrl.graph import GraphPolicy
from mbrl.tasks import Task

MLP = {"kind": "deterministic_mlp", "hidden": [8], "output_scale": 1.0, "dtype": "float64"}
ENVIRONMENT_STEP = {
    "base": "empty",
    "nodes": {
        "policy": MLP,
        "step": {"kind": "step"},
    },
    "carry": {
        "state": "next_state",
        "observation": {"source": "next_observation", "initial": "observe"},
    },
}
# Holds, remembers, and knows the time: everything an acting policy may get wrong.
MINDFUL = {
    "nodes": {
        "clock": {"kind": "phase", "period": 7, "inputs": ["observation"]},
        "remember": {"kind": "history", "steps": 2, "inputs": ["observation", "past"]},
        "seen": {"kind": "concat", "inputs": ["history", "previous", "phase"]},
        "policy": {**MLP, "inputs": ["joined"], "outputs": ["wanted"]},
        "repeat": {"kind": "hold", "steps": 2, "inputs": ["wanted", "previous"],
                   "outputs": ["action"]},
    },
    "carry": {"past": "history", "previous": "action"},
}  # fmt: skip


@pytest.fixture(scope="module")
def swimmer():
    return mbrl.make_task("Swimmer-v5", threads=1)


def start(task, batch=2):
    return task.reset(batch, torch.Generator().manual_seed(0))


def in_the_environment(task, policy, state, steps):
    """Actions and observations of an episode in the Gymnasium environment from a state (nx,)."""
    env = task.make_env().unwrapped
    env.reset(seed=0)
    nq = env.model.nq
    env.set_state(state[:nq].numpy(), state[nq:].numpy())
    seen, actions = [env._get_obs()], []
    policy.reset()
    for _ in range(steps):
        actions.append(policy.act(seen[-1]))
        seen.append(env.step(actions[-1])[0])
    env.close()
    return np.stack(actions), np.stack(seen)


def test_a_carried_observation_is_what_the_environment_returns(swimmer):
    graph = mbrl.build_graph(ENVIRONMENT_STEP, swimmer)
    state = start(swimmer)
    unrolled = graph.unroll(state, 6, record=["observation", "next_observation"])
    for row in range(2):
        actions, seen = in_the_environment(swimmer, GraphPolicy.of(graph), state[row], 6)
        np.testing.assert_allclose(unrolled.actions[:, row].detach(), actions, atol=1e-9)
        np.testing.assert_allclose(
            unrolled.values["observation"][:, row].detach(), seen[:-1], atol=1e-9
        )
        np.testing.assert_allclose(
            unrolled.values["next_observation"][:, row].detach(), seen[1:], atol=1e-9
        )


def test_gradients_flow_through_the_carried_observation(swimmer):
    graph = mbrl.build_graph(ENVIRONMENT_STEP, swimmer)
    state, weight = start(swimmer), graph.nodes["policy"].policy.network[0].weight
    found = torch.autograd.grad(graph.unroll(state, 4).rewards.sum(), weight)[0]
    along = torch.randn(weight.shape, generator=torch.Generator().manual_seed(2)).double()
    ends = []
    with torch.no_grad():
        for h in (1e-5, -2e-5):
            weight += h * along
            ends.append(float(graph.unroll(state, 4).rewards.sum()))
    assert float((found * along).sum()) == pytest.approx((ends[0] - ends[1]) / 2e-5, rel=2e-4)


@pytest.mark.parametrize("section", [{"nodes": {"policy": MLP}}, MINDFUL])
def test_it_acts_in_the_environment_as_in_the_unrolling(swimmer, section):
    graph = mbrl.build_graph(section, swimmer)
    state = start(swimmer)
    unrolled = graph.unroll(state, 7).actions.detach()
    actor = GraphPolicy.of(graph)
    for row in range(2):
        actions, _ = in_the_environment(swimmer, actor, state[row], 7)
        np.testing.assert_allclose(unrolled[:, row], actions, atol=1e-9)


def test_the_observation_before_is_no_present_observation(swimmer):
    """A carry that starts as an observation and is one step late is remembered, not given."""
    section = {
        "nodes": {
            "seen": {"kind": "concat", "inputs": ["observation", "before"]},
            "policy": {**MLP, "inputs": ["joined"]},
        },
        "carry": {"before": {"source": "observation", "initial": "observe"}},
    }
    graph = mbrl.build_graph(section, swimmer)
    trajectory = graph.unroll(start(swimmer), 4, record=["before", "observation"])
    seen = trajectory.values["observation"].detach()
    assert torch.equal(trajectory.values["before"], torch.cat([seen[:1], seen[:-1]]))
    actor = GraphPolicy.of(graph)
    for t in range(4):
        np.testing.assert_allclose(actor.act(seen[t].numpy()), trajectory.actions[t].detach())


@pytest.mark.parametrize("output", ["reward", "other"])
def test_only_the_next_observation_of_a_step_counts_as_observed(swimmer, output):
    section = copy.deepcopy(ENVIRONMENT_STEP)
    if output == "reward":  # an output of the step, but not what is seen
        section["nodes"]["wide"] = {
            "kind": "concat", "inputs": ["next_observation"], "outputs": ["wide"],
        }  # fmt: skip
        section["carry"]["observation"]["source"] = "wide"
    else:  # a step that is not the one whose state is carried on
        section["nodes"]["dynamics"] = {"kind": "dynamics", "outputs": ["elsewhere"]}
        section["carry"]["state"] = "elsewhere"
    graph = mbrl.build_graph(section, swimmer)
    with pytest.raises(mbrl.MbrlError, match="the action depends on the state itself"):
        GraphPolicy.of(graph)


def test_another_number_of_episodes_begins_new_memories(swimmer):
    graph = mbrl.build_graph(MINDFUL, swimmer)
    state = start(swimmer)
    seen = swimmer.observe(state).numpy()
    actor = GraphPolicy.of(graph)
    actor.act(seen)
    late = actor.act(seen[0])  # the second step of an episode, with nothing remembered
    unrolled = graph.unroll(state[:1], 1, start=1).actions[0, 0]
    np.testing.assert_allclose(late, unrolled.detach(), atol=1e-12)


def test_copies_and_pickles_of_an_acting_policy_go_on_where_it_was(swimmer):
    graph = mbrl.build_graph(MINDFUL, swimmer)
    seen = torch.randn((5, 8), generator=torch.Generator().manual_seed(4)).numpy()
    policy = GraphPolicy.of(graph)
    with torch.no_grad():
        for parameter in policy.parameters():  # not those of a policy that is merely built
            parameter += 0.1
    for t in range(3):
        policy.act(seen[t])
    others = [copy.deepcopy(policy), pickle.loads(pickle.dumps(policy))]
    expected = [policy.act(seen[t]) for t in (3, 4)]
    with torch.no_grad():
        for parameter in graph.parameters():
            parameter.zero_()
    for other in others:
        np.testing.assert_array_equal([other.act(seen[t]) for t in (3, 4)], expected)


class _Pickler(pickle.Pickler):
    """Keeps tasks by reference: whether they can be pickled is their own affair."""

    def persistent_id(self, thing):
        return thing.name if isinstance(thing, Task) else None


def test_copies_and_pickles_of_a_graph_stand_alone(swimmer):
    graph = mbrl.build_graph(MINDFUL, swimmer)
    with torch.no_grad():
        for parameter in graph.parameters():
            parameter += 0.1
    file = io.BytesIO()
    _Pickler(file).dump(graph)
    reader = pickle.Unpickler(io.BytesIO(file.getvalue()))
    reader.persistent_load = lambda name: swimmer
    others = [copy.deepcopy(graph), reader.load()]
    state = start(swimmer)
    expected = graph.unroll(state, 3)
    with torch.no_grad():
        for parameter in graph.parameters():
            parameter.zero_()
    for other in others:
        trajectory = other.unroll(state, 3)
        assert torch.equal(trajectory.actions, expected.actions)
        gradients = torch.autograd.grad(trajectory.rewards.sum(), list(other.parameters()))
        assert all(float(g.abs().max()) > 0 for g in gradients)
