"""Runs that fail of themselves: diverging physics, full disks, environments that raise."""

import functools
import os
import signal

import gymnasium
import pytest
import torch

from mbrl import checkpoint, finished_runs, runner
from mbrl.errors import CheckpointError, DivergenceError, MbrlError, StorageError, TaskError
from mbrl.runner import run
from mbrl.signals import Interrupted
from mbrl.tasks.smooth import SmoothInvertedPendulumEnv
from tests.tiny import (
    hooked_updates,
    newest,
    resume,
    rows,
    same_runs,
    stored,
    timeless,
    tiny_config,
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Spare the disk; tests/test_checkpoint.py looks after what is synchronised when."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def config(tmp_path):
    """Return a function that makes a configuration; keyword arguments change it."""
    return functools.partial(tiny_config, tmp_path)


@pytest.fixture
def at_update(monkeypatch):
    """Return a dict {update: function of the algorithm}, called once before that update."""
    return hooked_updates(monkeypatch)


def diverge(algorithm):
    """Diverge after random numbers were drawn."""
    torch.rand(3, generator=algorithm._generator)
    raise DivergenceError("too wild")


# Divergence


@pytest.mark.parametrize("update", [1, 3, 4])  # update 2 is a checkpoint, update 3 is none
def test_after_a_divergence_everything_before_it_is_saved(config, at_update, update):
    reference = run(config()).run_dir
    at_update[update] = diverge
    with pytest.raises(DivergenceError, match="too wild"):
        run(config())
    path = newest(reference.parent)
    assert timeless(path) == timeless(reference)[: update - 1]
    assert stored(path)["update"] == update - 1
    assert "DivergenceError: too wild" in (path / "log.txt").read_text()
    resume(path)  # random numbers that were drawn in vain are drawn again
    assert same_runs(path, reference)


def test_a_full_disk_does_not_hide_what_happened(config, monkeypatch):
    def full(*arguments, **keywords):
        raise CheckpointError("cannot write: no space left")

    def log(self, line):
        if "Error" in line:
            raise OSError("full")

    monkeypatch.setattr(checkpoint, "save", full)
    monkeypatch.setattr(runner.RunFolder, "log", log)
    with pytest.raises(CheckpointError, match="no space left"):
        run(config())


# Full disks


@pytest.mark.parametrize("update", [1, 3])
@pytest.mark.parametrize("where", ["csv", "log", "summary"])
def test_wherever_the_disk_is_full_what_was_saved_stays(
    config, at_update, monkeypatch, where, update
):
    reference = run(config()).run_dir
    full = OSError(28, "No space left on device")

    def refuse(*arguments, **keywords):
        raise full

    names = {
        "csv": ("mbrl.monitoring.CsvFile.write", update),
        "log": ("mbrl.run_folder.RunFolder.log", update),
        "summary": ("mbrl.run_folder.RunFolder.write_summary", 1),
    }
    name, at = names[where]
    with monkeypatch.context() as patch:
        at_update[at] = lambda algorithm: patch.setattr(name, refuse)
        with pytest.raises(StorageError, match=r"^cannot write the run: .*No space left"):
            run(config())
    path = newest(reference.parent)
    before = stored(path)
    resume(path)
    assert same_runs(path, reference)
    assert before["update"] in (0, 2, 4)


# Environments that raise


class Moody(SmoothInvertedPendulumEnv):
    """Raises where it is told to."""

    raising = None

    def reset_model(self):
        if self.raising == "reset":
            raise RuntimeError("no\nreset today")
        return super().reset_model()

    def step(self, action):
        if self.raising == "step":
            raise SystemExit("enough")
        observation, reward, *rest = super().step(action)
        if self.raising == "width":
            observation = observation[:3]
        if self.raising in ("reward", "observation"):
            reward = reward * float("nan") if self.raising == "reward" else reward
            observation = observation * float("nan") if self.raising != "reward" else observation
        return observation, reward, *rest


@pytest.fixture
def moody(monkeypatch):
    """Register the environment; return a function that sets where it raises."""
    spec = gymnasium.envs.registration.EnvSpec("Moody-v0", entry_point=Moody, max_episode_steps=30)
    monkeypatch.setitem(gymnasium.registry, "Moody-v0", spec)
    return lambda where: monkeypatch.setattr(Moody, "raising", where)


@pytest.mark.parametrize(
    ("where", "error", "words"),
    [
        ("reset", TaskError, "^Moody-v0: reset raised RuntimeError: no reset today$"),
        ("step", TaskError, "^Moody-v0: step 1 of an evaluation raised SystemExit: enough$"),
        ("width", TaskError, "^Moody-v0: step 1 of an evaluation raised ValueError: .*shape"),
        ("reward", DivergenceError, "^Moody-v0: an evaluation met NaN or infinity in: reward"),
        (
            "observation",
            DivergenceError,
            "^Moody-v0: an evaluation met NaN or infinity in: obs",
        ),
    ],
)
@pytest.mark.parametrize("every", [0, 3])  # at the end; after update 3, which is no checkpoint
def test_after_an_evaluation_that_fails_nothing_is_lost(
    config, at_update, moody, where, error, words, every
):
    options = {"eval_task": "Moody-v0", "evaluation": {"episodes": 2, "every": every}}
    reference = run(config(**options)).run_dir
    at_update[3] = lambda algorithm: moody(where)
    with pytest.raises(error, match=words):
        run(config(**options))
    path = newest(reference.parent)
    assert stored(path)["update"] == len(rows(path)) == (every or 4)
    assert f"{error.__name__}: Moody-v0: " in (path / "log.txt").read_text()
    moody(None)
    resume(path)
    assert same_runs(path, reference)


@pytest.mark.parametrize("every", [1, 3])
def test_a_signal_ends_an_evaluation_during_training(config, at_update, monkeypatch, every):
    options = {"evaluation": {"episodes": 2, "every": every, "policy": "best"}}
    reference = run(config(**options)).run_dir
    original = finished_runs.evaluate

    def interrupted(*arguments, **keywords):
        os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments, **keywords)

    with monkeypatch.context() as patch:
        at_update[3] = lambda algorithm: patch.setattr(finished_runs, "evaluate", interrupted)
        with pytest.raises(Interrupted) as caught:
            run(config(**options))
    path = caught.value.run_dir
    assert stored(path)["update"] == 3
    assert stored(path)["owed"]
    resume(path)
    assert same_runs(path, reference)


def test_an_error_nobody_foresaw_in_an_evaluation_loses_nothing(config, at_update, monkeypatch):
    options = {"evaluation": {"episodes": 2, "every": 3}}
    reference = run(config(**options)).run_dir

    def fail(*arguments, **keywords):
        raise LookupError("a bug")

    with monkeypatch.context() as patch:
        at_update[3] = lambda algorithm: patch.setattr(finished_runs, "evaluate", fail)
        with pytest.raises(LookupError, match="a bug"):
            run(config(**options))
    path = newest(reference.parent)
    assert (stored(path)["update"], stored(path)["owed"]) == (3, True)
    assert "LookupError: a bug" in (path / "log.txt").read_text()
    resume(path)
    assert same_runs(path, reference)


def test_an_error_of_the_package_in_an_update_is_saved_as_a_divergence_is(config, at_update):
    reference = run(config()).run_dir

    def fail(algorithm):
        torch.rand(3, generator=algorithm._generator)
        raise TaskError("Moody-v0: step raised RuntimeError: no")

    at_update[4] = fail
    with pytest.raises(MbrlError, match="Moody-v0"):
        run(config())
    path = newest(reference.parent)
    assert stored(path)["update"] == len(rows(path)) == 3
    resume(path)
    assert same_runs(path, reference)


def test_a_return_that_is_nan_is_a_divergence(config, at_update, monkeypatch):
    original = SmoothInvertedPendulumEnv.tensor_reward
    reference = run(config()).run_dir
    poisoned = []
    at_update[3] = poisoned.append

    def reward(self, state, action, next_state):
        value = original(self, state, action, next_state)
        return value * float("nan") if poisoned else value

    with monkeypatch.context() as patch:
        patch.setattr(SmoothInvertedPendulumEnv, "tensor_reward", reward)
        with pytest.raises(DivergenceError, match="the return is not finite"):
            run(config())
    path = newest(reference.parent)
    assert stored(path)["update"] == len(rows(path)) == 2
    resume(path)
    assert same_runs(path, reference)
