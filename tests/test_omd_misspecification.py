"""The comparison of model designs: what is drawn of runs made at several times and places."""

import csv
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import omd_misspecification as study

SEEDS = 3
T_975 = 4.302653  # quantile of Student's t, two degrees of freedom


@pytest.fixture
def options(tmp_path):
    return SimpleNamespace(study="cartpole", root=tmp_path / "runs", out=tmp_path / "drawn")


def record(options, name, returns, **error):
    """Leave a run of some updates, of 1000 steps each: returns [updates, SEEDS]."""
    error = {"model_error": 0.5, **error}
    run = options.root / "cartpole" / name / "omd_cartpole" / "2026-seed0"
    run.mkdir(parents=True)
    with (run / "metrics.csv").open("w") as file:
        names = ["env_steps", "return_mean", *(f"return_{i}" for i in range(SEEDS)), *error]
        writer = csv.writer(file)
        writer.writerow(names)
        for i, row in enumerate(returns):
            writer.writerow([1000 * (i + 1), np.mean(row), *row, *error.values()])


def table(options):
    with options.out.with_suffix(".csv").open() as file:
        return {(row["setting"], row["agent"]): row for row in csv.DictReader(file)}


def test_final_returns_and_their_interval(options):
    returns = np.random.default_rng(0).uniform(0, 500, (8, SEEDS))
    record(options, "width_2/omd", returns, model_error=0.25, model_error_median=0.125)
    study.draw(options)
    (row,) = table(options).values()
    final = returns[-5:].mean(0)
    assert [float(row[f"seed_{i}"]) for i in range(SEEDS)] == pytest.approx(final.tolist())
    assert float(row["return_mean"]) == pytest.approx(final.mean())
    half = T_975 * final.std(ddof=1) / np.sqrt(SEEDS)
    ends = float(row["low"]), float(row["high"])
    assert ends == pytest.approx((final.mean() - half, final.mean() + half))
    assert (row["env_steps"], row["model_error"], row["seeds"]) == ("8000", "0.25", "3")
    assert row["model_error_median"] == "0.125"
    assert options.out.with_suffix(".png").stat().st_size > 1000


def test_what_was_drawn_before_stays_until_a_run_is_as_long(options):
    record(options, "width_2/omd", np.full((8, SEEDS), 100.0))
    record(options, "width_1/mle", np.full((6, SEEDS), 50.0))
    study.draw(options)
    options.root = options.root.parent / "elsewhere"
    record(options, "width_2/omd", np.full((7, SEEDS), 1.0))  # shorter
    record(options, "width_1/mle", np.full((6, SEEDS), 60.0))
    record(options, "distractors_4/vep", np.full((5, SEEDS), 70.0))
    record(options, "width_1/omd", np.full((4, SEEDS), 80.0))  # of too few updates to average
    study.draw(options)
    found = table(options)
    assert list(found) == [("width_1", "mle"), ("width_2", "omd"), ("distractors_4", "vep")]
    means = [float(row["return_mean"]) for row in found.values()]
    assert means == [60.0, 100.0, 70.0]
    before = options.out.with_suffix(".csv").read_text()
    options.root = options.root / "nowhere"
    study.draw(options)
    assert options.out.with_suffix(".csv").read_text() == before


def test_without_any_run_it_says_where_it_looked(options):
    with pytest.raises(SystemExit, match=f"error: no run of 5 updates below {options.root}"):
        study.draw(options)
