"""The graphs in configs/graphs: each trains, and draws."""

import csv
import json
from pathlib import Path

import matplotlib.image
import pytest

import mbrl
from mbrl import cli
from mbrl.graph import GraphPolicy
from tests.learned_runs import needed

FOLDER = Path(__file__).parents[2] / "configs" / "graphs"
FILES = sorted(FOLDER.glob("*.yaml"))
SHORT = ("algorithm.updates=2", "algorithm.horizon=4", "algorithm.batch=2", "threads=1",
         "evaluation.episodes=1")  # fmt: skip


def test_there_are_some():
    assert len(FILES) >= 6


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_trains_and_the_policy_it_leaves_acts(file, tmp_path):
    config = mbrl.load_config(file, [*SHORT, f"output_dir={tmp_path}", *needed(file, tmp_path)])
    result = mbrl.run(config)
    with (result.run_dir / "metrics.csv").open(newline="") as text:
        rows = list(csv.DictReader(text))
    assert [float(row["gradient_norm"]) > 0 for row in rows] == [True, True]
    assert json.loads((result.run_dir / "summary.json").read_text())["updates"] == 2
    graph = mbrl.build_graph(config.graph, mbrl.make_task(config.task, threads=1))
    policy = mbrl.load_policy(result.run_dir)
    assert policy.state_dict().keys() == GraphPolicy.of(graph).state_dict().keys()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_it_is_drawn(file, tmp_path, capsys):
    arguments = ["--config-file", str(file), "--mode", "graph", "threads=1"]
    overrides = needed(file, tmp_path)
    assert cli.main([*arguments, f"output_dir={tmp_path / 'outputs'}", *overrides]) == 0
    printed = capsys.readouterr().out
    for name in mbrl.load_config(file, overrides).graph["nodes"]:
        assert f" {name}[" in printed
    (picture,) = tmp_path.rglob("graph.png")
    assert matplotlib.image.imread(picture).shape[1] > 800
