"""What a sweep prints and writes: means, intervals and best runs of its configurations."""

import json
import math

import pytest

import mbrl
from mbrl.reporting import sweep_columns, sweep_rows, sweep_text


def finished(root, rate, seed, value):
    """Write the folder of a run that returned ``value``; None: it has not come to its end."""
    config = {
        "task": "InvertedPendulum-v5",
        "name": "tried",
        "seed": seed,
        "algorithm": {"kind": "policy_gradient", "optimizer": {"lr": rate}},
    }
    folder = root / f"{rate}-{seed}"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(json.dumps(config))
    if value is not None:
        (folder / "summary.json").write_text(json.dumps({"eval_return_mean": value}))
    return folder


@pytest.fixture
def folders(tmp_path):
    """Two configurations, the runs of each not next to each other; one run is unfinished."""
    found = {(0.1, 0): 4.0, (0.2, 0): 9.0, (0.1, 1): 6.0, (0.2, 1): None, (0.1, 2): 8.0}
    return [finished(tmp_path, *key, value) for key, value in found.items()]


def test_means_and_intervals_over_seeds(folders):
    first, second = sweep_rows(folders)
    assert "lr=0.1" in first.configuration
    assert (first.runs, first.finished, first.mean, first.best) == (3, 3, 6.0, 8.0)
    # Student's t at 97.5 % for two degrees of freedom is 4.30265, the standard error 2 / sqrt 3.
    half = 4.30265 * 2 / math.sqrt(3)
    assert (first.low, first.high) == pytest.approx((6 - half, 6 + half), rel=1e-5)
    assert first.best_run == str(folders[-1])
    assert (second.runs, second.finished, second.mean, second.best) == (2, 1, 9.0, 9.0)


def test_the_text_marks_the_best_mean_and_says_what_is_missing(folders):
    lines = sweep_text(sweep_rows(folders)).splitlines()
    assert [line.endswith("<- best mean") for line in lines] == [False, False, True]
    assert "1 of 2" in lines[2]
    assert "[1.03172, 10.9683]" in lines[1]


def test_nothing_finished_is_no_number(tmp_path):
    (row,) = sweep_rows([finished(tmp_path, 0.1, 0, None)])
    assert (row.finished, row.best_run) == (0, "")
    assert math.isnan(row.mean)
    assert "nan" not in sweep_text([row])
    assert sweep_columns([])["mean"] == []


def test_columns_have_a_row_a_configuration(folders):
    columns = sweep_columns(sweep_rows(folders))
    assert columns["runs"] == [3, 2]
    assert columns["mean"] == [6.0, 9.0]


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(mbrl.MbrlError, match="is not the folder of a run"):
        sweep_rows([tmp_path])
