"""Every snippet of the README runs, and prints what the README says it prints."""

import contextlib
import io
import re
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
import yaml

import mbrl
from mbrl.cli import main
from mbrl.registry import NODES, PLANNERS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
# (language, text) of every fenced block, in order.
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def blocks(language):
    return [text for kind, text in BLOCKS if kind == language]


def following(text):
    """The block after ``text``: what it is said to print."""
    texts = [block for _, block in BLOCKS]
    return texts[texts.index(text) + 1]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)
    registered, nodes = set(gymnasium.registry), dict(NODES._entries)
    yield
    for name in set(gymnasium.registry) - registered:
        del gymnasium.registry[name]
    NODES._entries.clear()
    NODES._entries.update(nodes)


@pytest.mark.parametrize("snippet", [t for t in blocks("python") if "print(" in t])
def test_examples_print_what_the_readme_says(snippet):
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(snippet, "README.md", "exec"), {})
    assert printed.getvalue() == following(snippet)


def test_the_environment_and_its_configuration_train(tmp_path, monkeypatch):
    (snippet,) = [t for t in blocks("python") if "mbrl.run" in t]
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "readme"}
    exec(compile(snippet, "README.md", "exec"), names)
    config, trained = names["config"], names["result"].summary["eval_return_mean"]
    short = config | {"algorithm": config["algorithm"] | {"updates": 1}}
    assert trained > mbrl.run(short).summary["eval_return_mean"] + 1.0
    assert names["policy"].act(np.zeros(6)).shape == (2,)


def test_the_graphs_build_and_unroll():
    (snippet,) = [t for t in blocks("python") if "register_node" in t]
    exec(compile(snippet, "README.md", "exec"), {"__name__": "readme"})
    task = mbrl.make_task("mbrl/SmoothInvertedPendulum-v0", threads=1)
    sections = [section for section in map(yaml.safe_load, blocks("yaml")) if "task" not in section]
    assert len(sections) == 3
    for section in sections:
        graph = mbrl.build_graph(section, task)
        trajectory = graph.unroll(task.reset(2, seeded()), 3, generator=seeded())
        assert trajectory.rewards.requires_grad
    wanted = graph.unroll(task.reset(2, seeded()), 2, record=["wanted"]).values["wanted"]
    actions = graph.unroll(task.reset(2, seeded()), 2).actions
    assert actions[0].equal(0.3 * wanted[0])


def test_the_task_in_yaml_is_planned(tmp_path):
    config, _ = complete()
    short = {"updates": 1, "horizon": 5}
    config["algorithm"] |= short
    config["task_args"]["max_episode_steps"] = 4
    result = mbrl.run(config | {"output_dir": str(tmp_path), "evaluation": {"episodes": 1}})
    assert result.summary["eval_success_rate"] == 0.0  # in four steps nothing stands


def test_dynamics_are_learned(tmp_path):
    _, config = complete()
    config["algorithm"] |= {"updates": 1, "steps": 5, "fit": {"epochs": 2}}
    config |= {"output_dir": str(tmp_path), "evaluation": {"episodes": 1}}
    config |= {"eval_task_args": {"max_episode_steps": 3}}
    run = mbrl.run(config).run_dir
    assert mbrl.load_dynamics(run).members == 5


def complete():
    """The configurations that are shown as a whole."""
    return [c for c in map(yaml.safe_load, blocks("yaml")) if "task" in c]


def test_every_planner_is_in_the_table():
    table = README.split("| planner (`planner: {kind: ...}`) | method |")[1].split("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", table)) == set(PLANNERS)


def seeded():
    return torch.Generator().manual_seed(0)


def test_the_commands_are_those_that_exist(tmp_path, capsys):
    lines = [line.split("#")[0].split() for text in blocks("bash") for line in text.splitlines()]
    runs = [line for line in lines if line and line[0] in ("./run.sh", "python", "torchrun")]
    assert runs
    for words in runs:
        # Of torchrun as of one of its processes; tests/test_ranks.py starts several.
        program = "./run.sh" if words[0] == "./run.sh" else "main.py"
        arguments = words[words.index(program) + 1 :] if program in words else words
        if "--import" in arguments or words[1].startswith("benchmarks"):
            continue
        quick = ["algorithm.updates=1", "evaluation.episodes=1", f"output_dir={tmp_path}"]
        assert main([*arguments, *quick]) == 0
        assert capsys.readouterr().out.splitlines()[-1].startswith("eval_return_mean=")
    for script in re.findall(r"python (benchmarks/\w+\.py)", README):
        assert (ROOT / script).is_file()


def test_node_table_and_tree_match_the_code():
    table = README.split("| kind | takes | makes | options |")[1].split("\n\n")[0]
    documented = set(re.findall(r"^\| `(\w+)` \|", table, flags=re.MULTILINE))
    assert documented == set(NODES) | set(mbrl.registry.POLICIES)
    for room in re.findall(r"^(mbrl/[\w.]+) ", README, flags=re.MULTILINE):
        assert (ROOT / room).exists()
