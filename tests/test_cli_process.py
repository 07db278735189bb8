"""The command as a process: started, stopped, killed."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tiny import (
    TINY,
    command,
    one_error_line,
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


def test_a_process_that_is_killed_at_a_random_moment_continues(capsys, tmp_path):
    dice = random.Random()
    child = process("--config-file", write_tiny(tmp_path, **LONG), cwd=tmp_path)
    path = wait_for_rows(tmp_path, dice.randrange(1, 20), child)
    time.sleep(0.02 * dice.random())
    child.kill()
    child.communicate(timeout=60)
    assert child.returncode == -signal.SIGKILL
    assert len(rows(path)) < 40
    assert command(capsys, "--resume", path).run_dir == path
    assert same_runs(path, train(capsys, write_tiny(tmp_path, "reference", **LONG)))
    walls = [float(row["wall_s"]) for row in rows(path)]
    assert walls == sorted(walls)


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
