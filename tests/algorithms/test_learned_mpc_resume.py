"""Iterations that stop anywhere continue as if they never had."""

import os
import signal
from itertools import count

import numpy as np
import pytest
import torch
from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv

import mbrl
from mbrl import checkpoint
from mbrl.errors import DivergenceError, TaskError
from mbrl.finished_runs import made_algorithm, resumed_config, training_task
from mbrl.nn import Fitting, MLPDynamics
from mbrl.planning import RandomShooting
from mbrl.runner import _Run, run
from mbrl.signals import Interrupted
from mbrl.tasks import collection
from mbrl.tasks.torso import HalfCheetahTorsoEnv
from tests.algorithms.learned import CHEETAH, PENDULUM, SETTINGS, same_learned, tiny
from tests.tiny import newest, resume, rows, same, stored, summary


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Spare the disk; tests/test_checkpoint.py looks after what is synchronised when."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


class Crash(BaseException):
    """The process ends here, without a word."""


@pytest.fixture
def at_pause(monkeypatch):
    """Return a function that has another one called at the n-th pause from now."""
    hooks, pauses, original = {}, count(1), _Run._pause

    def pause(self, doing):
        hooks.pop(next(pauses), lambda made: None)(self)
        original(self, doing)

    monkeypatch.setattr(_Run, "_pause", pause)

    def call(n, hook):
        nonlocal pauses
        hooks.clear()
        hooks[n], pauses = hook, count(1)

    return call


def stop(made):
    made._stop.signum = signal.SIGTERM


def crash(made):
    raise Crash


def progress(content):
    """Where in an iteration a checkpoint is: epochs of the fit, steps of the episodes."""
    state = content["algorithm"]
    fitting, planned = state["learner"]["fitting"], state["planned"]
    epochs = None if fitting is None else len(fitting["losses"])
    return epochs, None if planned is None else len(planned["collection"]["actions"])


@pytest.mark.parametrize("name", SETTINGS)
def test_a_run_that_is_stopped_again_and_again_continues(name, tmp_path, at_pause):
    config = tiny(tmp_path, SETTINGS[name])
    whole = run(config)
    at_pause(3, stop)
    with pytest.raises(Interrupted) as caught:
        run(config)
    path, places = caught.value.run_dir, [progress(stored(caught.value.run_dir))]
    assert places == [(2, None)], "in the middle of the first fit"
    while True:
        at_pause(5, stop)
        try:
            again = resume(path)
        except Interrupted:
            places.append(progress(stored(path)))
        else:
            break
    assert any(steps for _, steps in places), "in the middle of episodes"
    assert len(places) >= 3
    assert same_learned(path, whole.run_dir)
    assert again.summary["eval_return_mean"] == whole.summary["eval_return_mean"]
    walls = [float(row["wall_s"]) for row in rows(path)]
    assert 0 < walls[0] < walls[1] == summary(path)["wall_s"]


@pytest.mark.parametrize("at", [1, 2, 6, 9])
def test_a_signal_saves_once_and_loses_nothing(at, tmp_path, at_pause, monkeypatch):
    config, saved, original = tiny(tmp_path, CHEETAH), [], checkpoint.save

    def save(path, content, **keywords):
        saved.append(progress(content))
        original(path, content, **keywords)

    monkeypatch.setattr(checkpoint, "save", save)
    at_pause(at, stop)
    with pytest.raises(Interrupted) as caught:
        run(config)
    # When the fit begins, after each of 4 epochs; when the episodes begin, after each step.
    place = (at - 1, None) if at <= 5 else (None, at - 6)
    assert saved == [(None, None), place]
    assert rows(caught.value.run_dir) == []
    content = stored(caught.value.run_dir)
    assert content["update"] == 0
    assert content["env_steps"] == 0, "what is not over is not counted"


@pytest.mark.parametrize("at", [4, 9])
def test_long_updates_are_saved_on_the_way(at, tmp_path, at_pause):
    config = tiny(tmp_path, CHEETAH)
    whole = run(config)
    config["checkpoint"] = {"seconds": 0.0}
    at_pause(at, crash)
    with pytest.raises(Crash):
        run(config)
    path = newest(whole.run_dir.parent)
    # The pause in which it crashed had saved nothing yet.
    assert progress(stored(path)) == ((at - 2, None) if at <= 6 else (None, at - 7))
    resume(path)
    assert same_learned(path, whole.run_dir)


def test_short_updates_are_not(tmp_path, monkeypatch):
    saved, original = [], checkpoint.save

    def save(path, content, **keywords):
        saved.append((path.name, progress(content)))
        original(path, content, **keywords)

    monkeypatch.setattr(checkpoint, "save", save)
    found = run(tiny(tmp_path, CHEETAH, updates=1)).summary
    assert 0 < found["wall_s"] < found["total_s"]
    assert [place for _, place in saved] == [(None, None)] * len(saved)


def test_an_environment_that_fails_in_the_middle_of_episodes_loses_nothing(tmp_path, monkeypatch):
    config = tiny(tmp_path, PENDULUM)
    taken, original, failing = [], InvertedPendulumEnv.step, None

    def step(self, action):
        taken.append(action)
        seen, reward, *rest = original(self, action)
        return seen, float("nan") if len(taken) == failing else reward, *rest

    monkeypatch.setattr(InvertedPendulumEnv, "step", step)
    whole = run(config)
    evaluated = int(summary(whole.run_dir)["eval_length_mean"])
    first, both = (int(row["env_steps"]) for row in rows(whole.run_dir))
    failing = len(taken) - evaluated - (both - first) + 6
    taken.clear()
    with pytest.raises(DivergenceError, match="collection met NaN or infinity in: reward"):
        run(config)
    path = newest(whole.run_dir.parent)
    assert len(rows(path)) == 1
    content = stored(path)
    assert content["update"] == 1
    assert progress(content)[1] in (2, 3), "of two episodes five steps were taken"
    assert "DivergenceError" in (path / "log.txt").read_text()
    resume(path)
    assert same_learned(path, whole.run_dir)


@pytest.mark.parametrize("at", [0, 1, 2])
def test_a_fit_that_fails_loses_nothing(at, tmp_path, monkeypatch):
    """In the second iteration, at its epoch ``at``, after some batches."""
    config = tiny(tmp_path, CHEETAH)
    whole = run(config)
    epochs, batches = [], []
    epoch, losses = Fitting.epoch, MLPDynamics.losses

    def noted(self):
        epochs.append(self)
        batches.clear()
        return epoch(self)

    def lost(self, inputs, targets):
        batches.append(inputs)
        failing = (len(epochs), len(batches)) == (4 + at + 1, 2)
        return losses(self, inputs, targets) * (torch.nan if failing else 1)

    with monkeypatch.context() as patched:
        patched.setattr(Fitting, "epoch", noted)
        patched.setattr(MLPDynamics, "losses", lost)
        with pytest.raises(DivergenceError, match=f"is not finite in epoch {at}"):
            run(config)
    path = newest(whole.run_dir.parent)
    assert len(rows(path)) == 1
    assert progress(stored(path)) == (at, None)
    resume(path)
    assert same_learned(path, whole.run_dir)


@pytest.mark.parametrize("at", [0, 3])
def test_a_plan_that_fails_loses_nothing(at, tmp_path, monkeypatch):
    """In the second iteration: there are 5 plans in each."""
    config = tiny(tmp_path, CHEETAH) | {"checkpoint": {"every": 1}}
    whole = run(config)
    plans, original = count(-5), RandomShooting.plan

    def plan(self, *arguments, **keywords):
        found = original(self, *arguments, **keywords)
        if next(plans) >= at:
            raise DivergenceError("all rows")
        return found

    with monkeypatch.context() as patched:
        patched.setattr(RandomShooting, "plan", plan)
        with pytest.raises(DivergenceError):
            run(config)
    path = newest(whole.run_dir.parent)
    assert progress(stored(path)) == (None, at)
    resume(path)
    assert same_learned(path, whole.run_dir)


def test_environments_that_fail_to_begin_lose_nothing(tmp_path, monkeypatch):
    """Those of the second iteration, after its fit."""
    config = tiny(tmp_path, PENDULUM)
    whole = run(config)
    made, original = [], collection.Lockstep

    def lockstep(task, seeds, what):
        made.append(seeds)
        if len(made) == 3:
            raise TaskError("cannot begin")
        return original(task, seeds, what)

    with monkeypatch.context() as patched:
        patched.setattr(collection, "Lockstep", lockstep)
        with pytest.raises(TaskError):
            run(config)
    path = newest(whole.run_dir.parent)
    assert len(rows(path)) == 1
    assert progress(stored(path))[0] >= 1, "all epochs of the fit"
    resume(path)
    assert same_learned(path, whole.run_dir)


def test_random_episodes_that_fail_are_begun_again(tmp_path, monkeypatch):
    config = tiny(tmp_path, PENDULUM, validation_episodes=2)
    whole = run(config)
    made, originals = [], mbrl.algorithms.learned_mpc.collect

    def collect(*arguments, **keywords):
        found = originals(*arguments, **keywords)
        made.append(found)
        if len(made) == 2:
            raise DivergenceError("of validation")
        return found

    with monkeypatch.context() as patched:
        patched.setattr(mbrl.algorithms.learned_mpc, "collect", collect)
        with pytest.raises(DivergenceError):
            run(config)
    path = newest(whole.run_dir.parent)
    resume(path)
    assert same_learned(path, whole.run_dir)


def test_more_updates_go_on(tmp_path):
    longer = run(tiny(tmp_path, CHEETAH, updates=3))
    path = run(tiny(tmp_path, CHEETAH)).run_dir
    run(tiny(tmp_path, CHEETAH, updates=3), resume=path)
    assert same_learned(path, longer.run_dir)


def test_a_policy_of_a_run_in_the_middle_of_its_episodes(tmp_path, at_pause, monkeypatch):
    """It acts, and opens no environment for that."""
    config = tiny(tmp_path, CHEETAH)
    at_pause(9, stop)
    with pytest.raises(Interrupted) as caught:
        run(config)
    path = caught.value.run_dir
    monkeypatch.setattr(collection, "Lockstep", None)
    policy = mbrl.load_policy(path)
    action = policy.act(np.zeros(20))
    assert action.shape == (6,)
    assert (abs(action) <= 1).all()


@pytest.mark.parametrize("at", [3, 9])
def test_what_was_loaded_is_what_is_kept(at, tmp_path, at_pause):
    at_pause(at, stop)
    with pytest.raises(Interrupted) as caught:
        run(tiny(tmp_path, CHEETAH))
    path = caught.value.run_dir
    config, state = resumed_config(path), stored(path)["algorithm"]
    made = made_algorithm(config, training_task(config), torch.Generator())
    made.load_state_dict(state)
    assert same(made.state_dict(), state)


def test_episodes_that_cannot_be_resumed_are_kept(tmp_path, at_pause, monkeypatch):
    """Another physics is noticed, and with the old one they go on."""
    config = tiny(tmp_path, CHEETAH)
    whole = run(config)
    at_pause(9, stop)
    with pytest.raises(Interrupted) as caught:
        run(config)
    path, original = caught.value.run_dir, HalfCheetahTorsoEnv.reset_model
    before = stored(path)

    def elsewhere(self):
        seen = original(self)
        self.data.qvel[0] += 0.5
        return seen

    with monkeypatch.context() as patched:
        patched.setattr(HalfCheetahTorsoEnv, "reset_model", elsewhere)
        with pytest.raises(TaskError, match="the environment does not repeat"):
            resume(path)
    assert same(stored(path), before)
    resume(path)
    assert same_learned(path, whole.run_dir)
