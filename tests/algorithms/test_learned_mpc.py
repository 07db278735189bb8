"""Iterations of learned_mpc: against Gymnasium's steps, NumPy's networks and regulators."""

import os

import gymnasium
import numpy as np
import pytest
import torch

import mbrl
from mbrl.errors import ArgumentError
from mbrl.finished_runs import evaluate_run, resumed_config
from mbrl.planning import ObservingController, RecedingHorizon
from mbrl.runner import run
from mbrl.tasks import collection
from tests import models
from tests.algorithms.learned import CARTPOLE, CHEETAH, OBSERVED, PENDULUM, SETTINGS, tiny
from tests.tasks.environments import XmlEnv
from tests.tiny import rows, stored, summary


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Spare the disk; tests/test_checkpoint.py looks after what is synchronised when."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def seeds(monkeypatch):
    """A list of the seeds that environments are reset with, one list for each collection."""
    noted = []

    class Noted(collection.Lockstep):
        def __init__(self, task, given, what):
            noted.append(list(given))
            super().__init__(task, given, what)

    monkeypatch.setattr(collection, "Lockstep", Noted)
    return noted


def longer(setting, steps):
    return {**setting, "task_args": {**setting["task_args"], "max_episode_steps": steps}}


def episodes(run_dir, name="data"):
    """(observations, actions, rewards) of every episode that a run has kept, in NumPy."""
    kept = stored(run_dir)["algorithm"][name]
    lengths = kept["lengths"].tolist()
    parts = (
        kept["observations"].split([n + 1 for n in lengths]),
        kept["actions"].split(lengths),
        kept["rewards"].split(lengths),
    )
    return [tuple(part.numpy() for part in one) for one in zip(*parts, strict=True)]


def floats(row):
    return {name: float(value) for name, value in row.items()}


def replayed(env, seed, actions, on_states):
    """What an episode of these actions gives in Gymnasium."""
    data = env.unwrapped.data
    seen, earned = [env.reset(seed=seed)[0]], []
    states = [np.concatenate([data.qpos, data.qvel])]
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        seen.append(observation)
        states.append(np.concatenate([data.qpos, data.qvel]))
        earned.append(reward)
    return (states if on_states else seen), earned, terminated or truncated


@pytest.mark.parametrize("name", SETTINGS)
def test_the_data_are_what_gymnasium_gives_under_these_actions(name, tmp_path, seeds):
    config = tiny(tmp_path, SETTINGS[name], validation_episodes=1)
    path = run(config).run_dir
    random, validation, first, second = seeds
    assert [len(drawn) for drawn in seeds] == [3, 1, 2, 2]
    assert len({seed for drawn in seeds for seed in drawn}) == 8
    env = gymnasium.make(config["task"], **config["task_args"])
    low, high = env.action_space.low, env.action_space.high
    parts = ((episodes(path), random + first + second), (episodes(path, "validation"), validation))
    for found, drawn in parts:
        assert len(found) == len(drawn)
        for (observations, actions, rewards), seed in zip(found, drawn, strict=True):
            seen, earned, over = replayed(env, seed, actions, name == "cartpole")
            np.testing.assert_array_equal(observations, np.array(seen))
            np.testing.assert_array_equal(rewards, earned)
            assert over, "it was run to its end"
            assert ((actions >= low) & (actions <= high)).all()
            assert np.ptp(actions) > 0
    random_actions = np.concatenate([actions for _, actions, _ in episodes(path)[:3]])
    assert np.unique(random_actions).size == random_actions.size, "each is drawn by itself"


def test_steps_are_counted_once(tmp_path):
    path = run(tiny(tmp_path, CHEETAH, validation_episodes=2, updates=3)).run_dir
    # 3 random episodes, 2 for validation and 2 planned ones of 5 steps; then 2 planned ones.
    assert [int(row["env_steps"]) for row in rows(path)] == [35, 45, 55]
    assert summary(path)["env_steps"] == 55
    path = run(tiny(tmp_path, CHEETAH, steps=2)).run_dir
    assert [int(row["env_steps"]) for row in rows(path)] == [2 * (3 + 1 + 2), 2 * (3 + 1 + 4)]
    path = run(tiny(tmp_path, PENDULUM)).run_dir
    lengths = [len(actions) for _, actions, _ in episodes(path)]
    assert len(set(lengths)) > 1, "some fall earlier"
    counted = [int(row["env_steps"]) for row in rows(path)]
    assert counted == [sum(lengths[:5]), sum(lengths)]
    assert float(rows(path)[1]["length_mean"]) == sum(lengths[5:]) / 2


class Network:
    """The perceptron of a checkpoint, in NumPy."""

    def __init__(self, run_dir):
        self.state = {
            name: value.double().numpy()
            for name, value in stored(run_dir)["algorithm"]["learner"]["model"].items()
        }

    def __call__(self, observation, action):
        state = self.state
        value = np.concatenate([observation, action], axis=-1)
        value = (value - state["input_mean"]) / state["input_scale"]
        value = np.maximum(value @ state["network.0.weight"].T + state["network.0.bias"], 0)
        value = value @ state["network.2.weight"].T + state["network.2.bias"]
        return observation + value * state["target_deviation"] + state["target_mean"]


def errors(network, found):
    """Of a step in deviations of the change, and after 15 steps in those of observations."""
    one, many = [], []
    for seen, actions, _ in found:
        off = network(seen[:-1], actions) - seen[1:]
        one.append(off / network.state["target_deviation"])
        for start in range(0, len(actions) - 14, 15):
            here = seen[start]
            for t in range(start, start + 15):
                here = network(here, actions[t])
            many.append((here - seen[start + 15]) / network.state["input_scale"][:20])
    return [np.sqrt(np.mean(np.square(part))) for part in (np.concatenate(one), many)]


def test_what_is_measured_is_of_the_latest_episodes_and_the_model_before_them(tmp_path):
    path = run(tiny(tmp_path, longer(CHEETAH, 32), validation_episodes=1)).run_dir
    row, network = floats(rows(path)[1]), Network(path)
    latest = episodes(path)[-2:]
    returns = [rewards.sum() for *_, rewards in latest]
    assert row["return_mean"] == pytest.approx(np.mean(returns), rel=1e-12)
    assert row["return_std"] == pytest.approx(np.std(returns), rel=1e-12)
    assert row["length_mean"] == 32
    costs = []
    for o, _, _ in latest:
        back = 1.0 * (o[:-1, 5] >= 0.2) + (o[:-1, 6] >= 0) + (o[:-1, 7] >= 0)
        costs.append(np.sum(10 * back - (o[1:, 17] - o[:-1, 17]) / 0.01))
    assert row["cost_mean"] == pytest.approx(np.mean(costs), rel=1e-12)
    one, many = errors(network, latest)
    assert row["one_step_error"] == pytest.approx(one, rel=1e-4)
    assert row["open_loop_error"] == pytest.approx(many, rel=1e-4)
    one, many = errors(network, episodes(path, "validation"))
    assert row["validation_one_step_error"] == pytest.approx(one, rel=1e-4)
    assert row["validation_open_loop_error"] == pytest.approx(many, rel=1e-4)
    assert row["plans"] == 32
    assert row["fit_epochs"] == 4


def test_the_statistics_are_those_of_the_random_episodes(tmp_path):
    path = run(tiny(tmp_path, CHEETAH)).run_dir
    seen = np.concatenate([o[:-1] for o, _, _ in episodes(path)[:3]])
    np.testing.assert_allclose(Network(path).state["input_mean"][:20], seen.mean(0), rtol=1e-5)


def test_successes_are_counted(tmp_path):
    path = run(tiny(tmp_path, CARTPOLE)).run_dir
    upright = [abs(states[-1, 1]) < 0.2 for states, _, _ in episodes(path)[-2:]]
    assert float(rows(path)[1]["success_rate"]) == np.mean(upright)
    assert "success_rate" not in rows(run(tiny(tmp_path, CHEETAH)).run_dir)[0]


def test_same_seed_same_run_and_another_seed_another(tmp_path):
    first, again = (episodes(run(tiny(tmp_path, OBSERVED)).run_dir) for _ in range(2))
    for one, two in zip(first, again, strict=True):
        assert all(map(np.array_equal, one, two))
    other = episodes(run({**tiny(tmp_path, OBSERVED), "seed": 1}).run_dir)
    assert not np.array_equal(first[0][1], other[0][1])


# Policies


@pytest.mark.parametrize("name", ["cheetah", "pendulum"])
def test_its_policy_takes_observations(name, tmp_path):
    config = tiny(tmp_path, SETTINGS[name])
    config["evaluation"] = {"episodes": 1, "seed": 77}
    path = run(config).run_dir
    policy = mbrl.load_policy(path)
    assert isinstance(policy, ObservingController)
    env = gymnasium.make(config["task"], **config["task_args"])
    for _ in range(2):  # a reset begins again
        policy.reset()
        observation, total, over = env.reset(seed=77)[0], 0.0, False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(policy.act(observation))
            total, over = total + reward, terminated or truncated
        assert total == summary(path)["eval_return_mean"]
    assert evaluate_run(path, resumed_config(path)).returns.tolist() == [total]


def test_its_policy_takes_states_where_its_model_is_of_states(tmp_path):
    path = run(tiny(tmp_path, CARTPOLE)).run_dir
    policy = mbrl.load_policy(path)
    assert isinstance(policy, RecedingHorizon)
    assert policy.act(np.array([[0.0, 0.3, 0.0, 0.0]]), 0).shape == (1, 1)
    found = evaluate_run(path, resumed_config(path))
    assert found.returns.tolist() == [summary(path)["eval_return_mean"]]


def test_the_best_policy_is_that_of_the_best_episodes(tmp_path):
    config = tiny(tmp_path, CHEETAH, updates=4)
    path = run({**config, "evaluation": {"episodes": 1, "policy": "best"}}).run_dir
    returns = [float(row["return_mean"]) for row in rows(path)]
    assert stored(path, "best")["update"] == 1 + int(np.argmax(returns))


# That it learns


def point_mass(folder, **algorithm):
    """A point mass that shall be at the origin, knowing neither its mass nor Newton."""
    model = folder / "particle.xml"
    model.write_text(models.particle(mass=0.8, damping=0.3))
    terms = {
        axis: {"residual": {"kind": "joint_position", "joint": axis}, "weight": 1.0}
        for axis in ("x", "y")
    }
    setting = {
        "task": "mbrl/Residual-v0",
        "task_args": {
            "model": str(model),
            "cost": terms,
            "reset": {"joints": {"x": [0.4, 0.6], "y": [-0.6, -0.4]}},
            "max_episode_steps": 25,
        },
        "algorithm": {
            "model": {"kind": "mlp", "hidden": []},
            "fit": {"epochs": 25, "batch_size": 16, "learning_rate": 0.03},
            "planner": {"kind": "icem", "samples": 25, "elites": 5, "iterations": 2},
            "horizon": 8,
            "random_episodes": 4,
            **algorithm,
        },
    }
    return tiny(folder, setting)


@pytest.mark.parametrize(
    "algorithm",
    [
        {},
        {"space": "states", "planner": {"kind": "ilqr", "iterations": 1}},
        {
            "model": {"kind": "ensemble", "hidden": [], "members": 2},
            "propagation": {"mode": "ts1", "particles": 4},
        },
    ],
    ids=["observed cost", "states", "ensemble"],
)
def test_it_learns_to_control_a_point_mass(algorithm, tmp_path):
    path = run(point_mass(tmp_path, **algorithm)).run_dir
    found = episodes(path)
    random, planned = ([rewards.sum() for *_, rewards in part] for part in (found[:4], found[4:]))
    assert min(planned) > 0.5 * max(random)
    for states, *_ in found[4:]:
        assert np.linalg.norm(states[0, :2]) > 0.5
        assert np.linalg.norm(states[-1, :2]) < 0.05
    assert summary(path)["eval_return_mean"] > 0.5 * max(random)


class Racing(XmlEnv):
    """What it earns is linear in what it observes, and so an affine network knows all of it."""

    xml, skip = models.particle(damping=0.2), 1

    def earned(self, action):
        return float(self.data.qvel @ [1.0, -0.5])


@pytest.fixture
def racing():
    name = "test/Racing-v0"
    gymnasium.register(name, Racing, max_episode_steps=20)
    yield name
    del gymnasium.registry[name]


def test_it_learns_what_is_rewarded(tmp_path, racing):
    setting = {
        "task": racing,
        "algorithm": {
            "model": {"kind": "mlp", "hidden": [], "reward": True, "ignored": [0, 1]},
            "fit": {"epochs": 40, "batch_size": 8, "learning_rate": 0.02},
            "planner": {"kind": "cem", "samples": 20, "elites": 4, "noise": 1.0},
        },
    }
    path = run(tiny(tmp_path, setting)).run_dir
    env = gymnasium.make(racing, disable_env_checker=True)
    for observations, _, rewards in episodes(path)[-2:]:
        env.reset()
        env.unwrapped.set_state(observations[0, :2], observations[0, 2:])
        best = sum(env.step(np.array([1.0, -1.0]))[1] for _ in rewards)  # as fast as it can
        assert rewards.sum() > 0.9 * best
    assert max(rewards.sum() for *_, rewards in episodes(path)[:3]) < 0.5 * best


# Mistakes


@pytest.mark.parametrize(
    ("setting", "change", "message"),
    [
        (
            PENDULUM,
            {"model": {"kind": "mlp"}, "propagation": {}},
            r"^algorithm.space: InvertedPendulum-v5 does not say what a plan of observations costs",
        ),
        (
            CARTPOLE,
            {"model": {"kind": "mlp", "reward": True}},
            "^algorithm.model.reward: of states the task's own reward is planned for",
        ),
        (
            CHEETAH,
            {"cost": {"effort": {"residual": {"kind": "control"}}}},
            "^algorithm.cost: residuals are of states, and .*; say space: states",
        ),
        (
            CHEETAH,
            {"until_termination": False},
            "^algorithm.until_termination has no effect: .*; leave it at True, or choose space",
        ),
        (
            CHEETAH,
            {"terminal": {"effort": {"residual": {"kind": "control"}}}},
            "^algorithm.terminal: residuals are of states",
        ),
        (
            PENDULUM,
            {"planner": {"kind": "ilqr"}},
            "^algorithm.propagation.mode: 'ts1' takes a planner that samples; legal with ILQR: exp",
        ),
        (PENDULUM, {"planner": {"kind": "gradient_shooting"}}, "GradientShooting: expectation"),
        (
            CHEETAH,
            {"propagation": {"mode": "tsinf"}},
            "^algorithm.propagation.mode 'tsinf' takes an ensemble, got a MLPDynamics",
        ),
        (
            PENDULUM,
            {"propagation": {"mode": "ts1", "particles": 3}},
            "^algorithm.propagation.particles must be a multiple of the 2 elites, got 3",
        ),
        (
            PENDULUM,
            {"propagation": {"mode": "ts1", "particles": 0}},
            "^algorithm.propagation.particles must be at least 1, got 0",
        ),
        (
            PENDULUM,
            {"propagation": {"mode": "ts2"}},
            "^algorithm.propagation.mode: unknown value 'ts2'; .*did you mean 'ts1'",
        ),
        (
            PENDULUM,
            {"fit": {"epochs": 1}},
            "^algorithm.model.elites: choosing 2 of 3 members takes held-out data",
        ),
        (CHEETAH, {"model": {"kind": "mpl"}}, "^algorithm.model.kind: .*did you mean 'mlp'"),
        (
            CHEETAH,
            {"model": {"kind": "mlp", "hiden": [8]}},
            "^unknown key 'algorithm.model.hiden'; .*did you mean 'hidden'",
        ),
        (
            CHEETAH,
            {"model": {"kind": "mlp", "hidden": [0]}},
            "^algorithm.model.hidden must hold positive widths",
        ),
        (
            CHEETAH,
            {"model": {"kind": "mlp", "ignored": [20]}},
            "^algorithm.model.ignored must hold entries of the state, 0 to 19",
        ),
        (CHEETAH, {"fit": {"epoch": 3}}, "^unknown key 'algorithm.fit.epoch'; .*mean 'epochs'"),
        (CHEETAH, {"fit": {"epochs": 0}}, "^algorithm.fit.epochs must be at least 1, got 0"),
        (CHEETAH, {"fit": {"patience": 2}}, "^algorithm.fit.patience must not be negative and ta"),
        (CHEETAH, {"fit": {"statistics": "frozn"}}, "^algorithm.fit.statistics: .*'frozen'"),
        (
            CHEETAH,
            {"planner": {"kind": "random_shooting", "samples": 0}},
            "^algorithm.planner.samples must be at least 1, got 0",
        ),
        (
            CHEETAH,
            {"planner": {"kind": "cem", "knots": 9}},
            "^algorithm.planner.knots must be at most the horizon 3, got 9",
        ),
        (CHEETAH, {"space": "state"}, "^algorithm.space: .*did you mean 'states'"),
        (CHEETAH, {"every": 4}, "^algorithm.every must not exceed the horizon 3, got 4"),
        (CHEETAH, {"tail": "rset"}, "^algorithm.tail: .*did you mean 'rest'"),
        (CHEETAH, {"steps": 0}, "^algorithm.steps must be at least 1, got 0"),
        (CHEETAH, {"horizon": 0}, "^algorithm.horizon must be at least 1, got 0"),
        (CHEETAH, {"random_episodes": 0}, "^algorithm.random_episodes must be at least 1, got 0"),
        (
            CHEETAH,
            {"validation_episodes": -1},
            "^algorithm.validation_episodes must not be negative, got -1",
        ),
        (CHEETAH, {"first_iterations": 0}, "^algorithm.first_iterations must be at least 1"),
    ],
)
def test_mistakes_are_answered_by_key(setting, change, message, tmp_path):
    with pytest.raises(mbrl.MbrlError, match=message):
        run(tiny(tmp_path, setting, **change))
    assert not any(tmp_path.rglob("metrics.csv"))


@pytest.mark.parametrize("kind", ["learned_mpc", "fit_dynamics"])
def test_a_device_that_is_not_there(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = {
        "task": "InvertedPendulum-v5",
        "algorithm": {"kind": kind, "device": "cuda"},
        "output_dir": str(tmp_path),
    }
    if kind == "learned_mpc":
        config["algorithm"]["model"] = {"kind": "mlp", "reward": True}
    with pytest.raises(ArgumentError, match=r"^algorithm.device: 'cuda' is not available here"):
        run(config)
