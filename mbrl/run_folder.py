"""The folder that a run leaves behind."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import yaml

from mbrl.errors import ConfigError


class RunFolder:
    """``outputs/<config name>/<date-time>-seed<seed>[-n]``: configuration, metrics, checkpoints.

    Args:
        path: the folder.

    Attributes:
        path: the folder.
        metrics: metrics.csv.
        latest: checkpoints/latest.pt.
        best: checkpoints/best.pt.
    """

    def __init__(self, path: Path):
        self.path = path
        self.metrics = path / "metrics.csv"
        self.latest = path / "checkpoints" / "latest.pt"
        self.best = path / "checkpoints" / "best.pt"

    @classmethod
    def create(cls, root: Path, name: str, seed: int) -> RunFolder:
        """Make a folder that did not exist before.

        Raises:
            ConfigError: if it cannot be made.
        """
        stem = f"{time.strftime('%Y-%m-%d_%H-%M-%S')}-seed{seed}"
        for attempt in range(1, 1000):
            path = root / name / (stem if attempt == 1 else f"{stem}-{attempt}")
            try:
                path.mkdir(parents=True)
            except FileExistsError:
                continue
            except OSError as error:
                raise ConfigError(f"output_dir: cannot create {path}: {error.strerror}") from error
            return cls(path)
        raise ConfigError(f"output_dir: {root / name} is full of runs of this second")

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """Open a run that exists.

        Raises:
            ConfigError: if it is no run folder.
        """
        folder = cls(Path(path))
        if not (folder.path / "config.yaml").is_file():
            raise ConfigError(f"{path} is not the folder of a run: it has no config.yaml")
        return folder

    def write_config(self, config: dict[str, Any]) -> None:
        """Write config.yaml, the complete resolved configuration."""
        text = yaml.safe_dump(config, sort_keys=False, default_flow_style=None, width=100)
        (self.path / "config.yaml").write_text(text)

    def read_config(self) -> dict[str, Any]:
        """Return what :meth:`write_config` wrote."""
        content: dict[str, Any] = yaml.safe_load((self.path / "config.yaml").read_text())
        return content

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json."""
        (self.path / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")

    def log(self, line: str) -> None:
        """Append a line to log.txt."""
        with (self.path / "log.txt").open("a") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def plot(self, name: str) -> Path:
        """Return the path of a picture in plots/, whose folder exists then."""
        (self.path / "plots").mkdir(exist_ok=True)
        return self.path / "plots" / name
