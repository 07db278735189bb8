"""Runs that take a fraction of a second, and what to compare of them."""

import csv
import json
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml

from mbrl import cli
from mbrl.algorithms import PolicyGradient
from mbrl.config import Config, from_mapping
from mbrl.registry import ALGORITHMS
from mbrl.runner import Result, resumed_config, run

TINY: dict[str, Any] = {
    "task": "mbrl/SmoothInvertedPendulum-v0",
    "eval_task": "InvertedPendulum-v5",  # ends after some thirty steps
    "algorithm": {"kind": "policy_gradient", "updates": 4, "horizon": 5, "batch": 2},
    "graph": {"nodes": {"policy": {"kind": "gaussian_mlp", "hidden": [8], "normalize": True}}},
    "threads": 1,
    "evaluation": {"episodes": 2},
    "checkpoint": {"every": 2},
}


def write_tiny(folder: Path, name: str = "tiny", **changes: Any) -> Path:
    """Write a configuration whose runs go to folder/outputs."""
    file = folder / f"{name}.yaml"
    content = {**TINY, "output_dir": str(folder / "outputs"), **changes}
    file.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not ...}))
    return file


def tiny_config(folder: Path, **changes: Any) -> Config:
    """Return a configuration whose runs go to folder/outputs."""
    return from_mapping({**TINY, "output_dir": str(folder / "outputs"), **changes}, "tiny")


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def run_dir(self) -> Path:
        """The folder that the last line names."""
        return Path(self.out.splitlines()[-1].split("run_dir=")[1])


def command(capsys: Any, *arguments: object) -> Done:
    """Run the command line in this process."""
    capsys.readouterr()
    code = cli.main([str(argument) for argument in arguments])
    return Done(code, *capsys.readouterr())


def child(arguments: list[str], errors: str, largest_file: int | None = None) -> None:
    """Run the command line as the process that this is, which then ends with its exit code.

    Args:
        arguments: of the command.
        errors: path of a file for what goes to standard error.
        largest_file: bytes that a file may have, as if the disk were full then.
    """
    output = os.open(errors, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    torch.set_num_threads(1)
    if largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))
    os._exit(cli.main(arguments))


def train(capsys: Any, file: Path, *arguments: object) -> Path:
    """Run a configuration that must succeed; return its folder."""
    done = command(capsys, "--config-file", file, *arguments)
    assert done.code == 0, done.err
    return done.run_dir


def refused(done: Done, *words: str) -> None:
    """Check that a command ended as users' mistakes do: one line that says it all."""
    assert done.code == 2, done
    assert one_error_line(done.err)
    for word in words:
        assert word in done.err


def one_error_line(text: str) -> bool:
    return text.startswith("error: ") and text.endswith("\n") and text.count("\n") == 1


def runs(folder: Path, name: str = "tiny") -> list[Path]:
    """Return the folders of the runs of a configuration."""
    return sorted((folder / "outputs" / name).glob("*"))


def newest(folder: Path) -> Path:
    """Return the run in a folder that was started last."""
    return max(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)


def resume(path: Path) -> Result:
    """Continue a run as it was configured."""
    return run(resumed_config(path), resume=path)


def hooked_updates(monkeypatch: Any) -> dict[int, Callable[[Any], object]]:
    """Return a dict {update: function of the algorithm}, called once before that update."""
    hooks: dict[int, Callable[[Any], object]] = {}

    class Hooked(PolicyGradient):
        def update(self) -> dict[str, float]:
            hooks.pop(self._done + 1, lambda algorithm: None)(self)
            return super().update()

    monkeypatch.setitem(ALGORITHMS._entries, "policy_gradient", Hooked)
    return hooks


def rows(run_dir: Path) -> list[dict[str, str]]:
    """Return metrics.csv, as written."""
    with (run_dir / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def timeless(run_dir: Path) -> list[dict[str, str]]:
    """Return metrics.csv without what a clock has measured, which differs from run to run."""
    clocked = ("wall_s", "planning_hz", "deadline_misses")
    return [{k: v for k, v in row.items() if k not in clocked} for row in rows(run_dir)]


def summary(run_dir: Path) -> dict[str, Any]:
    return json.loads((run_dir / "summary.json").read_text())


def stored(run_dir: Path, name: str = "latest") -> dict[str, Any]:
    """Return a checkpoint without its one entry that differs from run to run."""
    content = torch.load(run_dir / "checkpoints" / f"{name}.pt", weights_only=True)
    return {key: value for key, value in content.items() if key != "wall_s"}


def same(a: Any, b: Any) -> bool:
    """Whether two nests of plain data and tensors are equal, bit for bit."""
    if isinstance(a, torch.Tensor):
        return isinstance(b, torch.Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def same_runs(a: Path, b: Path) -> bool:
    """Whether two runs measured the same, and ended with the same weights and returns."""
    return (
        timeless(a) == timeless(b)
        and all(same(stored(a, name), stored(b, name)) for name in ("latest", "best"))
        and all(
            summary(a)[key] == summary(b)[key]
            for key in ("env_steps", "eval_return_mean", "eval_return_std", "updates")
        )
    )
