"""The planning tasks in configs/planning: each is legal, and each is solved."""

from pathlib import Path

import pytest

import mbrl
from mbrl.planning import Planner, make_planner

FOLDER = Path(__file__).parents[2] / "configs" / "planning"
OURS = sorted(path.stem for path in FOLDER.glob("*.yaml"))
QUICK = [name for name in OURS if name != "humanoid_standup"]  # seconds even when short
SHORT = ("threads=1", "evaluation.episodes=1", "algorithm.updates=2", "algorithm.horizon=5",
         "task_args.max_episode_steps=6")  # fmt: skip


def loaded(name, *overrides):
    return mbrl.load_config(FOLDER / f"{name}.yaml", ["threads=1", *overrides])


def success_rate(name, tmp_path, *overrides):
    result = mbrl.run(loaded(name, f"output_dir={tmp_path}", *overrides))
    return result.summary["eval_success_rate"]


@pytest.mark.parametrize("name", OURS)
def test_it_declares_success_and_a_planner(name):
    config = loaded(name)
    task = mbrl.make_task(config.task, **config.task_args, threads=1)
    assert task.success is not None
    assert task.success.steps <= task.max_episode_steps
    planner = make_planner(
        config.algorithm["planner"], config.algorithm["horizon"], "algorithm.planner"
    )
    assert isinstance(planner, Planner)


@pytest.mark.parametrize("name", QUICK)
def test_it_runs(name, tmp_path):
    assert success_rate(name, tmp_path, *SHORT) in (0.0, 1.0)


@pytest.mark.parametrize("kind", ["mpc", "trajectory_optimization"])
@pytest.mark.parametrize("name", ["cartpole", "point_mass", "reacher"])
def test_it_runs_as_mpc_and_as_a_plan(name, kind, tmp_path):
    rate = success_rate(name, tmp_path, *SHORT, f"algorithm.kind={kind}")
    assert rate in (0.0, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", ["cartpole", "reacher", "swimmer"])
def test_mpc_solves_it_from_every_start(name, seed, tmp_path):
    # One update: what is recorded before the evaluation does not change it.
    assert success_rate(name, tmp_path, f"seed={seed}", "algorithm.updates=1") == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_five_iterations_take_the_point_mass_to_its_goal(seed, tmp_path):
    assert success_rate("point_mass", tmp_path, f"seed={seed}") == 1.0
