"""How far a job is."""

import time

import pytest

from mbrl.monitoring import Progress


@pytest.fixture
def now(monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    return clock


def test_a_line_every_few_seconds_and_one_at_the_end(capsys, now):
    progress = Progress(30, "point")
    for _ in range(10):
        now[0] += 2.0
        progress.advance(3)
    progress.close()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "point 9/30 wall_s=6.0",
        "point 18/30 wall_s=12.0",
        "point 27/30 wall_s=18.0",
        "point 30/30 wall_s=20.0",
    ]


def test_a_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    progress = Progress(8, "point")
    progress.advance(8)
    progress.close()
    err = capsys.readouterr().err
    assert "8/8" in err
    assert err.endswith("\n")
