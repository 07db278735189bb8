"""Episodes on record: during a run, at its end, and of runs that are finished."""

import csv
import dataclasses
import os

import imageio.v2
import imageio_ffmpeg
import numpy as np
import pytest
import torch

from mbrl.config import EvaluationOptions, from_mapping
from mbrl.errors import ConfigError, TaskError
from mbrl.finished_runs import evaluate_run, resumed_config
from mbrl.recording import cut, played
from mbrl.runner import run
from mbrl.tasks import make_task
from mbrl.types import RecordedEpisode
from tests.exhibited import (
    LEARNED,
    PAINTED,
    STEPS,
    PaintedCheetahEnv,
    painted_state,
    register_painted,
    states_of,
)
from tests.tiny import command, refused, same_runs

TRAINED = {
    "task": PAINTED,
    "task_args": {"max_episode_steps": STEPS},
    "algorithm": {"kind": "policy_gradient", "updates": 3, "horizon": 3, "batch": 2},
    "graph": {"nodes": {"policy": {"kind": "gaussian_mlp", "hidden": [8]}}},
    "threads": 1,
    "evaluation": {"episodes": 2},
}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def config(tmp_path):
    register_painted()

    def make(content=TRAINED, **monitor):
        output = {"task": PAINTED, "output_dir": str(tmp_path / "outputs")}
        return from_mapping({**content, **output, "monitor": monitor}, "recorded")

    return make


def names(path, folder):
    return sorted(file.name for file in (path / folder).glob("*"))


def table(path):
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def test_videos_of_a_policy_gradient_are_of_its_policy(config):
    """Of its first evaluation episode; and looking changes nothing."""
    path = run(config(video={"every": 2, "final": True})).run_dir
    assert names(path, "videos") == [
        "episode.mp4",
        "episode.png",
        "update_0002.mp4",
        "update_0002.png",
    ]
    assert same_runs(path, run(config()).run_dir)
    found = table(path / "plots" / "trajectory.csv")
    alone = dataclasses.replace(resumed_config(path), evaluation=EvaluationOptions(episodes=1))
    (first,) = evaluate_run(path, alone).returns  # alone: a batch of two is rounded otherwise
    assert found["reward"].sum() == pytest.approx(first, rel=1e-12)
    # 20 steps of 0.01 s, every fourth is drawn; the strip shows the states of the table.
    frames, _ = imageio_ffmpeg.count_frames_and_secs(str(path / "videos" / "episode.mp4"))
    assert frames == 6
    strip = imageio.v2.imread(path / "videos" / "episode.png")
    columns = [*(f"q {i}" for i in range(9)), *(f"v {i}" for i in range(9))]
    states = np.stack([found[name] for name in columns], axis=1)
    for place in range(5):
        picture = np.ascontiguousarray(strip[:, 16 * place : 16 * place + 12])
        np.testing.assert_array_equal(painted_state(picture), states[4 * place])
    np.testing.assert_allclose(found["time [s]"], 0.01 * np.arange(STEPS), rtol=1e-12)


def test_seconds_cut_episodes_of_both_kinds(config):
    video = {"every": 3, "final": True, "seconds": 0.08}
    for content in (TRAINED, LEARNED):
        path = run(config(content, video=video)).run_dir
        for name in ("update_0003", "episode"):
            file = path / "videos" / f"{name}.mp4"
            assert imageio_ffmpeg.count_frames_and_secs(str(file))[0] == 3  # of steps 0, 4, 8


def test_what_is_played_is_what_the_environment_does():
    register_painted()
    task = make_task(PAINTED, threads=1, max_episode_steps=STEPS)
    dice = np.random.default_rng(0)

    class Actor:
        def __init__(self):
            self.seen = []

        def reset(self):
            self.seen.clear()

        def act(self, observation):
            self.seen.append(observation[0])
            return dice.uniform(-1, 1, (1, 6))

    actor = Actor()
    episode = played(task, actor, 5)
    assert (episode.seed, episode.actions.shape) == (5, (STEPS, 6))
    states = states_of(episode.actions, 5)
    observed = task.observe(torch.from_numpy(states[:-1]))
    np.testing.assert_allclose(np.stack(actor.seen), observed.numpy(), rtol=1e-14)


def test_cutting():
    task = make_task(PAINTED, threads=1)
    episode = RecordedEpisode(0, np.zeros((STEPS, 6)))
    assert cut(task, episode, None) is episode
    for seconds, steps in ((0.05, 5), (0.055, 6), (0.001, 1), (10.0, STEPS)):
        assert len(cut(task, episode, seconds).actions) == steps


def test_an_episode_without_an_end_is_refused(monkeypatch):
    task = make_task("mbrl/SmoothInvertedPendulum-v0", threads=1)
    monkeypatch.setattr(task, "max_episode_steps", None)
    with pytest.raises(TaskError, match="has no max_episode_steps"):
        played(task, None, 0)


def test_without_graphics_runs_have_one_warning(config, monkeypatch, capfd):
    def fail(env):
        raise RuntimeError("no context")

    monkeypatch.setattr(PaintedCheetahEnv, "render", fail)
    path = run(config(video={"every": 1, "final": True})).run_dir
    (warning,) = [x for x in capfd.readouterr().err.splitlines() if x.startswith("warning: ")]
    assert "libegl1, libegl-mesa0 and libgl1-mesa-dri" in warning
    assert names(path, "videos") == []


# --mode record


@pytest.mark.parametrize("content", [TRAINED, LEARNED], ids=["policy", "planner"])
def test_finished_runs_are_recorded(config, content, capsys, monkeypatch):
    path = run(config(content)).run_dir
    done = command(capsys, "--mode", "record", "--run", path, "monitor.video.seconds=0.04")
    assert (done.code, done.err) == (0, "")
    assert done.out == f"video={path}/videos/episode.mp4 run_dir={path}\n"
    assert names(path, "videos") == ["episode.mp4", "episode.png"]
    assert "trajectory.png" in names(path, "plots")
    assert len(table(path / "plots" / "trajectory.csv")["reward"]) == 4


def test_recording_without_graphics_is_one_line(config, capsys, monkeypatch):
    def fail(env):
        raise RuntimeError("no context")

    path = run(config()).run_dir
    monkeypatch.setattr(PaintedCheetahEnv, "render", fail)
    done = command(capsys, "--mode", "record", "--run", path)
    refused(done, "cannot be drawn: no context", "libegl1, libegl-mesa0 and libgl1-mesa-dri")
    assert names(path, "videos") == []


def test_mistakes_are_named(config, capsys, tmp_path):
    refused(command(capsys, "--mode", "record"), "--mode record needs --run DIR")
    refused(command(capsys, "--mode", "record", "--run", tmp_path), "is not the folder of a run")
    with pytest.raises(ConfigError, match=r"^monitor\.video\.seconds must be positive or null"):
        config(video={"seconds": 0.0})
