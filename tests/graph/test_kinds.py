"""Each shipped kind against a loop written out by hand with the task's own functions."""

import math

import numpy as np
import pytest
import torch

import mbrl
from mbrl.graph import GraphPolicy, Step

SMOOTH = "mbrl/SmoothInvertedPendulum-v0"
MLP = {"kind": "deterministic_mlp", "hidden": [8], "output_scale": 1.0, "dtype": "float64"}
NOISY = {**MLP, "kind": "gaussian_mlp", "initial_sd": 0.3}
GAINS = [[0.3, -6.0, 0.2, -0.5]]
REFERENCE, OFFSET = [0.1, 0.02, 0.0, 0.3], [0.4]


@pytest.fixture(scope="module")
def pendulum():
    return mbrl.make_task(SMOOTH, threads=1)


@pytest.fixture(scope="module")
def cheetah():
    return mbrl.make_task("HalfCheetah-v5", threads=1)


def start(task, batch=3, seed=0):
    return task.reset(batch, torch.Generator().manual_seed(seed))


def policy_of(graph, name="policy"):
    return graph.nodes[name].policy


def feedback(observation):
    """The linear controller of these tests, entry by entry, before it is limited."""
    rows = [
        [OFFSET[0] + sum(k * (r - x) for k, r, x in zip(GAINS[0], REFERENCE, row, strict=True))]
        for row in observation.tolist()
    ]
    return torch.tensor(rows, dtype=torch.float64)


def follow(task, graph, state, choose, steps, **unrolling):
    """Compare an unrolling and the acting policy with actions ``choose(t, observation)``."""
    trajectory = graph.unroll(state, steps, **unrolling)
    actor, x = GraphPolicy.of(graph), state
    for t in range(steps):
        assert torch.equal(trajectory.states[t], x)
        with torch.no_grad():
            u = choose(t, task.observe(x))
        torch.testing.assert_close(trajectory.actions[t].detach(), u, rtol=1e-12, atol=1e-12)
        if "generator" not in unrolling and "start" not in unrolling:
            acted = torch.from_numpy(actor.act(task.observe(x).numpy()))
            torch.testing.assert_close(acted, u, rtol=1e-12, atol=1e-12)
        x = trajectory.states[t + 1].detach()
        y = task.simulator.step(trajectory.states[t].detach().numpy(), u.numpy())
        np.testing.assert_allclose(x.numpy(), y, rtol=1e-9, atol=1e-9)
    return trajectory


def check_gradient(graph, state, steps):
    """Compare the derivative of the return along a direction with differences of the return."""
    parameters = [p for p in graph.parameters() if p.requires_grad]
    noise = torch.Generator().manual_seed(1)
    along = [torch.randn(p.shape, generator=noise, dtype=p.dtype) for p in parameters]

    def total():
        return graph.unroll(state, steps).rewards.sum()

    gradients = torch.autograd.grad(total(), parameters)
    found = sum(float((g * d).sum()) for g, d in zip(gradients, along, strict=True))
    ends = []
    with torch.no_grad():
        for h in (1e-5, -2e-5):
            for p, d in zip(parameters, along, strict=True):
                p += h * d
            ends.append(float(total()))
        for p, d in zip(parameters, along, strict=True):
            p += 1e-5 * d
    expected = (ends[0] - ends[1]) / 2e-5
    assert abs(expected) > 1e-4
    assert found == pytest.approx(expected, rel=2e-4)


RESIDUAL = {
    "nodes": {
        "base": {
            "kind": "linear_feedback",
            "gains": GAINS,
            "reference": REFERENCE,
            "offset": OFFSET,
            "limit": None,
            "outputs": ["base"],
        },
        "policy": {**MLP, "outputs": ["correction"]},
        "total": {
            "kind": "sum",
            "inputs": ["base", "correction"],
            "weights": [1.0, 0.5],
            "limit": "squash",
            "outputs": ["action"],
        },
    }
}
PREVIOUS = {
    "nodes": {
        "seen": {"kind": "concat", "inputs": ["observation", "previous"]},
        "policy": {**MLP, "inputs": ["joined"]},
    },
    "carry": {"state": "next_state", "previous": {"source": "action", "initial": 0.25}},
}


def repeating(steps, policy=MLP):
    return {
        "nodes": {
            "policy": {**policy, "outputs": ["wanted"]},
            "repeat": {
                "kind": "hold",
                "steps": steps,
                "inputs": ["wanted", "previous"],
                "outputs": ["action"],
            },
        },
        "carry": {"state": "next_state", "previous": "action"},
    }


def remembering(**options):
    return {
        "nodes": {
            "remember": {
                "kind": "history",
                "inputs": ["observation", "past"],
                "outputs": ["recent"],
                **options,
            },
            "policy": {**MLP, "inputs": ["recent"]},
        },
        "carry": {"state": "next_state", "past": {"source": "recent", "initial": 0.5}},
    }


LEGS = {
    "nodes": {
        "odd": {**MLP, "actuators": [5, 1, 3], "outputs": ["odd_action"]},
        "even": {**MLP, "actuators": [0, 2, 4], "outputs": ["even_action"]},
        "policy": {"kind": "assemble", "inputs": ["odd_action", "even_action"]},
    }
}


def test_a_residual_policy_adds_a_correction_to_a_controller(pendulum):
    graph = mbrl.build_graph(RESIDUAL, pendulum)
    low, high = pendulum.action_low, pendulum.action_high

    def choose(t, observation):
        raw = feedback(observation) + 0.5 * policy_of(graph)(observation)
        middle, half = (low + high) / 2, (high - low) / 2
        return middle + half * torch.tanh((raw - middle) / half)

    follow(pendulum, graph, start(pendulum), choose, 6)
    check_gradient(graph, start(pendulum), 6)


@pytest.mark.parametrize(("limit", "of"), [("clip", np.clip), (None, None)])
def test_a_linear_controller_alone(pendulum, limit, of):
    section = {"nodes": {"policy": {**RESIDUAL["nodes"]["base"], "limit": limit}}}
    section["nodes"]["policy"]["outputs"] = ["action"]
    section["nodes"]["policy"]["gains"] = [[3.0, -60.0, 2.0, -5.0]]
    graph = mbrl.build_graph(section, pendulum)
    state = start(pendulum, 8)
    state[:, 1] += torch.linspace(-0.2, 0.2, 8, dtype=torch.float64)
    error = np.array(REFERENCE) - state.numpy()
    raw = OFFSET[0] + error @ np.array([[3.0], [-60.0], [2.0], [-5.0]])
    assert (np.abs(raw) > 3).any()
    expected = raw if of is None else of(raw, -3.0, 3.0)
    np.testing.assert_allclose(graph.unroll(state, 1).actions[0], expected, rtol=1e-12)


def test_a_policy_sees_its_previous_action(pendulum):
    graph = mbrl.build_graph(PREVIOUS, pendulum)
    assert graph.widths["previous"] == 1
    assert graph.widths["joined"] == 5
    last = [torch.full((3, 1), 0.25, dtype=torch.float64)]

    def choose(t, observation):
        last.append(policy_of(graph)(torch.cat([observation, last[-1]], dim=1)))
        return last[-1]

    follow(pendulum, graph, start(pendulum), choose, 6)
    check_gradient(graph, start(pendulum), 6)


def test_scalars_count_one_in_a_concat(pendulum):
    section = {
        "nodes": {
            "scores": {"kind": "concat", "inputs": ["reward", "state", "reward"]},
        }
    }
    graph = mbrl.build_graph(section, pendulum)
    trajectory = graph.unroll(start(pendulum), 2, record=["joined"])
    joined = trajectory.values["joined"]
    assert graph.widths["joined"] == 6
    assert torch.equal(joined[..., 0], trajectory.rewards)
    assert torch.equal(joined[..., 1:5], trajectory.states[:-1])
    assert torch.equal(joined[..., 5], trajectory.rewards)


@pytest.mark.parametrize("first", [0, 4])
def test_an_action_is_held_for_some_steps(pendulum, first):
    graph = mbrl.build_graph(repeating(3), pendulum)
    new = {0: (0, 3, 6), 4: (0, 2, 5)}[first]  # since the start: steps 0, 3, 6 or 4, 6, 9
    held = []

    def choose(t, observation):
        if t in new:
            held.append(policy_of(graph)(observation))
        return held[-1]

    unrolling = {"start": first} if first else {}
    follow(pendulum, graph, start(pendulum), choose, 8, **unrolling)
    assert len(held) == 3
    check_gradient(graph, start(pendulum), 8)


def test_a_policy_that_is_held_is_not_run_and_draws_no_noise(pendulum):
    graph = mbrl.build_graph(repeating(3, NOISY), pendulum)
    draws, noise = [], torch.Generator().manual_seed(3)
    trajectory = graph.unroll(
        start(pendulum), 7, generator=torch.Generator().manual_seed(3), draws=draws
    )
    assert [draw.t for draw in draws] == [0, 3, 6]
    for t in (0, 3, 6):
        again = policy_of(graph)(pendulum.observe(trajectory.states[t]), Step(t, noise))
        assert torch.equal(trajectory.actions[t], again)
        assert torch.equal(trajectory.actions[t], trajectory.actions[min(t + 2, 6)])


def test_nothing_runs_for_an_action_that_is_not_taken(pendulum):
    section = repeating(3)
    section["nodes"]["score"] = {"kind": "concat", "inputs": ["reward"]}  # nobody takes it
    section["nodes"]["ended"] = {"kind": "hold", "steps": 5, "inputs": ["terminated", "before"]}
    section["carry"]["before"] = "held"
    graph = mbrl.build_graph(section, pendulum)
    ran = {"observe": [], "policy": [], "score": [], "terminate": []}
    for name, steps in ran.items():
        graph.nodes[name].register_forward_pre_hook(
            lambda node, inputs, steps=steps: steps.append(inputs[0].t)
        )
    graph.unroll(start(pendulum), 7)
    always = [*range(7)]  # whether an episode ends is wanted in any case
    once = [0]  # after the last step, for all of them
    assert ran == {"observe": [0, 3, 6], "policy": [0, 3, 6], "score": once, "terminate": always}
    ran["policy"].clear()
    actor = GraphPolicy.of(graph)
    for _ in range(5):
        actor.act(np.zeros(4))
    assert ran["policy"] == [0, 3]


def test_a_node_runs_where_only_some_of_its_takers_are_idle(pendulum):
    section = repeating(2)
    section["nodes"]["both"] = {"kind": "concat", "inputs": ["wanted", "action"]}
    graph = mbrl.build_graph(section, pendulum)
    trajectory = graph.unroll(start(pendulum), 4, record=["joined"])
    for t in range(4):
        now = policy_of(graph)(pendulum.observe(trajectory.states[t]))
        expected = torch.cat([now, trajectory.actions[t]], dim=1)
        torch.testing.assert_close(trajectory.values["joined"][t], expected)


def test_a_recorded_value_is_made_at_every_step(pendulum):
    graph = mbrl.build_graph(repeating(3), pendulum)
    trajectory = graph.unroll(start(pendulum), 4, record=["wanted"])
    for t in range(4):
        expected = policy_of(graph)(pendulum.observe(trajectory.states[t]))
        torch.testing.assert_close(trajectory.values["wanted"][t], expected)
    assert not torch.equal(trajectory.values["wanted"][1], trajectory.actions[1])


@pytest.mark.parametrize("fill", ["repeat", "initial"])
def test_a_history_holds_the_present_first(pendulum, fill):
    graph = mbrl.build_graph(remembering(steps=3, fill=fill), pendulum)
    assert graph.widths["recent"] == graph.widths["past"] == 12
    seen = []

    def choose(t, observation):
        seen.append(observation)
        before = seen[0] if fill == "repeat" else torch.full_like(observation, 0.5)
        recent = [seen[t - i] if t >= i else before for i in range(3)]
        return policy_of(graph)(torch.cat(recent, dim=1))

    follow(pendulum, graph, start(pendulum), choose, 5)
    check_gradient(graph, start(pendulum), 5)


def test_gradients_reach_the_first_observation_through_a_history(pendulum):
    graph = mbrl.build_graph(remembering(steps=3), pendulum)
    state = start(pendulum, 1).requires_grad_()
    found = torch.autograd.grad(graph.unroll(state, 1).actions.sum(), state)[0]
    step = 1e-6 * torch.eye(4, dtype=torch.float64)
    with torch.no_grad():
        ends = [graph.unroll(state + h * step, 1).actions[0, :, 0] for h in (1, -1)]
    torch.testing.assert_close(found[0], (ends[0] - ends[1]) / 2e-6, rtol=1e-6, atol=1e-8)


def test_a_history_begins_anew_where_an_unrolling_does(pendulum):
    graph = mbrl.build_graph(remembering(steps=2), pendulum)
    trajectory = graph.unroll(start(pendulum), 2, start=5, record=["recent"])
    recent, x = trajectory.values["recent"].detach(), trajectory.states.detach()
    torch.testing.assert_close(recent[0], torch.cat([x[0], x[0]], dim=1))
    torch.testing.assert_close(recent[1], torch.cat([x[1], x[0]], dim=1))


def test_a_history_is_normalised_as_the_policy_sees_it(pendulum):
    section = remembering(steps=2)
    section["nodes"]["policy"]["normalize"] = True
    graph = mbrl.build_graph(section, pendulum)
    ((value, (normalizer,)),) = graph.normalizers().items()
    trajectory = graph.unroll(start(pendulum), 4, record=[value])
    normalizer.update(trajectory.values[value].detach().flatten(0, 1))
    normalizer.refresh()
    x = trajectory.states.detach()
    before = torch.cat([x[:1], x[:3]])
    expected = torch.cat([x[:4], before], dim=-1).flatten(0, 1).mean(0)
    torch.testing.assert_close(normalizer.mean, expected)


def test_two_policies_share_the_actuators(cheetah):
    graph = mbrl.build_graph(LEGS, cheetah)
    odd, even = policy_of(graph, "odd"), policy_of(graph, "even")

    def choose(t, observation):
        action = torch.empty(len(observation), 6, dtype=torch.float64)
        action[:, 5], action[:, 1], action[:, 3] = odd(observation).unbind(1)
        action[:, 0], action[:, 2], action[:, 4] = even(observation).unbind(1)
        return action

    follow(cheetah, graph, start(cheetah), choose, 3)
    check_gradient(graph, start(cheetah), 3)


def test_a_partial_policy_has_the_bounds_of_its_actuators(cheetah):
    class Uneven:
        state_size, observation_size, action_size = 18, 17, 6
        action_low = -torch.arange(2.0, 8.0, dtype=torch.float64)
        action_high = torch.arange(1.0, 7.0, dtype=torch.float64)

    graph = mbrl.build_graph(LEGS, cheetah)
    actor = GraphPolicy(graph.spec, Uneven())
    assert actor.nodes["odd"].policy.squash.high.tolist() == [6.0, 2.0, 4.0]
    assert actor.nodes["odd"].policy.squash.low.tolist() == [-7.0, -3.0, -5.0]
    with torch.no_grad():
        for parameter in actor.parameters():
            parameter.fill_(50.0)
    assert actor.act(np.ones(17)).tolist() == [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def test_partial_actions_may_be_held_and_added_first(cheetah):
    section = {
        "nodes": {
            **LEGS["nodes"],
            "more": {**MLP, "actuators": [0, 2, 4], "outputs": ["more"]},
            "both": {"kind": "sum", "inputs": ["even_action", "more"], "outputs": ["both"]},
            "keep": {"kind": "hold", "steps": 2, "inputs": ["odd_action", "kept"]},
            "policy": {"kind": "assemble", "inputs": ["held", "both"]},
        },
        "carry": {"state": "next_state", "kept": "held"},
    }
    graph = mbrl.build_graph(section, cheetah)
    held = []

    def choose(t, observation):
        if t % 2 == 0:
            held.append(policy_of(graph, "odd")(observation))
        both = policy_of(graph, "even")(observation) + policy_of(graph, "more")(observation)
        action = torch.empty(len(observation), 6, dtype=torch.float64)
        action[:, [5, 1, 3]], action[:, [0, 2, 4]] = held[-1], both
        return action

    follow(cheetah, graph, start(cheetah), choose, 4)


def test_a_clock_and_a_choice_of_entries(pendulum):
    section = {
        "nodes": {
            "clock": {"kind": "phase", "period": 8, "harmonics": 2, "inputs": ["observation"]},
            "choice": {"kind": "select", "indices": [3, 1], "inputs": ["observation"]},
            "seen": {"kind": "concat", "inputs": ["phase", "selected"]},
            "policy": {**MLP, "inputs": ["joined"]},
        }
    }
    graph = mbrl.build_graph(section, pendulum)

    def chosen_at(first):
        def choose(t, observation):
            angle = math.pi / 4 * (first + t)
            waves = [f(k * angle) for f in (math.sin, math.cos) for k in (1, 2)]
            clock = torch.tensor(waves, dtype=torch.float64).expand(len(observation), 4)
            entries = torch.stack([observation[:, 3], observation[:, 1]], dim=1)
            return policy_of(graph)(torch.cat([clock, entries], dim=1))

        return choose

    follow(pendulum, graph, start(pendulum), chosen_at(0), 5)
    follow(pendulum, graph, start(pendulum), chosen_at(3), 5, start=3)
    check_gradient(graph, start(pendulum), 5)


def test_rows_that_end_leave_the_others_histories_alone():
    task = mbrl.make_task("InvertedDoublePendulum-v5", threads=1)
    graph = mbrl.build_graph(remembering(steps=3), task)
    state = task.reset(3, torch.Generator().manual_seed(0))
    state[1, 1], state[1, 4] = 0.5, 3.0
    trajectory = graph.unroll(state, 15)
    assert not bool(trajectory.alive[-1, 1])
    others = graph.unroll(state[[0, 2]], 15)
    torch.testing.assert_close(trajectory.actions[:, [0, 2]], others.actions)
    gradients = torch.autograd.grad(trajectory.rewards.sum(), list(graph.parameters()))
    assert all(bool(g.isfinite().all()) for g in gradients)
