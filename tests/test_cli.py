"""The command line: modes, options, exit codes."""

import errno
import itertools
import math
import os
import signal
import sys
from pathlib import Path

import pytest
import torch
import yaml

import mbrl
from mbrl import cli
from mbrl.algorithms import PolicyGradient
from mbrl.errors import DivergenceError
from mbrl.registry import ALGORITHMS, TASKS
from mbrl.tasks import GymnasiumTask
from tests.tiny import (
    TINY,
    command,
    refused,
    rows,
    runs,
    same_runs,
    stored,
    summary,
    timeless,
    train,
    write_tiny,
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Spare the disk; tests/test_checkpoint.py looks after what is synchronised when."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def file(tmp_path):
    return write_tiny(tmp_path)


@pytest.fixture
def before_update(monkeypatch):
    """Return a dict {(seed, update): function}, called before that update."""
    hooks = {}

    class Hooked(PolicyGradient):
        def update(self):
            hooks.get((self._generator.initial_seed(), self._done + 1), lambda: None)()
            return super().update()

    monkeypatch.setitem(ALGORITHMS._entries, "policy_gradient", Hooked)
    return hooks


def raises(error):
    def function():
        raise error

    return function


# Training


def test_the_last_line_names_the_return_and_the_folder(capsys, file, tmp_path):
    done = command(capsys, "--config-file", file, "seed=3")
    assert done.code == 0
    (path,) = runs(tmp_path)
    assert done.out == f"eval_return_mean={summary(path)['eval_return_mean']} run_dir={path}\n"
    number = done.out.split()[0].removeprefix("eval_return_mean=")
    assert math.isfinite(float(number))
    assert summary(path)["seed"] == 3
    assert all(line.startswith("update ") for line in done.err.splitlines())


def test_running_the_recorded_configuration_repeats_the_run(capsys, file, tmp_path):
    """Even where file names and strings look like numbers or interpolations."""
    other = write_tiny(tmp_path, "1e3", seed=5, graph=...)
    first = train(capsys, other, "algorithm.optimizer.lr=1e-2", "checkpoint.every=3")
    second = train(capsys, first / "config.yaml")
    assert first.parent == second.parent == tmp_path / "outputs" / "1e3"
    assert first != second
    assert (first / "config.yaml").read_text() == (second / "config.yaml").read_text()
    assert same_runs(first, second)


def test_options_and_overrides_in_any_order(capsys, file):
    parts = (["--config-file", file], ["--mode", "train"], ["seed=3"], ["--cfg", "job"], ["name=x"])
    for order in itertools.islice(itertools.permutations(parts), 0, None, 17):
        done = command(capsys, *itertools.chain(*order))
        assert done.code == 0, done.err
        assert yaml.safe_load(done.out)["seed"] == 3


def test_cfg_prints_and_stops(capsys, file, tmp_path):
    done = command(capsys, "--config-file", file, "--cfg", "job", "algorithm.updates=7")
    content = yaml.safe_load(done.out)
    assert content == {
        **TINY,
        "algorithm": {**TINY["algorithm"], "updates": 7},
        "output_dir": str(tmp_path / "outputs"),
    }
    assert done.err == ""
    assert not (tmp_path / "outputs").exists()


def test_help_names_the_modes(capsys):
    with pytest.raises(SystemExit) as stop:
        command(capsys, "--help")
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for mode in cli._MODES:
        assert mode in out


# Sweeps


def test_sweeps(capsys, file, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    done = command(capsys, "-m", "--config-file", file, "seed=0,1", "algorithm.updates=2")
    assert done.code == 0
    paths = [Path(line.split("run_dir=")[1]) for line in done.out.splitlines()]
    assert sorted(paths) == runs(tmp_path)
    assert [summary(path)["seed"] for path in paths] == [0, 1]
    assert [len(rows(path)) for path in paths] == [2, 2]
    assert os.listdir() == []
    single = train(capsys, file, "seed=1", "algorithm.updates=2")
    assert same_runs(single, paths[1])


def test_a_sweep_goes_on_after_a_divergence(capsys, file, tmp_path, before_update):
    before_update[0, 2] = raises(DivergenceError("too wild"))
    done = command(capsys, "--config-file", file, "seed=0,1", "--multirun")
    assert done.code == 3
    assert done.err.count("error: too wild\n") == 1
    assert done.err.count("error") == 1
    assert [len(rows(path)) for path in runs(tmp_path)] == [1, 4]


def test_a_sweep_ends_with_a_mistake(capsys, file, tmp_path):
    done = command(capsys, "--config-file", file, "algorithm.updates=0,1", "-m")
    refused(done, "algorithm.updates must be at least 1, got 0")
    assert runs(tmp_path) == []


def test_a_signal_ends_a_sweep(capsys, file, tmp_path, before_update):
    before_update[0, 2] = lambda: os.kill(os.getpid(), signal.SIGINT)
    done = command(capsys, "--config-file", file, "seed=0,1", "-m")
    assert done.code == 130
    assert [len(rows(path)) for path in runs(tmp_path)] == [2]


# Stopping, resuming, diverging


@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals(capsys, file, tmp_path, before_update, signum, code):
    reference = train(capsys, file)
    before_update[0, 3] = lambda: os.kill(os.getpid(), signum)
    done = command(capsys, "--config-file", file)
    assert done.code == code
    assert done.out == ""
    path = runs(tmp_path)[-1]
    last = done.err.splitlines()[-1]
    assert last == f"stopped by {signal.Signals(signum).name}; resume with --resume {path}"
    assert stored(path)["update"] == 3
    assert command(capsys, "--resume", path).run_dir == path
    assert same_runs(path, reference)


def test_a_second_signal_keeps_the_exit_code(capsys, file, before_update):
    def twice():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)

    before_update[0, 3] = twice
    assert command(capsys, "--config-file", file).code == 143


def test_a_signal_outside_a_run(capsys, file, monkeypatch):
    """While a package is imported, a configuration composed, a picture drawn."""
    before = signal.getsignal(signal.SIGTERM)
    for signum, code in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        monkeypatch.setitem(cli._MODES, "graph", lambda _, s=signum: os.kill(os.getpid(), s))
        done = command(capsys, "--mode", "graph", "--config-file", file)
        assert (done.code, done.out, done.err) == (code, "", "")
    assert signal.getsignal(signal.SIGTERM) == before


def test_resuming_with_overrides(capsys, file):
    longer = train(capsys, file, "algorithm.updates=6")
    path = train(capsys, file)
    done = command(capsys, "--resume", path, "algorithm.updates=6", "++evaluation.episodes=1")
    assert done.run_dir == path
    assert timeless(path) == timeless(longer)
    assert summary(path)["eval_episodes"] == 1
    refused(command(capsys, "--resume", path, "algorithm.update=6"), "did you mean 'updates'?")
    refused(command(capsys, "--resume", path, "seed=x"), "seed must be an integer, got 'x'")
    refused(command(capsys, "--resume", path, "a=${b}"), "'b'")
    assert timeless(path) == timeless(longer)


def test_resuming_says_that_the_file_is_not_read(capsys, file, tmp_path):
    path = train(capsys, file)
    done = command(capsys, "--config-file", file, "--resume", path)
    assert done.code == 0
    note, last = done.out.splitlines()
    assert note == f"note: --resume continues with {path}/config.yaml; {file} is not read"
    assert done.run_dir == path
    assert last.startswith("eval_return_mean=")
    refused(command(capsys, "--config-file", file, "--resume", tmp_path), "no config.yaml")


def test_a_divergence_is_exit_code_3_and_keeps_what_there_was(capsys, file, before_update):
    reference = train(capsys, file)
    before_update[0, 3] = raises(DivergenceError("physics\nleft the finite world"))
    done = command(capsys, "--config-file", file)
    assert done.code == 3
    assert done.out == ""
    progress, _, error = done.err.partition("error: ")
    assert error == "physics left the finite world\n"
    assert all(line.startswith("update ") for line in progress.splitlines())
    path = max(reference.parent.iterdir(), key=lambda path: path.stat().st_mtime_ns)
    assert timeless(path) == timeless(reference)[:2]
    assert stored(path)["update"] == 2
    before_update.clear()
    assert command(capsys, "--resume", path).code == 0
    assert same_runs(path, reference)


# Graphs


def test_mode_graph_draws(capsys, file, tmp_path):
    done = command(capsys, "--mode", "graph", "--config-file", file)
    assert done.code == 0
    (path,) = runs(tmp_path)
    text = (path / "plots" / "graph.mmd").read_text()
    assert text.startswith("flowchart LR\n")
    assert "policy" in text
    assert done.out == f"{text}graph={path / 'plots' / 'graph.png'} run_dir={path}\n"
    assert (path / "plots" / "graph.png").read_bytes().startswith(b"\x89PNG\r\n")
    assert mbrl.load_config(path / "config.yaml") == mbrl.load_config(file)
    refused(command(capsys, "--resume", path), "no usable checkpoint", str(path))


# Checking


def test_mode_check_reports_and_leaves_nothing_behind(capsys, file, tmp_path):
    done = command(capsys, "--mode", "check", "--config-file", file)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("mbrl/SmoothInvertedPendulum-v0\n")
    for part in ("'step'", "us/state", "States with", "Notes", "method 'transition' cannot"):
        assert part in done.out
    assert runs(tmp_path) == []


def test_mode_check_follows_the_seed(capsys, file):
    def states(*overrides):
        out = command(capsys, "--mode", "check", "--config-file", file, *overrides).out
        lines = out.splitlines()
        start = lines.index("Size of differences: median error of method 'step'")
        return lines[start : start + 5]

    assert states("seed=1") == states("seed=1") != states("seed=2")


def test_mode_check_wants_a_simulator(capsys, file, monkeypatch):
    monkeypatch.setattr(TASKS, "_entries", dict(TASKS._entries))

    class Bare(GymnasiumTask):
        def __init__(self, **kwargs):
            super().__init__("InvertedPendulum-v5", **kwargs)
            self.simulator = None

        def dynamics(self, **options):
            return torch.nn.Identity()

    mbrl.register_task("Bare-v0")(Bare)
    done = command(capsys, "--mode", "check", "--config-file", file, "task=Bare-v0")
    refused(done, "InvertedPendulum-v5 has no MuJoCo simulator")


# Packages


def test_packages_beside_the_caller_are_found(capsys, tmp_path, monkeypatch):
    (tmp_path / "toy_beside.py").write_text("")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.chdir(tmp_path)
    done = command(capsys, "--import", "toy_beside")
    refused(done, "--config-file is missing")
    del sys.modules["toy_beside"]


def test_packages_are_recorded_and_asked_for_by_name(capsys, file, tmp_path, monkeypatch):
    monkeypatch.setattr(ALGORITHMS, "_entries", dict(ALGORITHMS._entries))
    (tmp_path / "toy_cli.py").write_text(
        "import mbrl\nfrom mbrl.algorithms import PolicyGradient\n"
        "class Toy(PolicyGradient): pass\n"
        "mbrl.register_algorithm('toy_cli')(Toy)\n"
    )
    options = ("--import", "toy_cli", "algorithm.kind=toy_cli")
    refused(command(capsys, "--config-file", file, *options), "cannot import 'toy_cli'")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        path = train(capsys, file, *options)
        assert summary(path)["algorithm"] == "toy_cli"
        assert mbrl.load_config(path / "config.yaml").imports == ("toy_cli",)
        again = train(capsys, path / "config.yaml")
        assert same_runs(path, again)
    del sys.modules["toy_cli"], ALGORITHMS._entries["toy_cli"]
    refused(command(capsys, "--config-file", path / "config.yaml"), "cannot import 'toy_cli'")
    refused(command(capsys, "--resume", path), "cannot import 'toy_cli'")
    refused(command(capsys, "--mode", "eval", "--run", path), "cannot import 'toy_cli'")


# Mistakes: exit code 2 and one line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["--config-file is missing"]),
        (["--config-file", "nothing.yaml"], ["no such file", "nothing.yaml"]),
        (["--config-file"], ["--config-file", "expected one argument"]),
        (["--confg-file", "x"], ["--confg-file"]),
        (
            ["--mode", "trian"],
            [
                "--mode",
                "'trian'",
                "check, eval, graph, landscape, record, report, train",
                "did you mean 'train'?",
            ],
        ),
        (["seed"], ["'seed' is not of the form key=value"]),
        (["--cfg", "all"], ["--cfg", "'all'", "job"]),
        (["--resume", "nowhere"], ["nowhere is not the folder of a run"]),
        (["--import", "no_such_package"], ["cannot import 'no_such_package'"]),
        (["--resume", "x", "-m"], ["-m has no effect"]),
        (["--resume", "x", "--mode", "graph"], ["--resume has no effect"]),
        (["--run", "x"], ["--run has no effect"]),
        (["--mode", "eval", "--run", "x", "-m"], ["-m has no effect"]),
        (["--mode", "eval", "--run", "x", "--cfg", "job"], ["--cfg has no effect"]),
    ],
)
def test_mistakes_on_the_command_line(capsys, arguments, words):
    refused(command(capsys, *arguments), *words)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("sede=1", ["unknown key 'sede'", "did you mean 'seed'?"]),
        ("algorithm.kind=policy_gradint", ["algorithm.kind", "did you mean 'policy_gradient'?"]),
        ("algorithm.horizon=0", ["algorithm.horizon must be at least 1, got 0"]),
        ("algorithm.horizon=five", ["algorithm.horizon must be an integer, got 'five'"]),
        ("graph.nodes.policy.kind=mlp", ["graph.nodes.policy.kind", "'mlp'", "gaussian_mlp"]),
        ("graph.nodes.policy.hidden=[8,x]", ["graph.nodes.policy.hidden", "[8, 'x']"]),
        ("task=HalfCheeta-v5", ["task", "'HalfCheeta-v5'", "did you mean 'HalfCheetah-v5'?"]),
        ("eval_task=InvertedDoublePendulum-v5", ["eval_task", "width 9", "on 4"]),
        ("task=InvertedPendulum-v5", ["task: the reward of InvertedPendulum-v5", "pathwise"]),
        ("task_args._target_=os.mkdir", ["task_args._target_", "does not name code"]),
        ("task_args.threads=2", ["task_args.threads"]),
        ("seed=[", ["tiny.yaml"]),
        ("seed=0,1", ["seed=0,1"]),
        ("~nothing", ["'nothing'"]),
        ("hydra.nothing=1", ["hydra.nothing"]),
        ("name=../x", ["name", "'../x'"]),
        ("output_dir=/dev/null", ["output_dir", "/dev/null"]),
    ],
)
def test_mistakes_in_a_configuration(capsys, file, override, words):
    refused(command(capsys, "--config-file", file, override), *words)


@pytest.mark.parametrize("text", ["a: [\n", "- a\n", "hydra: {run: {dir: x}}\n", "task: 1\n"])
def test_files_that_are_no_configuration(capsys, tmp_path, text):
    (tmp_path / "bad.yaml").write_text(text)
    refused(command(capsys, "--config-file", tmp_path / "bad.yaml"))


def test_damaged_checkpoints(capsys, file):
    path = train(capsys, file)
    for name in ("latest", "latest.previous"):
        (path / "checkpoints" / f"{name}.pt").write_bytes(b"damage")
    refused(command(capsys, "--resume", path), "no usable checkpoint", "latest.pt is damaged")


def test_a_full_disk_is_one_line(capsys, file, monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr("mbrl.monitoring.CsvFile.write", lambda *_: raises(full)())
    refused(command(capsys, "--config-file", file), "No space left on device")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("x: can't allocate memory: y")])
def test_too_little_memory_is_one_line(capsys, file, before_update, error):
    before_update[0, 1] = raises(error)
    refused(command(capsys, "--config-file", file), "out of memory", "batch, horizon or widths")


def test_bugs_are_not_dressed_up(capsys, file, before_update):
    before_update[0, 2] = raises(ZeroDivisionError("a bug"))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        command(capsys, "--config-file", file)
