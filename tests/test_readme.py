"""Every snippet of the README runs, and prints what the README says it prints."""

import re

import numpy as np
import pytest
import torch
import yaml

import mbrl
from mbrl.cli import main
from mbrl.registry import NODES, PLANNERS, POLICIES
from tests.markdown import ROOT, Page, commands, printed_by, registrations_undone

README = Page(ROOT / "README.md")
TOPICS = [Page(ROOT / "docs" / f"{name}.md") for name in ("gradients", "omd", "runs")]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    with registrations_undone(tmp_path):
        yield


def run(snippet):
    """Run Python; return what it prints and its names."""
    names = {"__name__": "readme"}
    return printed_by(lambda: exec(compile(snippet, "README.md", "exec"), names)), names


@pytest.mark.parametrize("snippet", [t for t in README.of("python") if "print(" in t])
def test_examples_print_what_the_readme_says(snippet):
    assert run(snippet)[0] == README.shown(snippet)


def test_the_environment_and_its_configuration_train(tmp_path, monkeypatch):
    (snippet,) = [t for t in README.of("python") if "mbrl.run" in t]
    monkeypatch.chdir(tmp_path)
    _, names = run(snippet)
    config, trained = names["config"], names["result"].summary["eval_return_mean"]
    still = {"updates": 1, "optimizer": {"lr": 1e-12}}
    untrained = mbrl.run(config | {"algorithm": config["algorithm"] | still})
    assert trained > untrained.summary["eval_return_mean"] + 1.0
    assert names["policy"].act(np.zeros(8)).shape == (2,)


def test_the_graphs_build_and_unroll():
    task = mbrl.make_task("mbrl/SmoothInvertedPendulum-v0", threads=1)
    sections = [yaml.safe_load(text) for page in (README, *TOPICS) for text in page.of("yaml")]
    assert len(sections) == 2
    for section in sections:
        graph = mbrl.build_graph(section, task)
        trajectory = graph.unroll(task.reset(2, seeded()), 3, generator=seeded())
        assert trajectory.rewards.requires_grad


def test_the_mistake_is_answered_as_it_is_shown():
    shown = re.search(r"`error: ([^`]*)`", README.text)[1].replace("\n", " ").split("...")
    task = mbrl.make_task("mbrl/SmoothInvertedPendulum-v0", threads=1)
    nodes = {"policy": {"kind": "gaussian_mlp", "inputs": ["observatoin"]}}
    with pytest.raises(mbrl.MbrlError) as error:
        mbrl.build_graph({"nodes": nodes}, task)
    assert str(error.value).startswith(shown[0])
    assert str(error.value).endswith(shown[1])


def seeded():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("page", [README, *TOPICS], ids=lambda page: page.path.stem)
def test_the_commands_are_those_that_exist(page, tmp_path, capsys):
    for words in (words for text in page.of("bash") for words in commands(text)):
        assert words[0] in ("./run.sh", "./test.sh", "python", "torchrun")
        # Of torchrun as of one of its processes; tests/test_ranks.py starts several.
        program = "./run.sh" if words[0] == "./run.sh" else "main.py"
        if words[0] == "./test.sh" or "--import" in words:
            continue
        arguments = words[words.index(program) + 1 :]
        quick = ["algorithm.updates=1", "evaluation.episodes=1", f"output_dir={tmp_path}"]
        assert main([*arguments, *quick]) == 0
        assert capsys.readouterr().out.splitlines()[-1].startswith("eval_return_mean=")


def test_every_mode_is_in_the_table(capsys):
    assert main(["--mode", "x"]) == 2
    modes = re.search(r"legal: ([\w, ]*)", capsys.readouterr().err)[1].split(", ")
    table = README.text.split("--mode ...` | what it does |")[1].split("\n\n")[0]
    assert sorted(re.findall(r"^\| `(\w+)", table, flags=re.MULTILINE)) == sorted(modes)


def test_every_planner_is_in_the_table():
    page = (ROOT / "docs" / "planning.md").read_text()
    table = page.split("| planner (`planner: {kind: ...}`) | method |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", table)) == set(PLANNERS)


def test_every_node_is_in_the_table():
    page = (ROOT / "docs" / "graphs.md").read_text()
    table = page.split("| kind | takes | makes | options |")[1].split("\n\n")[0]
    documented = set(re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE))
    assert documented == set(NODES) | set(POLICIES)


def test_the_tree_matches_the_code():
    for room in re.findall(r"^((?:mbrl|docs)/[\w.]*) ", README.text, flags=re.MULTILINE):
        assert (ROOT / room).exists()
