"""What happens when files, folders and modules are not where, or not what, somebody thinks."""

import os
import warnings
from pathlib import Path

import pytest
import torch

import mbrl
from mbrl.errors import ArgumentError
from mbrl.resources import located
from tests.markdown import ROOT
from tests.tiny import command, newest, rows, runs, write_tiny

POINT = """
task: mbrl/Residual-v0
task_args:
  model: mine.xml
  max_episode_steps: 5
  cost: {position: {residual: {kind: joint_position}, weight: 5}}
algorithm: {kind: policy_gradient, updates: 1, horizon: 3, batch: 2}
evaluation: {episodes: 1}
"""


@pytest.fixture
def file(tmp_path):
    return write_tiny(tmp_path)


def test_only_what_is_the_users_becomes_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.xml").touch()
    (tmp_path / "runs").mkdir()
    config = {
        "task_args": {"model": "mine.xml", "xml_file": "half_cheetah.xml", "name": "mine.xml"},
        "graph": {"nodes": [{"run": "runs"}, {"run": "elsewhere"}]},
    }
    assert located(config) == {
        "task_args": {
            "model": str(tmp_path / "mine.xml"),
            "xml_file": "half_cheetah.xml",
            "name": "mine.xml",
        },
        "graph": {"nodes": [{"run": str(tmp_path / "runs")}, {"run": "elsewhere"}]},
    }
    monkeypatch.chdir(ROOT)
    shipped = {"task_args": {"model": "assets/point_mass.xml"}}
    assert located(shipped) == shipped


def test_a_run_says_that_its_model_was_edited(tmp_path, monkeypatch, capsys):
    text = (ROOT / "assets" / "point_mass.xml").read_text()
    (tmp_path / "mine.xml").write_text(text)
    (tmp_path / "point.yaml").write_text(POINT)
    monkeypatch.chdir(tmp_path)
    run_dir = command(capsys, "--config-file", "point.yaml", "output_dir=outputs").run_dir
    said = "warning: the model of mbrl/Residual-v0 is not the one of the last checkpoint"
    again = command(capsys, "--resume", run_dir, "algorithm.updates=2")
    assert again.code == 0
    assert said not in again.err
    (tmp_path / "mine.xml").write_text(text.replace("<option", '<option gravity="9 0 0"'))
    other = command(capsys, "--resume", run_dir, "algorithm.updates=3")
    assert other.code == 0
    assert said in other.err
    assert "not the one of the last checkpoint" in (run_dir / "log.txt").read_text()
    assert said not in command(capsys, "--resume", run_dir, "algorithm.updates=4").err


@pytest.mark.parametrize("mode", ["eval", "record"])
def test_what_is_done_with_a_run_afterwards_says_that_its_model_was_edited(
    tmp_path, monkeypatch, capsys, mode
):
    text = (ROOT / "assets" / "point_mass.xml").read_text()
    (tmp_path / "mine.xml").write_text(text)
    (tmp_path / "point.yaml").write_text(POINT)
    monkeypatch.chdir(tmp_path)
    run_dir = command(capsys, "--config-file", "point.yaml", "output_dir=outputs").run_dir
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert command(capsys, "--mode", mode, "--run", run_dir).code == 0
    (tmp_path / "mine.xml").write_text(text.replace("<option", '<option gravity="9 0 0"'))
    with pytest.warns(RuntimeWarning, match="the model of mbrl/Residual-v0 is not the one of the"):
        assert command(capsys, "--mode", mode, "--run", run_dir).code == 0


def test_a_run_keeps_its_model_wherever_one_is(tmp_path, monkeypatch, capsys):
    text = (ROOT / "assets" / "point_mass.xml").read_text()
    there = tmp_path / "there"
    there.mkdir()
    (tmp_path / "mine.xml").write_text(text)
    (there / "mine.xml").write_text(text.replace("<option", '<option gravity="9 0 0"'))
    (tmp_path / "point.yaml").write_text(POINT)
    monkeypatch.chdir(tmp_path)
    done = command(capsys, "--config-file", "point.yaml", "output_dir=outputs")
    assert done.code == 0, done.err
    monkeypatch.chdir(there)
    run = newest(tmp_path / "outputs" / "point")
    again = command(capsys, "--mode", "eval", "--run", run)
    assert again.out.split()[0] == done.out.split()[0]
    resumed = command(capsys, "--resume", run, "algorithm.updates=2")
    assert resumed.code == 0, resumed.err


def test_fewer_updates_than_are_made_are_refused(capsys, file, tmp_path):
    assert command(capsys, "--config-file", file, "algorithm.updates=2").code == 0
    (run,) = runs(tmp_path)
    before = (run / "config.yaml").read_text()
    done = command(capsys, "--resume", run, "algorithm.updates=1")
    assert done.code == 2
    assert "algorithm.updates must be at least 2, which are made, got 1" in done.err
    assert (run / "config.yaml").read_text() == before
    assert len(rows(run)) == 2


def test_a_run_that_does_not_fit_does_not_keep_others_from_their_turn(capsys, file, tmp_path):
    assert command(capsys, "--config-file", file, "algorithm.updates=1").code == 0
    (run,) = runs(tmp_path)
    (tmp_path / "none").mkdir()
    done = command(capsys, "--mode", "eval", "--run", tmp_path / "none", run)
    assert done.code == 2
    assert done.err.count("error:") == 1
    assert f"run_dir={run}" in done.out


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("broken", "x = 1\ny = 1 / 0\n", ["ZeroDivisionError", "broken.py:2"]),
        ("leaving", "raise SystemExit(3)\n", ["SystemExit", "leaving.py:1"]),
        ("fine.py", "", ["name the module, without its folder and .py"]),
        ("./fine.py", "", ["name the module, without its folder and .py"]),
        ("missing", None, ["importable from here"]),
    ],
)
def test_a_module_that_cannot_be_imported(
    capsys, file, tmp_path, monkeypatch, name, content, words
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    if content is not None:
        (tmp_path / os.path.basename(name)).with_suffix(".py").write_text(content)
    done = command(capsys, "--import", name, "--config-file", file)
    assert done.code == 2
    for word in words:
        assert word in done.err


def test_what_a_node_cannot_read_is_no_trouble_of_the_run(capsys, file, monkeypatch):
    def update(self):
        Path("/nonexistent/table.csv").read_text()

    monkeypatch.setattr("mbrl.algorithms.policy_gradient.PolicyGradient.update", update)
    done = command(capsys, "--config-file", file)
    assert done.code == 2
    assert "/nonexistent/table.csv" in done.err
    assert "cannot write the run" not in done.err


def test_a_task_has_no_render_mode():
    with pytest.raises(ArgumentError, match="--mode record"):
        mbrl.make_task("HalfCheetah-v5", render_mode="human")


def test_arguments_that_are_swapped_or_too_short_are_refused():
    task = mbrl.make_task("HalfCheetah-v5", threads=1)
    state = task.reset(2, torch.Generator().manual_seed(0))
    action = torch.ones(2, 6, dtype=torch.float64)
    with pytest.raises(
        ArgumentError, match=r"shapes \[B, 18\] and \[B, 6\], got \[2, 18\] and \[2, 5\]"
    ):
        task.reward(state, action[:, :5], state)
    with pytest.raises(
        ArgumentError, match=r"shapes \[B, 18\] and \[B, 6\], got \[2, 6\] and \[2, 18\]"
    ):
        task.reward(action, state, state)
    with pytest.raises(ArgumentError, match="state must have 18 columns"):
        task.observe(action)
