"""The command as a process: started, stopped, killed."""

import contextlib
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mbrl.runner import resumed_config, run
from tests.tiny import (
    TINY,
    child,
    command,
    one_error_line,
    refused,
    rows,
    runs,
    same_runs,
    stored,
    train,
    write_tiny,
)

ROOT = Path(__file__).resolve().parents[1]


def process(*arguments, cwd):
    return subprocess.Popen(
        [sys.executable, ROOT / "main.py", *map(str, arguments)],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_rows(path, n, child):
    """Wait until metrics.csv has n rows."""
    until = time.monotonic() + 60
    while child.poll() is None and time.monotonic() < until:
        found = runs(path)
        if found and (found[0] / "metrics.csv").exists() and len(rows(found[0])) >= n:
            return found[0]
        time.sleep(0.01)
    pytest.fail(f"the process ended or stalled: {child.poll()} {child.communicate()}")


LONG = {"algorithm": {**TINY["algorithm"], "updates": 40}, "checkpoint": {"every": 4}}


# Children of a process that has imported everything start at once.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.warm"])
# Checkpoints are half of what it does, so that many kills hit one that is being written.
_KILLED = {
    "algorithm": {**TINY["algorithm"], "updates": 12},
    "graph": {"nodes": {"policy": {"kind": "gaussian_mlp", "hidden": [64, 64]}}},
    "checkpoint": {"every": 1},
}


def forked(folder, *arguments, largest_file=None):
    """Start the command line in a child of its own, which is to be killed."""
    given = [str(argument) for argument in arguments]
    process = _FORKS.Process(target=child, args=(given, str(folder / "errors"), largest_file))
    process.start()
    return process


def wait_for(condition, process):
    """Wait as closely as possible; return whether it came while the process lived."""
    until = time.monotonic() + 60
    while process.is_alive() and time.monotonic() < until:
        if condition():
            return True
        time.sleep(1e-4)
    return bool(condition())


def kill_at_a_random_moment(folder, file, dice):
    """Kill a run after its first checkpoint; return its folder, and whether a save was cut short.

    Every second kill waits for a checkpoint to be in the middle of being written.
    """
    known = set(runs(folder))
    process = forked(folder, "--config-file", file)
    assert wait_for(lambda: set(runs(folder)) - known, process), (folder / "errors").read_text()
    (path,) = set(runs(folder)) - known
    saved, writing = (path / "checkpoints" / f"latest.pt{end}" for end in (".sha256", ".tmp"))
    assert wait_for(saved.exists, process), (folder / "errors").read_text()
    if dice.random() < 0.5:
        updates = dice.randrange(11)
        wait_for(lambda: stored_rows(path) >= updates and writing.exists(), process)
        time.sleep(0.002 * dice.random())
    else:
        time.sleep(0.3 * dice.random())
    process.kill()
    process.join()
    if process.exitcode != -signal.SIGKILL:  # it was faster
        assert process.exitcode == 0, (folder / "errors").read_text()
        return None, False
    return path, bool(list((path / "checkpoints").glob("*.tmp")))


def stored_rows(path):
    return len(rows(path)) if (path / "metrics.csv").exists() else 0


@pytest.mark.parametrize("kills", [4, pytest.param(50, marks=pytest.mark.slow)])
def test_killed_runs_continue_from_their_newest_checkpoint(capsys, tmp_path, kills):
    dice = random.Random()
    reference = train(capsys, write_tiny(tmp_path, "reference", **_KILLED))
    file, done, cut_short, started = write_tiny(tmp_path, **_KILLED), 0, 0, time.monotonic()
    while done < kills:
        path, during_a_save = kill_at_a_random_moment(tmp_path, file, dice)
        if path is None:
            continue
        done, cut_short = done + 1, cut_short + during_a_save
        assert run(resumed_config(path), resume=path).run_dir == path
        assert same_runs(path, reference)
        shutil.rmtree(path)
    print(f"{done} kills, {cut_short} in a save, {time.monotonic() - started:.1f} s")
    assert cut_short or kills < 50


@pytest.mark.parametrize("signals", [4, pytest.param(30, marks=pytest.mark.slow)])
def test_signals_at_random_moments(capsys, tmp_path, signals):
    dice = random.Random()
    reference = train(capsys, write_tiny(tmp_path, "reference", **_KILLED))
    file, errors = write_tiny(tmp_path, **_KILLED), tmp_path / "errors"
    for number in range(signals):
        signum = (signal.SIGINT, signal.SIGTERM)[number % 2]
        process = forked(tmp_path, "--config-file", file)
        # The first thing that a configuration leads to, or a moment of the run itself.
        assert wait_for(lambda: runs(tmp_path), process), errors.read_text()
        time.sleep(0.4 * dice.random())
        with contextlib.suppress(ProcessLookupError):  # it was faster
            os.kill(process.pid, signum)
        process.join()
        lines = errors.read_text().splitlines()
        last = "eval_return_mean" if process.exitcode == 0 else "stopped by SIG"
        assert process.exitcode in (0, 128 + signum)
        assert all(line.startswith("update ") for line in lines[:-1])
        assert lines[-1].startswith(last)
        (path,) = runs(tmp_path)
        assert run(resumed_config(path), resume=path).run_dir == path
        assert same_runs(path, reference)
        shutil.rmtree(path)
        errors.unlink()


@pytest.mark.parametrize(
    ("share", "updates", "saved"), [(0.3, 5, ()), (0.9, 5, (0,)), (1.05, 220, range(140, 220, 20))]
)
def test_a_disk_that_fills_up(capsys, tmp_path, share, updates, saved):
    """No file may grow past a share of the last checkpoint's size.

    Then not even the first checkpoint fits; or that one, and none with an optimiser's memory; or
    all of them, and metrics.csv ends within a row.
    """
    long = {"algorithm": {**TINY["algorithm"], "updates": updates}, "checkpoint": {"every": 20}}
    reference = train(capsys, write_tiny(tmp_path, "reference", **long))
    size = (reference / "checkpoints" / "latest.pt").stat().st_size
    file = write_tiny(tmp_path, **long)
    process = forked(tmp_path, "--config-file", file, largest_file=int(share * size))
    process.join()
    lines = (tmp_path / "errors").read_text().splitlines(keepends=True)
    assert process.exitcode == 2, lines
    assert all(line.startswith("update ") for line in lines[:-1])
    assert one_error_line(lines[-1])
    assert "File too large" in lines[-1]
    (path,) = runs(tmp_path)
    if not saved:
        refused(command(capsys, "--resume", path), "no usable checkpoint", str(path))
    else:
        assert stored(path)["update"] in saved
        assert run(resumed_config(path), resume=path).run_dir == path
        assert same_runs(path, reference)


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_process_that_is_stopped_twice_ends_as_if_it_never_was(capsys, tmp_path, signum, code):
    child = process("--config-file", write_tiny(tmp_path, **LONG), cwd=tmp_path)
    for n in (5, 15):
        path = wait_for_rows(tmp_path, n, child)
        child.send_signal(signum)
        out, err = child.communicate(timeout=60)
        assert (child.returncode, out) == (code, "")
        last = f"stopped by {signal.Signals(signum).name}; resume with --resume {path}"
        assert err.splitlines()[-1] == last
        assert all(line.startswith("update ") for line in err.splitlines()[:-1])
        assert stored(path)["update"] == len(rows(path)) < 40
        child = process("--resume", path, cwd=tmp_path)
    out, _ = child.communicate(timeout=60)
    assert (child.returncode, out.splitlines()[-1].split("run_dir=")[1]) == (0, str(path))
    assert same_runs(path, train(capsys, write_tiny(tmp_path, "reference", **LONG)))


def test_a_process_with_a_mistake_ends_with_one_line(tmp_path):
    file = write_tiny(tmp_path)
    child = process("--config-file", file, "evaluation.episodse=3", cwd=tmp_path)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, out) == (2, "")
    assert one_error_line(err)
    assert "'evaluation.episodse'" in err
    assert sorted(item.name for item in tmp_path.iterdir()) == ["tiny.yaml"]
