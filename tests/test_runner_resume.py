"""Runs that stop, crash or diverge continue as if they never had."""

import functools
import os
import random
import signal
import threading

import numpy as np
import pytest
import torch

from mbrl import checkpoint, finished_runs, runner
from mbrl.algorithms import PolicyGradient
from mbrl.config import from_mapping
from mbrl.errors import (
    CheckpointError,
    ConfigError,
)
from mbrl.finished_runs import load_policy, resumed_config
from mbrl.runner import run
from mbrl.signals import Interrupted
from tests.tiny import (
    TINY,
    hooked_updates,
    newest,
    resume,
    rows,
    same_runs,
    stored,
    summary,
    tiny_config,
)


class Crash(BaseException):
    """The process ends here, without a word."""


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


def send(signum):
    return lambda algorithm: os.kill(os.getpid(), signum)


def crash(algorithm):
    raise Crash


def algorithm(**changes):
    return {**TINY["algorithm"], **changes}


# Stopping and continuing


@pytest.mark.parametrize("update", [1, 2, 3, 4])
def test_a_run_stopped_by_a_signal_continues(config, at_update, update):
    reference = run(config()).run_dir
    at_update[update] = send(signal.SIGTERM)
    with pytest.raises(Interrupted, match=r"stopped by SIGTERM; resume with --resume ") as caught:
        run(config())
    path = caught.value.run_dir
    assert caught.value.signum == signal.SIGTERM
    assert len(rows(path)) == stored(path)["update"] == update
    assert "SIGTERM" in (path / "log.txt").read_text()
    before = rows(path)
    assert resume(path).run_dir == path
    assert same_runs(path, reference)
    assert rows(path)[:update] == before
    walls = [float(row["wall_s"]) for row in rows(path)]
    assert walls == sorted(walls)
    assert summary(path)["wall_s"] == walls[-1]


@pytest.mark.parametrize("every", [0, 1])
def test_a_run_that_crashed_at_any_moment_continues(config, monkeypatch, every):
    """Crashes before and after each checkpoint, of the latest and of the best weights."""
    options = {"evaluation": {"episodes": 1, "every": every, "policy": "best"}}
    measured, returns = PolicyGradient._measured, [1.0, 5.0, 3.0, 2.0]  # the best comes second
    monkeypatch.setattr(
        PolicyGradient,
        "_measured",
        lambda self, *rest: {**measured(self, *rest), "return_mean": returns[self._done - 1]},
    )
    reference = run(config(**options)).run_dir
    crashed = 0
    for moment in range(1, 20):
        left = [moment]

        def save(*arguments, left=left, original=checkpoint.save, **keywords):
            left[0] -= 1
            if left[0] == 0:
                raise Crash
            original(*arguments, **keywords)

        with monkeypatch.context() as patch:
            patch.setattr(checkpoint, "save", save)
            try:
                path = run(config(**options)).run_dir
            except Crash:
                crashed += 1
                path = newest(reference.parent)
            else:
                break
        if moment == 1:  # not even the first checkpoint
            with pytest.raises(CheckpointError, match="no such file"):
                resume(path)
        else:
            resume(path)
            assert same_runs(path, reference)
    assert crashed >= 4


def test_a_run_that_crashed_between_checkpoints_continues(config, at_update):
    reference = run(config()).run_dir
    at_update[4] = crash
    with pytest.raises(Crash):
        run(config())
    path = newest(reference.parent)
    assert len(rows(path)) == 3
    assert stored(path)["update"] == 2
    resume(path)
    assert same_runs(path, reference)


def test_a_bug_in_the_middle_of_an_update_is_not_saved(config, at_update):
    reference = run(config(checkpoint={"every": 100})).run_dir

    def bug(algorithm):
        algorithm._generator.manual_seed(99)
        algorithm._done = 50
        raise ZeroDivisionError

    at_update[3] = bug
    with pytest.raises(ZeroDivisionError):
        run(config(checkpoint={"every": 100}))
    path = newest(reference.parent)
    assert "ZeroDivisionError" in (path / "log.txt").read_text()
    resume(path)
    assert same_runs(path, reference)


def test_a_second_signal_stops_at_once_and_spoils_nothing(config, at_update):
    reference = run(config()).run_dir

    def twice(algorithm):
        algorithm._generator.manual_seed(99)  # in the middle of an update
        send(signal.SIGINT)(algorithm)
        send(signal.SIGINT)(algorithm)

    at_update[3] = twice
    with pytest.raises(KeyboardInterrupt):
        run(config())
    path = newest(reference.parent)
    assert len(rows(path)) == 2
    resume(path)
    assert same_runs(path, reference)


def test_a_signal_ends_the_last_evaluation(config, monkeypatch):
    reference = run(config()).run_dir
    original = finished_runs.evaluate

    def interrupted(*arguments, **keywords):
        send(signal.SIGINT)(None)
        return original(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(finished_runs, "evaluate", interrupted)
        with pytest.raises(Interrupted) as caught:
            run(config())
    path = caught.value.run_dir
    assert not (path / "summary.json").exists()
    resume(path)
    assert same_runs(path, reference)


def test_a_signal_while_starting_up_stops_before_the_first_update(config, monkeypatch):
    original = finished_runs.make_task

    def interrupted(*arguments, **keywords):
        send(signal.SIGTERM)(None)
        monkeypatch.setattr(finished_runs, "make_task", original)
        return original(*arguments, **keywords)

    reference = run(config()).run_dir
    monkeypatch.setattr(finished_runs, "make_task", interrupted)
    with pytest.raises(Interrupted) as caught:
        run(config())
    assert rows(caught.value.run_dir) == []
    resume(caught.value.run_dir)
    assert same_runs(caught.value.run_dir, reference)


def test_handlers_are_put_back(config, at_update):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    at_update[1] = send(signal.SIGINT)
    with pytest.raises(Interrupted):
        run(config())
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_run_in_another_thread_leaves_signals_alone(config):
    results = []
    thread = threading.Thread(target=lambda: results.append(run(config())))
    thread.start()
    thread.join()
    assert results[0].summary["updates"] == 4


def test_resuming_a_finished_run_evaluates_again(config):
    path = run(config()).run_dir
    before = (path / "metrics.csv").read_bytes(), (path / "checkpoints/latest.pt").read_bytes()
    kept = summary(path)
    (path / "summary.json").unlink()
    resume(path)
    assert (path / "metrics.csv").read_bytes() == before[0]
    assert (path / "checkpoints/latest.pt").read_bytes() == before[1]
    for key in kept.keys() - {"total_s"}:
        assert summary(path)[key] == kept[key]


def test_a_run_in_progress_is_left_alone(config, at_update, tmp_path):
    reference = run(config()).run_dir
    refused = []

    def meddle(algorithm):
        with pytest.raises(ConfigError, match="is being trained by another process") as caught:
            resume(newest(reference.parent))
        refused.append(caught)

    at_update[2] = meddle
    path = run(config()).run_dir
    assert len(refused) == 1
    assert same_runs(path, reference)
    resume(path)  # which has ended


def test_a_run_that_could_not_begin_is_free_again(config, monkeypatch):
    path = run(config()).run_dir
    for begin in (lambda: resume(path), lambda: run(config())):
        with monkeypatch.context() as patch:
            patch.setattr(runner.Ranks, "told", lambda *_: (_ for _ in ()).throw(Crash))
            with pytest.raises(Crash):
                begin()
        folder = runner.RunFolder(newest(path.parent))
        folder.claim()
        folder.release()
    resume(path)


def test_the_best_of_a_run_are_the_weights_that_were_measured(config, monkeypatch):
    measured, returns, weights = PolicyGradient._measured, [1.0, 5.0, 3.0, 2.0], []

    def chosen(self, *rest):
        weights.append(self.measured_state_dict()["graph"])
        return {**measured(self, *rest), "return_mean": returns[self._done - 1]}

    monkeypatch.setattr(PolicyGradient, "_measured", chosen)
    path = run(config()).run_dir
    found = checkpoint.load(path / "checkpoints/best.pt")["algorithm"]["graph"]
    assert all(torch.equal(value, weights[1][name]) for name, value in found.items())
    last = stored(path)["algorithm"]["graph"]
    assert not all(torch.equal(value, last[name]) for name, value in found.items())
    assert load_policy(path, "best").act(np.zeros(4)).shape == (1,)


def test_resuming_with_more_updates_records_them(config):
    longer = run(config(algorithm=algorithm(updates=6))).run_dir
    path = run(config()).run_dir
    changed = from_mapping({**resumed_config(path).as_dict(), "algorithm": algorithm(updates=6)})
    run(changed, resume=path)
    assert same_runs(path, longer)  # the learning rate is constant
    assert resumed_config(path) == changed
    assert resumed_config(path).algorithm["updates"] == 6


def test_a_run_of_a_version_with_fewer_options_continues(config):
    path = run(config()).run_dir
    stored_config = runner.RunFolder(path).read_config()
    del stored_config["algorithm"]["clip_value"], stored_config["torch_threads"]
    runner.RunFolder(path).write_config(stored_config)
    resume(path)
    assert resumed_config(path) == config()


def test_resuming_after_damage_continues_from_the_previous_checkpoint(config):
    reference = run(config()).run_dir
    path = run(config()).run_dir
    (path / "checkpoints" / "latest.pt").write_bytes(b"damage")
    resume(path)
    assert same_runs(path, reference)


def test_a_byte_flipped_in_the_newest_checkpoint_leaves_the_previous_one(config):
    path = run(config()).run_dir
    latest = path / "checkpoints" / "latest.pt"
    data, dice = latest.read_bytes(), random.Random()
    assert checkpoint.load(latest)["update"] == 4
    for _ in range(100):
        damaged = bytearray(data)
        damaged[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        latest.write_bytes(damaged)
        assert checkpoint.load(latest)["update"] == 2
    reference = run(config()).run_dir
    resume(path)
    assert same_runs(path, reference)


def changed(content, key, value):
    """A copy of nested mappings with the entry at a dotted key replaced."""
    first, _, rest = key.partition(".")
    return {**content, first: changed(content[first], rest, value) if rest else value}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("graph.nodes.policy.hidden", [3]),
        ("algorithm.horizon", 2),
        ("algorithm.optimizer.kind", "sgd"),
        ("algorithm.optimizer.weight_decay", 0.5),
        ("seed", 7),
    ],
)
def test_what_the_past_depended_on_cannot_change(config, key, value):
    path = run(config()).run_dir
    before = resumed_config(path)
    other = from_mapping(changed(before.as_dict(), key, value))
    with pytest.raises(ConfigError, match=rf"^--resume: {key} was .* what may change: "):
        run(other, resume=path)
    assert resumed_config(path) == before


def test_a_checkpoint_of_something_else_is_refused(config):
    path = run(config()).run_dir
    for content in ({"update": 1}, [1, 2], 3, {"algorithm": None}):
        checkpoint.save(path / "checkpoints" / "latest.pt", content)
        with pytest.raises(CheckpointError, match="does not fit the configuration"):
            resume(path)
        with pytest.raises(CheckpointError, match="does not fit the configuration"):
            load_policy(path)
