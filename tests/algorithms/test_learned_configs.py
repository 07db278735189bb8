"""The shipped configurations of learned dynamics: each runs, and the quick one learns to run."""

import csv
from pathlib import Path

import pytest

import mbrl

CONFIGS = Path(__file__).parents[2] / "configs"
NAMES = [
    "nagabandi_half_cheetah",
    "nagabandi_half_cheetah_quick",
    "pets_cartpole",
    "pets_half_cheetah",
    "pets_inverted_pendulum",
]


def rows(run_dir):
    with (run_dir / "metrics.csv").open() as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


@pytest.mark.parametrize("name", NAMES)
def test_it_runs(name, tmp_path):
    config = mbrl.load_config(
        CONFIGS / f"{name}.yaml",
        [
            "algorithm.updates=2",
            "algorithm.steps=20",
            "algorithm.planner.samples=20",
            "algorithm.fit.epochs=2",
            "algorithm.fit.min_steps=0",
            "eval_task_args={max_episode_steps: 3}",
            "evaluation.episodes=1",
            "torch_threads=1",
            f"output_dir={tmp_path}",
        ],
    )
    found = rows(mbrl.run(config).run_dir)
    assert len(found) == 2
    assert found[1]["length_mean"] > 3


def test_the_quick_half_cheetah_runs_within_two_iterations(tmp_path):
    config = mbrl.load_config(
        CONFIGS / "nagabandi_half_cheetah_quick.yaml",
        [
            "algorithm.updates=2",
            "evaluation.episodes=1",
            "eval_task_args={max_episode_steps: 10}",
            f"output_dir={tmp_path}",
        ],
    )
    found = rows(mbrl.run(config).run_dir)
    assert found[1]["return_mean"] > 1000
    errors = [row["validation_open_loop_error"] for row in found]
    assert errors == sorted(errors, reverse=True)
