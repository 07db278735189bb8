"""What a run has left behind so far, finished or not."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mbrl.monitoring import read_metrics
from mbrl.run_folder import RunFolder
from mbrl.types import Array

_STILLS = (".png", ".jpg", ".svg")


@dataclass(frozen=True)
class RunRecord:
    """A run, as its folder tells.

    Attributes:
        path: the folder.
        config: the complete configuration, as plain data; it may name what is not installed here.
        config_text: the same, as it is written.
        metrics: columns of metrics.csv; empty before the first update.
        summary: summary.json; None if the run has not come to its end.
    """

    path: Path
    config: Mapping[str, Any]
    config_text: str
    metrics: Mapping[str, Array]
    summary: Mapping[str, Any] | None

    @classmethod
    def read(cls, run_dir: str | Path) -> RunRecord:
        """Read a folder.

        Raises:
            ConfigError: if it is none of a run.
            StorageError: if it cannot be read.
        """
        folder = RunFolder.open(run_dir)
        return cls(
            folder.path,
            folder.read_config(),
            folder.config_text(),
            read_metrics(folder.metrics),
            _summary(folder.path / "summary.json"),
        )

    @property
    def name(self) -> str:
        """Name of the configuration."""
        return str(self.config.get("name") or self.path.resolve().parent.name)

    @property
    def algorithm(self) -> Mapping[str, Any]:
        """The section of the algorithm."""
        found = self.config.get("algorithm")
        return found if isinstance(found, Mapping) else {}

    @property
    def updates(self) -> int:
        """How many have been made."""
        made = self.metrics.get("update")
        return 0 if made is None else int(made[-1])

    @property
    def state(self) -> str:
        """How far it is, in words."""
        if self.summary is not None:
            return "finished"
        wanted = self.algorithm.get("updates")
        return f"update {self.updates}" + (f" of {wanted}" if wanted else "") + ", not finished"

    def last(self, column: str) -> float | None:
        """Return the last value of a column of metrics.csv; None if there is none."""
        values = self.metrics.get(column)
        return None if values is None else float(values[-1])

    def result(self, key: str) -> Any:
        """Return an entry of the summary; None if there is none."""
        return None if self.summary is None else self.summary.get(key)

    def plots(self) -> list[Path]:
        """Return the pictures in plots/, of those that differ in a number the last one."""
        newest: dict[str, Path] = {}
        for path in sorted((self.path / "plots").glob("*")):
            if path.suffix in _STILLS and ".tmp" not in path.suffixes:
                newest[re.sub(r"_?\d+$", "", path.stem)] = path
        return list(newest.values())

    def video(self) -> Path | None:
        """Return the newest video; None if there is none."""
        found = [p for p in (self.path / "videos").glob("*.mp4") if ".tmp" not in p.suffixes]
        return max(found, key=lambda path: (path.stat().st_mtime_ns, path.name), default=None)


def _summary(path: Path) -> Mapping[str, Any] | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None
