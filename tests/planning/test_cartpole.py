"""The swing-up: its planners are chosen by a word, and solve it."""

from pathlib import Path

import pytest

import mbrl
from benchmarks import planners

FOLDER = Path(__file__).parents[2] / "configs" / "planning"
NAMES = sorted(file.stem for file in (FOLDER / "planner").glob("*.yaml"))
PLANS = sorted(file.stem for file in (FOLDER / "planner" / "plan").glob("*.yaml"))
SHORT = ("evaluation.episodes=1", "algorithm.updates=2", "algorithm.horizon=20",
         "algorithm.planner.iterations=2", "task_args.max_episode_steps=60")  # fmt: skip


def loaded(name, *overrides):
    return mbrl.load_config(FOLDER / f"{name}.yaml", ["threads=1", *overrides])


@pytest.mark.parametrize("name", NAMES)
def test_a_word_chooses_a_planner_with_no_option_of_another(name, tmp_path):
    config = loaded("cartpole", f"planner={name}", f"output_dir={tmp_path}", *SHORT)
    alone = loaded("cartpole", "~planner", f"algorithm.planner={{kind:{name}}}")
    assert config.algorithm["planner"]["kind"] == name
    assert config.algorithm["planner"].keys() == alone.algorithm["planner"].keys()
    assert mbrl.run(config).summary["eval_success_rate"] in (0.0, 1.0)


def test_two_plans_last_a_whole_episode():
    config = loaded("cartpole_plan")
    assert 2 * config.algorithm["horizon"] == config.task_args["max_episode_steps"]


@pytest.mark.parametrize("name", PLANS)
def test_a_word_chooses_what_plans_the_swing_up(name, tmp_path):
    config = loaded("cartpole_plan", f"planner=plan/{name}", f"output_dir={tmp_path}", *SHORT)
    assert config.algorithm["planner"]["kind"] == name
    assert mbrl.run(config).summary["eval_success_rate"] in (0.0, 1.0)


@pytest.mark.parametrize("file", ["cartpole", "cartpole_plan"])
@pytest.mark.parametrize("name", ["ilqr", "icem", "cem"])
def test_the_benchmark_asks_for_one_planner(file, name):
    path = FOLDER / f"{file}.yaml"
    config = mbrl.load_config(path, planners.overrides(name, path))
    assert config.algorithm["planner"]["kind"] == name


def test_the_benchmark_takes_the_options_that_are_shipped():
    path = FOLDER / "cartpole.yaml"
    found = mbrl.load_config(path, planners.overrides("icem", path)).algorithm["planner"]
    assert found == loaded("cartpole", "planner=icem").algorithm["planner"]
    assert "cartpole_plan" not in planners.TASKS


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    ("file", "planner"),
    [
        ("cartpole", "ilqr"),
        ("cartpole", "gradient_shooting"),
        ("cartpole_plan", "plan/ilqr"),
        ("cartpole_plan", "plan/gradient_shooting"),
    ],
)
def test_derivatives_swing_it_up_from_every_start(file, planner, seed, tmp_path):
    given = (f"planner={planner}", f"seed={seed}", "evaluation.episodes=3")
    updates = ("algorithm.updates=1",) if file == "cartpole" else ()
    config = loaded(file, *given, *updates, f"output_dir={tmp_path}")
    assert mbrl.run(config).summary["eval_success_rate"] == 1.0
