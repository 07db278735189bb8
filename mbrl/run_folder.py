"""The folder that a run leaves behind."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from mbrl.errors import ConfigError, one_line


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give the path of a file to write, which becomes ``path`` only if nothing is raised."""
    temporary = path.with_name(f"{path.stem}.tmp{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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
        self._claim: int | None = None
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
        if not isinstance(path, str | os.PathLike):
            raise ConfigError(f"the folder of a run must be a path, got {path!r}")
        folder = cls(Path(path))
        if not (folder.path / "config.yaml").is_file():
            raise ConfigError(f"{path} is not the folder of a run: it has no config.yaml")
        return folder

    def claim(self) -> None:
        """Keep other processes from training this run until :meth:`release`, or this one's end.

        Where there are no such locks, as on some networks' file systems, nothing is kept.

        Raises:
            ConfigError: if another one is at it.
        """
        with contextlib.suppress(ImportError, OSError):
            locks: Any = importlib.import_module("fcntl")  # which Windows has not
            claim = os.open(self.path, os.O_RDONLY)
            try:
                locks.flock(claim, locks.LOCK_EX | locks.LOCK_NB)
            except BlockingIOError as error:
                os.close(claim)
                raise ConfigError(
                    f"{self.path} is being trained by another process: stop it first, or wait "
                    "for its end"
                ) from error
            except OSError:
                os.close(claim)
                raise
            self._claim = claim

    def release(self) -> None:
        """End what :meth:`claim` began."""
        if self._claim is not None:
            with contextlib.suppress(OSError):  # a child that was forked may have it, too
                locks: Any = importlib.import_module("fcntl")
                locks.flock(self._claim, locks.LOCK_UN)
            os.close(self._claim)
            self._claim = None

    def write_config(self, config: dict[str, Any]) -> None:
        """Write config.yaml, the complete resolved configuration."""
        text = yaml.dump(
            config, Dumper=_Dumper, sort_keys=False, default_flow_style=None, width=100
        )
        self._replace("config.yaml", text)

    def read_config(self) -> dict[str, Any]:
        """Return what :meth:`write_config` wrote.

        Raises:
            ConfigError: if it is no longer that.
        """
        file = self.path / "config.yaml"
        try:
            content = OmegaConf.to_container(OmegaConf.load(file), resolve=True)
        except Exception as error:
            raise ConfigError(
                f"{file} is not the configuration of a run: {one_line(error)}"
            ) from error
        if not isinstance(content, dict):
            raise ConfigError(f"{file} must hold a mapping, got {type(content).__name__}")
        return {str(key): value for key, value in content.items()}

    def config_text(self) -> str:
        """Return config.yaml as it is written.

        Raises:
            ConfigError: if it cannot be read.
        """
        file = self.path / "config.yaml"
        try:
            return file.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise ConfigError(f"{file} cannot be read: {error.strerror}") from error

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write summary.json."""
        self._replace("summary.json", json.dumps(summary, indent=2) + "\n")

    def log(self, line: str) -> None:
        """Append a line to log.txt."""
        with (self.path / "log.txt").open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")

    def plot(self, name: str) -> Path:
        """Return the path of a picture in plots/, whose folder exists then."""
        return self._in("plots", name)

    def video(self, name: str) -> Path:
        """Return the path of a file in videos/, whose folder exists then."""
        return self._in("videos", name)

    def _in(self, folder: str, name: str) -> Path:
        (self.path / folder).mkdir(exist_ok=True)
        return self.path / folder / name

    def _replace(self, name: str, text: str) -> None:
        """Write a file whole or not at all."""
        temporary = self.path / f"{name}.tmp"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, self.path / name)


class _Dumper(yaml.SafeDumper):
    """Writes strings so that OmegaConf, which takes more of them for numbers, reads strings."""

    def ignore_aliases(self, data: Any) -> bool:
        """Write what occurs twice twice."""
        return True


def _string(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", value)  # no interpolation
    try:
        float(text)
    except ValueError:
        return dumper.represent_str(text)
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="'")


_Dumper.add_representer(str, _string)
