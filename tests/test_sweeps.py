"""Sweeps, in this process and in others: the table that they end with, and mistakes."""

import csv
from pathlib import Path

import pytest

from mbrl.finished_runs import resumed_config
from tests.tiny import command, runs, summary, write_tiny


@pytest.fixture
def file(tmp_path):
    return write_tiny(tmp_path)


@pytest.mark.parametrize("launcher", [[], ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]])
def test_a_sweep_ends_with_a_table(capfd, file, tmp_path, launcher):
    done = command(
        capfd, "--config-file", file, "seed=0,1", "algorithm.horizon=3,4", "-m", *launcher
    )
    assert done.code == 0
    *_, header, first, second, last = done.err.splitlines()
    assert header.split() == ["configuration", "runs", "mean", "95", "%", "interval", "best"]
    assert "horizon=3" in first
    assert "horizon=4" in second
    path = Path(last.removeprefix("sweep="))
    # The README has all runs reported as outputs/*/*: the table is not among them.
    assert sorted((tmp_path / "outputs").glob("*/*")) == runs(tmp_path)
    with path.open() as lines:
        table = list(csv.DictReader(lines))
    assert [row["runs"] for row in table] == ["2", "2"]
    for row, horizon in zip(table, (3, 4), strict=True):
        returns = [
            summary(run)["eval_return_mean"]
            for run in runs(tmp_path)
            if resumed_config(run).algorithm["horizon"] == horizon
        ]
        assert float(row["mean"]) == pytest.approx(sum(returns) / 2)
        assert float(row["best"]) == max(returns)


def test_a_mistake_in_another_process_is_said(capfd, file, tmp_path):
    launcher = ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]
    done = command(capfd, "--config-file", file, "algorithm.updates=0,1", "-m", *launcher)
    assert done.code == 2
    assert "error: algorithm.updates must be at least 1, got 0" in done.err


def test_what_came_to_its_end_before_a_mistake_is_in_the_table(capfd, file, tmp_path):
    done = command(capfd, "--config-file", file, "algorithm.updates=1,0", "-m")
    assert done.code == 2
    header, first, last, error = done.err.splitlines()[-4:]
    assert header.startswith("configuration")
    assert first.split()[-1] == f"{summary(runs(tmp_path)[0])['eval_return_mean']:.6g}"
    assert Path(last.removeprefix("sweep=")).is_file()
    assert error == "error: algorithm.updates must be at least 1, got 0"
