"""Runs: what they leave behind, that they repeat, and how they are evaluated."""

import functools
import hashlib
import json
import math
import os
import time

import gymnasium
import numpy as np
import pytest
import yaml

import mbrl
from mbrl import finished_runs
from mbrl.algorithms import PolicyGradient
from mbrl.config import from_mapping
from mbrl.errors import CheckpointError, ConfigError
from mbrl.finished_runs import load_policy, resumed_config
from mbrl.runner import run
from mbrl.tasks import evaluate, make_task
from tests.tiny import TINY, rows, same, same_runs, stored, summary, timeless, tiny_config


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Spare the disk; tests/test_checkpoint.py looks after what is synchronised when."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def config(tmp_path):
    """Return a function that makes a configuration; keyword arguments change it."""
    return functools.partial(tiny_config, tmp_path)


def algorithm(**changes):
    return {**TINY["algorithm"], **changes}


# What a run leaves behind


def test_a_run_leaves_what_the_contract_lists(tmp_path, config):
    result = run(config(seed=3))
    path = result.run_dir
    assert path.parent == tmp_path / "outputs" / "tiny"
    assert path.name.endswith("-seed3")
    time.strptime(path.name.removesuffix("-seed3"), "%Y-%m-%d_%H-%M-%S")
    files = {file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file()}
    assert files >= {
        "config.yaml", "metrics.csv", "summary.json", "log.txt",
        "checkpoints/latest.pt", "checkpoints/latest.pt.sha256",
        "checkpoints/best.pt", "checkpoints/best.pt.sha256",
    }  # fmt: skip
    assert not [name for name in files if name.endswith(".tmp")]
    for name in ("latest", "best"):
        file = path / "checkpoints" / f"{name}.pt"
        digest = (path / "checkpoints" / f"{name}.pt.sha256").read_text().split()[0]
        assert digest == hashlib.sha256(file.read_bytes()).hexdigest()
    assert result.summary == summary(path)


def test_the_summary(config):
    found = run(config(seed=3)).summary
    keys = {
        "algorithm", "task", "eval_task", "seed", "updates", "env_steps", "wall_s", "total_s",
        "eval_return_mean", "eval_return_std", "eval_episodes", "versions",
    }  # fmt: skip
    assert keys <= found.keys()
    assert found["algorithm"] == "policy_gradient"
    assert found["task"] == "mbrl/SmoothInvertedPendulum-v0"
    assert found["eval_task"] == "InvertedPendulum-v5"
    assert (found["seed"], found["updates"], found["eval_episodes"]) == (3, 4, 2)
    assert 0 < found["wall_s"] < found["total_s"] < 60
    for library in ("python", "torch", "mujoco", "gymnasium", "numpy"):
        assert found["versions"][library].count(".") >= 1


def test_metrics_count_real_transitions(config):
    """Two rollouts of five steps an update; differencing the physics counts for nothing."""
    path = run(config()).run_dir
    table = rows(path)
    assert list(table[0])[:3] == ["update", "env_steps", "wall_s"]
    assert "return_mean" in table[0]
    assert [row["update"] for row in table] == ["1", "2", "3", "4"]
    assert [row["env_steps"] for row in table] == ["10", "20", "30", "40"]
    walls = [float(row["wall_s"]) for row in table]
    assert walls == sorted(walls)
    assert walls[0] > 0
    assert summary(path)["wall_s"] == walls[-1]
    assert summary(path)["env_steps"] == 40


def test_transitions_after_an_end_do_not_count(config):
    """The double pendulum starts at random and falls within ten steps."""
    long = algorithm(horizon=40, updates=1)
    path = run(config(task="InvertedDoublePendulum-v5", eval_task=None, algorithm=long)).run_dir
    (row,) = rows(path)
    assert 2 < int(row["env_steps"]) < 80
    assert int(row["env_steps"]) == 2 * float(row["length_mean"])


def test_the_configuration_is_complete_and_repeats_the_run(config):
    first = run(config(seed=2)).run_dir
    text = (first / "config.yaml").read_text()
    plain = yaml.safe_load(text)
    assert plain["algorithm"]["optimizer"]["betas"] == [0.9, 0.999]
    assert plain["graph"]["nodes"]["dynamics"]["method"] == "auto"
    assert plain["evaluation"] == {"episodes": 2, "every": 0, "policy": "latest", "seed": None}
    assert from_mapping(plain).as_dict() == plain
    second = run(mbrl.load_config(first / "config.yaml")).run_dir
    assert second != first
    assert second.parent == first.parent
    assert (second / "config.yaml").read_text() == text
    assert same_runs(first, second)


# Repeating


def test_same_seed_same_run_whatever_the_threads(config):
    reference = run(config()).run_dir
    assert same_runs(reference, run(config()).run_dir)
    assert same_runs(reference, run(config(threads=2)).run_dir)
    assert same_runs(reference, run(config(threads=None)).run_dir)


def test_another_seed_another_run(config):
    first, second = run(config()).run_dir, run(config(seed=1)).run_dir
    assert timeless(first) != timeless(second)
    assert not same(stored(first)["algorithm"]["graph"], stored(second)["algorithm"]["graph"])
    assert summary(first)["eval_return_mean"] != summary(second)["eval_return_mean"]


def test_evaluating_and_saving_often_changes_nothing(config):
    reference = run(config()).run_dir
    often = config(evaluation={"episodes": 2, "every": 1}, checkpoint={"every": 1})
    path = run(often).run_dir
    assert timeless(path) == timeless(reference)
    assert same(stored(path)["algorithm"], stored(reference)["algorithm"])
    assert (path / "log.txt").read_text().count("evaluation return") == 4


# Evaluation


def test_every_evaluation_begins_new_episodes(config, monkeypatch):
    calls = []

    class Actor:
        def reset(self):
            calls.append("reset")

        def act(self, observation):
            calls.append("act")
            return np.zeros((len(observation), 1))

    monkeypatch.setattr(PolicyGradient, "actor", lambda self: Actor())
    run(config(evaluation={"episodes": 1, "every": 2}))
    firsts = [i for i, call in enumerate(calls) if call == "reset"]
    assert len(firsts) == 3
    assert firsts[0] == 0
    assert all(calls[i + 1] == "act" for i in firsts)


def test_the_best_policy_by_evaluation(config):
    options = {"episodes": 2, "every": 1, "policy": "best"}
    fast = algorithm(optimizer={"lr": 0.3}, updates=5)
    path = run(config(evaluation=options, algorithm=fast)).run_dir
    scores = [
        float(line.rsplit(" ", 1)[1])
        for line in (path / "log.txt").read_text().splitlines()
        if "evaluation return" in line
    ]
    assert len(set(scores)) > 1
    assert stored(path, "best")["update"] == 1 + scores.index(max(scores))
    # What chose the best does not flatter it: the last evaluation sees other episodes.
    policy, task = load_policy(path, "best"), make_task("InvertedPendulum-v5", threads=1)
    for seed, expected in (
        (10_000, summary(path)["eval_return_mean"]),
        (15_000, max(scores)),
    ):
        returns = evaluate(task, policy.act, episodes=2, seed=seed).returns
        assert float(returns.mean()) == expected


def test_the_best_policy_by_training_return(config):
    path = run(config()).run_dir
    returns = [float(row["return_mean"]) for row in rows(path)]
    assert stored(path, "best")["update"] == 1 + returns.index(max(returns))


@pytest.mark.parametrize("returned", [math.nan, None])
def test_without_a_measure_the_best_is_the_latest(config, monkeypatch, returned):
    original = PolicyGradient._measured

    def measured(self, *arguments):
        found = {**original(self, *arguments), "return_mean": returned}
        return {k: v for k, v in found.items() if v is not None}

    monkeypatch.setattr(PolicyGradient, "_measured", measured)
    path = run(config(evaluation={"episodes": 1, "policy": "best"})).run_dir
    assert same(stored(path, "best"), stored(path))
    json.loads((path / "summary.json").read_text())


def test_an_evaluation_interval_longer_than_the_run(config):
    path = run(config(evaluation={"episodes": 1, "every": 100, "policy": "best"})).run_dir
    assert same(stored(path, "best"), stored(path))


def test_the_evaluation_is_gymnasiums_own(config):
    """Run the stored policy by hand, episode by episode, in the plain environment."""
    path = run(config(seed=3, eval_task_args={"reset_noise_scale": 0.05})).run_dir
    returns = []
    for i in range(2):
        policy = load_policy(path)
        env = gymnasium.make("InvertedPendulum-v5", reset_noise_scale=0.05)
        observation, _ = env.reset(seed=40_000 + i)
        total, over = 0.0, False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(policy.act(observation))
            total += reward
            over = terminated or truncated
        returns.append(total)
        env.close()
    assert summary(path)["eval_return_mean"] == np.mean(returns)
    assert summary(path)["eval_return_std"] == np.std(returns)


def test_the_task_itself_with_its_arguments_is_the_default_environment(config):
    falling = {"task": "InvertedDoublePendulum-v5", "eval_task": None}
    changed = config(**falling, task_args={"reset_noise_scale": 0.0})
    found = run(changed)
    assert found.summary["eval_task"] == found.summary["task"]
    assert found.summary["eval_return_std"] == 0.0  # every episode starts at the same state
    assert finished_runs.evaluate_run(found.run_dir, changed).returns.std() == 0.0
    assert run(config(**falling)).summary["eval_return_std"] > 0.0


# Policies


def test_a_policy_needs_no_simulator(config, monkeypatch):
    path = run(config()).run_dir
    task = make_task("InvertedPendulum-v5")
    observations = np.random.default_rng(0).normal(size=(5, task.observation_size))

    def refuse(*arguments, **keywords):
        raise AssertionError("a simulator was made")

    monkeypatch.setattr(mbrl.Simulator, "__init__", refuse)
    monkeypatch.setattr(gymnasium, "make", refuse)
    policy = mbrl.load_policy(path)
    actions = policy.act(observations)
    assert actions.shape == (5, 1)
    assert np.allclose(policy.act(observations[2]), actions[2], rtol=1e-5)
    assert not np.array_equal(load_policy(path, "best").act(observations), actions)
    weights = stored(path)["algorithm"]["graph"]
    assert weights["nodes.policy.policy.normalizer.count"] > 0  # the normaliser comes along
    loaded = policy.state_dict()
    assert all(same(weights[name], value) for name, value in loaded.items())


@pytest.mark.parametrize("which", ["latest", "best"])
def test_the_policy_that_is_loaded_is_the_one_that_was_evaluated(config, monkeypatch, which):
    seen, original = [], finished_runs.evaluate

    def evaluate(task, act, **options):
        def recorded(observation):
            seen.append((observation.copy(), act(observation)))
            return seen[-1][1]

        return original(task, recorded, **options)

    monkeypatch.setattr(finished_runs, "evaluate", evaluate)
    changed = config(evaluation={"episodes": 2, "policy": which})
    path = run(changed).run_dir
    policy = load_policy(path, which)
    assert len(seen) > 5
    assert all(np.array_equal(policy.act(observation), action) for observation, action in seen)
    again = finished_runs.evaluate_run(path, changed)
    assert again.returns.mean() == summary(path)["eval_return_mean"]


def test_policies_that_cannot_be_loaded(config, tmp_path):
    with pytest.raises(ConfigError, match="is not the folder of a run"):
        load_policy(tmp_path)
    path = run(config()).run_dir
    with pytest.raises(ConfigError, match="'latest' or 'best', got 'first'"):
        load_policy(path, "first")
    for name in ("latest", "latest.previous"):
        (path / "checkpoints" / f"{name}.pt").write_bytes(b"damage")
    with pytest.raises(CheckpointError, match="no usable checkpoint"):
        load_policy(path)
    load_policy(path, "best")


def test_a_damaged_configuration_of_a_run_is_named(config):
    path = run(config()).run_dir
    (path / "config.yaml").write_text("task: [")
    for function in (load_policy, resumed_config):
        with pytest.raises(ConfigError, match=r"config\.yaml is not the configuration of a run"):
            function(path)


# Refusals


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"task": "HalfChetah-v5"}, ["task: no environment 'HalfChetah-v5'", "'HalfCheetah-v5'?"]),
        ({"eval_task": "InvertedPendlum-v5"}, ["eval_task: ", "'InvertedPendulum-v5'?"]),
        ({"eval_task": "InvertedDoublePendulum-v5"}, ["eval_task", "width 9", "on 4"]),
        ({"task_args": {"nothing": 1}}, ["task: ", "'nothing'"]),
        ({"task": "Acrobot-v1"}, ["task: Acrobot-v1", "MujocoEnv"]),
        ({"task": ""}, ["task", "''"]),
        ({"algorithm": {"kind": "policy_gradient", "horizon": 0}}, ["algorithm.horizon", "got 0"]),
        ({"output_dir": os.devnull}, ["output_dir: cannot create", os.devnull]),
    ],
)
def test_mistakes_leave_no_folder_behind(config, tmp_path, changes, words):
    with pytest.raises(mbrl.MbrlError) as caught:
        run(config(**changes))
    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / "outputs").exists()
