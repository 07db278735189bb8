"""What docs/monitoring.md says can be done is done."""

import importlib.metadata
import os
import re
import shlex
from pathlib import Path

import pytest

from mbrl.cli import main
from mbrl.monitoring import MonitorOptions
from mbrl.options import schema
from tests.exhibited import PAINTED, register_painted
from tests.served import answers, free_port, server
from tests.tiny import train, write_tiny

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "monitoring.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"^```bash\n(.*?)^```$", PAGE, flags=re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def ours(mode):
    """Return the commands of a mode, split."""
    found = [shlex.split(line)[2:] for line in COMMANDS if line.startswith("python main.py ")]
    return [words for words in found if (f"--mode {mode}" in " ".join(words)) == (mode != "train")]


TRAINING = [w for w in ours("train") if not {"record", "report"} & set(w)]


def test_every_command_is_tested_here():
    foreign = [line for line in COMMANDS if not line.startswith("python main.py ")]
    assert [line.split()[0] for line in foreign] == ["tensorboard", "visdom"]
    assert len(TRAINING) + len(ours("record")) + len(ours("report")) + 2 == len(COMMANDS)


@pytest.mark.parametrize("words", TRAINING, ids=lambda words: " ".join(words[2:]))
def test_training(words, tmp_path, capsys):
    quick = ["algorithm.updates=1", "evaluation.episodes=1", f"output_dir={tmp_path}"]
    quick += ["monitor.visdom.download=false"]
    # Painted pictures: what MuJoCo draws is for tests of its own.
    register_painted()
    quick += [f"task={PAINTED}", "eval_task=null", "task_args={max_episode_steps: 20}"]
    with server(tmp_path / "store") as (options, _):
        started = "monitor.visdom.start=true" in words
        port = free_port() if started else options.port
        assert main([*words, *quick, f"monitor.visdom.port={port}"]) == 0
        done = capsys.readouterr()
        if started:
            assert not answers(port)
    runs = [line.split("run_dir=")[1] for line in done.out.splitlines()]
    assert len(runs) == (2 if "-m" in words else 1)
    assert "warning" not in done.err
    shown = [line for line in done.err.splitlines() if line.startswith("visdom: ")]
    visdom = any(word.startswith("monitor.visdom") for word in words)
    assert len(shown) == (len(runs) if visdom else 0)
    for line, run in zip(shown, runs, strict=False):
        assert line.endswith(f"/env/{Path(run).parent.name}_{Path(run).name}")
    for run in map(Path, runs):
        assert (run / "tensorboard").is_dir() == ("monitor.tensorboard=true" in words)
        assert (run / "videos" / "episode.mp4").is_file() == ("monitor.video.final=true" in words)


def test_runs_are_recorded_and_reported(tmp_path, capsys, monkeypatch):
    register_painted()
    changes = {"task": PAINTED, "eval_task": None, "task_args": {"max_episode_steps": 20}}
    file = write_tiny(tmp_path, **changes)
    run, other = (train(capsys, file, f"seed={seed}") for seed in (0, 1))
    monkeypatch.chdir(tmp_path)
    places = {"RUN": str(run), "OTHER": str(other)}
    for words in [*ours("record"), *ours("report")]:
        assert main([places.get(word, word) for word in words]) == 0
    for path in (
        run / "videos" / "episode.mp4",
        run / "videos" / "episode.png",
        run / "plots" / "trajectory.png",
        run / "plots" / "trajectory.csv",
        run / "report.html",
        tmp_path / "comparison.html",
    ):
        assert path.is_file()


def test_the_commands_of_others_exist():
    installed = {point.name for point in importlib.metadata.entry_points(group="console_scripts")}
    assert {"tensorboard", "visdom"} <= installed
    from visdom.server import run_server

    understood = Path(run_server.__file__).read_text()
    (words,) = [line.split() for line in COMMANDS if line.startswith("visdom ")]
    for word in words[1:]:
        if word.startswith("-"):
            assert f'"{word}"' in understood


def test_every_key_of_the_section_is_documented():
    keys = set()
    for name, (_, default) in schema(MonitorOptions).items():
        inner = schema(type(default)) if hasattr(default, "__dataclass_fields__") else None
        keys |= {f"monitor.{name}.{key}" for key in inner} if inner else {f"monitor.{name}"}
    documented = set(re.findall(r"^\| `(monitor[\w.]+)` \|", PAGE, flags=re.MULTILINE))
    assert documented == keys - {"monitor.visdom.host", "monitor.visdom.port"}
    assert "`host`:`port`" in PAGE
