"""Graphs on learned dynamics: the node's derivatives, and gradients of whole rollouts."""

import numpy as np
import pytest
import torch

import mbrl
from mbrl.algorithms import Setting, TrajectoryOptimization
from mbrl.data import Trajectories
from mbrl.errors import ArgumentError, ConfigError, DivergenceError
from mbrl.finished_runs import evaluate_run, load_policy
from mbrl.runner import run
from mbrl.tasks import collect, random_actions
from tests.learned_runs import affine_model, random_model, save_model
from tests.tiny import resume, rows, same_runs, tiny_config

OPTIONS = {"hidden": (16, 16), "activation": "tanh", "dtype": "float64"}
AFFINE = {"hidden": (), "activation": "relu", "dtype": "float64"}
PENDULUM = "mbrl/SmoothInvertedPendulum-v0"
COST = {
    "position": {"residual": {"kind": "joint_position"}, "weight": 5},
    "velocity": {"residual": {"kind": "joint_velocity"}, "weight": 0.1},
    "effort": {"residual": {"kind": "control"}, "weight": 0.01},
}


EXACT_POLICY = {"policy": {"kind": "deterministic_mlp", "hidden": [16], "dtype": "float64"}}


def graph_of(task, path, forward="learned"):
    node = {"kind": "learned_dynamics", "run": str(path), "forward": forward}
    return mbrl.build_graph({"nodes": {**EXACT_POLICY, "dynamics": node}}, task)


@pytest.fixture
def pendulum():
    return mbrl.make_task(PENDULUM, threads=1)


@pytest.fixture
def network(tmp_path):
    """The run of a network of the pendulum's sizes."""
    return save_model(tmp_path / "network", random_model(4, 1), **OPTIONS)


@pytest.fixture
def ball():
    """A ball pushed about without friction at rest: linear where it meets no wall."""
    return mbrl.make_task(
        "mbrl/Residual-v0",
        model="point_mass.xml",
        frame_skip=5,
        reset={"joints": {"x": [-0.05, 0.05], "y": [-0.05, 0.05]}},
        cost=COST,
        threads=1,
    )


@pytest.fixture
def linear(ball, tmp_path):
    """The run of an affine model that has been fitted to the ball by least squares."""
    generator, data = torch.Generator().manual_seed(0), Trajectories(4, 2)
    act = random_actions(ball, generator)
    data.append(collect(ball, act, episodes=20, steps=8, generator=generator, space="states"))
    assert float(data.transitions().states[:, :2].abs().max()) < 0.28  # the walls are at 0.29
    return save_model(tmp_path / "linear", affine_model(data.transitions()), **AFFINE)


def points(rows=5):
    generator = torch.Generator().manual_seed(2)
    states = 0.3 * torch.randn(rows, 4, generator=generator, dtype=torch.float64)
    return states, torch.randn(rows, 1, generator=generator, dtype=torch.float64)


def step(graph, state, action):
    return graph.nodes["dynamics"](mbrl.types.Step(), state, action)


# One step


def test_values_are_the_models_or_the_simulators_to_the_bit(pendulum, network):
    states, actions = points()
    found = step(graph_of(pendulum, network), states, actions)
    assert torch.equal(found, random_model(4, 1)(states, actions))
    real = step(graph_of(pendulum, network, "real"), states.clone().requires_grad_(), actions)
    expected = pendulum.simulator.step(states.numpy(), actions.numpy())
    np.testing.assert_array_equal(real.detach().numpy(), expected)


@pytest.mark.parametrize("forward", ["learned", "real"])
def test_jacobians_are_central_differences_of_the_network(pendulum, network, forward):
    states, actions = points(1)
    graph, model, h = graph_of(pendulum, network, forward), random_model(4, 1), 1e-5
    found = torch.autograd.functional.jacobian(lambda x, u: step(graph, x, u)[0], (states, actions))
    for part, jacobian in enumerate(found):
        for j in range(jacobian.shape[2]):
            ends = []
            for sign in (1, -1):
                moved = [states.clone(), actions.clone()]
                moved[part][0, j] += sign * h
                ends.append(model(*moved)[0].detach())
            expected = (ends[0] - ends[1]) / (2 * h)
            torch.testing.assert_close(jacobian[:, 0, j], expected, rtol=1e-7, atol=1e-9)


def test_an_ensemble_is_the_mean_of_its_elites(pendulum, tmp_path):
    kind = {"kind": "ensemble", "members": 3, "elites": 2, "hidden": [8], "dtype": "float64"}
    description = mbrl.nn.ModelDescription.of(kind, 4, 1, "states", where="model")
    model = description.build(torch.Generator().manual_seed(1))
    model.choose(torch.tensor([0.2, 0.9, 0.1]))
    path = save_model(tmp_path / "run", model, kind="ensemble", **description.options)
    states, actions = points()
    inputs = model.normalized(states, actions).expand(3, -1, -1)
    means = model.moments(inputs)[0]
    expected = states + 0.5 * (means[0] + means[2])
    torch.testing.assert_close(step(graph_of(pendulum, path), states, actions), expected)


def test_quaternions_keep_their_length(tmp_path):
    task = mbrl.make_task("Ant-v5", threads=1)
    model = random_model(29, 8, hidden=(16, 16))
    model.set_quaternions([[3, 4, 5, 6]])
    path = save_model(tmp_path / "run", model, **OPTIONS)
    state = task.reset(3, torch.Generator().manual_seed(0))
    trajectory = graph_of(task, path).unroll(state, 4)
    lengths = trajectory.states[1:, :, 3:7].norm(dim=-1)
    alive = trajectory.alive[:, :, None].expand(-1, -1, 1)[..., 0]
    assert bool(alive[0].all())
    torch.testing.assert_close(lengths[alive], torch.ones_like(lengths[alive]))


# Rollouts


def gradient(graph, state, horizon=6):
    graph.zero_grad()
    graph.unroll(state, horizon).rewards.sum().backward()
    parameters = graph.nodes["policy"].parameters()
    return torch.cat([p.grad.flatten() for p in parameters])


@pytest.mark.parametrize("forward", ["learned", "real"])
def test_on_a_linear_system_policy_gradients_are_the_engines(ball, linear, forward):
    state = ball.reset(4, torch.Generator().manual_seed(3))
    engine = mbrl.build_graph({"nodes": EXACT_POLICY}, ball)
    expected, found = gradient(engine, state), gradient(graph_of(ball, linear, forward), state)
    assert float(expected.norm()) > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_plans_of_a_linear_system_are_those_of_the_engine(ball, linear):
    def solved(**options):
        generator = torch.Generator().manual_seed(5)
        made = TrajectoryOptimization(
            Setting(ball, {}, generator), horizon=8, updates=10, batch=2, **options
        )
        steps = 0.0
        for _ in range(10):
            measured = made.update()
            steps += measured["env_steps"]
        return made._search.plan.actions, measured["cost_mean"], steps

    plan, cost, steps = solved()
    learned, cost_there, imagined = solved(dynamics=str(linear))
    assert cost_there == pytest.approx(cost, rel=1e-10)
    torch.testing.assert_close(learned, plan, rtol=1e-9, atol=1e-11)
    assert steps > 0
    assert imagined == 0  # nothing of it was real


def test_mpc_plans_on_the_model_and_acts_in_the_physics(ball, linear, tmp_path):
    def run_of(**options):
        return run(
            {
                "task": "mbrl/Residual-v0",
                "task_args": {"model": "point_mass.xml", "frame_skip": 5, "cost": COST,
                              "max_episode_steps": 10},
                "algorithm": {"kind": "mpc", "horizon": 5, "updates": 3, **options},
                "evaluation": {"episodes": 1},
                "output_dir": str(tmp_path / "outputs"),
                "threads": 1,
            }
        )  # fmt: skip

    expected, found = run_of(), run_of(dynamics=str(linear))
    assert found.summary["eval_return_mean"] == pytest.approx(
        expected.summary["eval_return_mean"], rel=1e-4
    )
    assert found.summary["env_steps"] == 3
    with pytest.raises(ArgumentError, match=r"algorithm.dynamics: .* is not the folder of a run"):
        run_of(dynamics=str(tmp_path / "nowhere"))


# Runs


def config(tmp_path, path, forward="learned", **changes):
    nodes = {
        "policy": {"kind": "deterministic_mlp", "hidden": [8]},
        "dynamics": {"kind": "learned_dynamics", "run": str(path), "forward": forward},
    }
    return tiny_config(tmp_path, graph={"nodes": nodes}, **changes)


@pytest.mark.parametrize(("forward", "steps"), [("learned", 0), ("real", 4 * 5 * 2)])
def test_a_run_counts_real_transitions_and_its_policy_needs_no_model(
    tmp_path, network, forward, steps
):
    result = run(config(tmp_path, network, forward))
    assert result.summary["env_steps"] == steps
    assert all(float(row["gradient_norm"]) > 0 for row in rows(result.run_dir))
    (network / "checkpoints" / "latest.pt").unlink()
    assert load_policy(result.run_dir).act(np.zeros(4)).shape == (1,)
    returns = evaluate_run(result.run_dir, config(tmp_path, network)).returns
    assert float(returns.mean()) == result.summary["eval_return_mean"]


def test_a_resumed_run_keeps_the_model_that_it_began_with(tmp_path, network, monkeypatch):
    reference = run(config(tmp_path, network)).run_dir
    update, left = mbrl.algorithms.PolicyGradient.update, [3]

    def failing(self):
        left[0] -= 1
        if left[0] == 0:
            raise DivergenceError("as it happens")
        return update(self)

    with monkeypatch.context() as patch:
        patch.setattr(mbrl.algorithms.PolicyGradient, "update", failing)
        with pytest.raises(DivergenceError):
            run(config(tmp_path, network))
    path = max(reference.parent.iterdir(), key=lambda folder: folder.stat().st_mtime_ns)
    save_model(network, random_model(4, 1, seed=1), **OPTIONS)  # learned further meanwhile
    resume(path)
    assert same_runs(path, reference)


@pytest.mark.parametrize("forward", ["learned", "real"])
def test_gradients_of_the_models_weights_are_not_taken(ball, linear, forward):
    graph = graph_of(ball, linear, forward)
    gradient(graph, ball.reset(2, torch.Generator().manual_seed(3)))
    weights = list(graph.nodes["dynamics"].parameters())
    assert len(weights) == 2
    assert all(weight.grad is None for weight in weights)


def test_the_weights_of_the_model_stay(tmp_path, network):
    path = run(config(tmp_path, network)).run_dir
    stored = torch.load(path / "checkpoints" / "latest.pt", weights_only=True)
    graph = stored["algorithm"]["graph"]
    model = random_model(4, 1).state_dict()
    for name, value in model.items():
        assert torch.equal(graph[f"nodes.dynamics.dynamics.{name}"], value)


# What is refused


def test_a_run_must_be_named(pendulum):
    with pytest.raises(ConfigError, match=r"missing key 'graph.nodes.dynamics.run'"):
        mbrl.build_graph({"nodes": {"dynamics": {"kind": "learned_dynamics"}}}, pendulum)


def test_a_model_must_fit_the_task(pendulum, network, tmp_path):
    expected = r"graph.nodes.dynamics.run: .* is not the folder of a run"
    with pytest.raises(ArgumentError, match=expected):
        graph_of(pendulum, tmp_path / "nowhere")
    expected = (
        r"graph.nodes.dynamics.run: the model of .* is of 4 coordinates and 1 actions, "
        r"the task has 12 and 3"
    )
    with pytest.raises(ArgumentError, match=expected):
        graph_of(mbrl.make_task("Hopper-v5", threads=1), network)
    seen = save_model(tmp_path / "seen", random_model(4, 1), space="observations", **OPTIONS)
    with pytest.raises(ArgumentError, match=r"run: .* predicts observations; legal: one of states"):
        graph_of(pendulum, seen)
    with pytest.raises(ConfigError, match=r"dynamics.forward: unknown value 'rael'; .*'real'\?"):
        graph_of(pendulum, network, "rael")
