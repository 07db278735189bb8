"""Configurations: loaded from YAML, checked, and completed with every default."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from mbrl.errors import ConfigError, MbrlError
from mbrl.graph import completed_section
from mbrl.options import completed
from mbrl.registry import ALGORITHMS

_FORBIDDEN_KEYS = ("_target_", "_partial_", "_args_")
# What Hydra knows of the job at hand; anything else under its key would configure Hydra itself.
_HYDRA_RECORDS = ("job.config_name", "job.override_dirname", "overrides", "runtime")
_NO_HYDRA = "the key 'hydra' is not allowed in a file; give hydra.* on the command line"
_QUIET_SWEEP = (
    "hydra.sweep.subdir=.",
    "hydra.output_subdir=null",
    "hydra/job_logging=disabled",
    "hydra/hydra_logging=disabled",
)


@dataclass(frozen=True)
class EvaluationOptions:
    """Evaluation in the real Gymnasium environment.

    Attributes:
        episodes: complete episodes of an evaluation.
        every: updates between evaluations during training; 0: only one at the end.
        policy: which weights the last evaluation uses: latest, or best (by the evaluations during
            training; by the training return if there were none).
        seed: episode i is reset with seed + i; null: 10000 + the run's seed.
    """

    episodes: int = 10
    every: int = 0
    policy: Literal["latest", "best"] = "latest"
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ConfigError(f"evaluation.episodes must be at least 1, got {self.episodes}")
        if self.every < 0:
            raise ConfigError(f"evaluation.every must not be negative, got {self.every}")


@dataclass(frozen=True)
class CheckpointOptions:
    """Checkpoints.

    Attributes:
        every: updates between checkpoints; the previous one is kept.
    """

    every: int = 10

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ConfigError(f"checkpoint.every must be at least 1, got {self.every}")


@dataclass(frozen=True)
class Config:
    """Everything a run depends on.

    Attributes:
        task: id of the task that is trained on: any Gymnasium MuJoCo environment.
        algorithm: ``kind`` and the options of that algorithm.
        graph: the computation graph; see ``mbrl.graph.wiring.parse``. Empty: the vanilla graph.
        task_args: constructor arguments of the task's environment.
        eval_task: id of the environment that is evaluated in; null: the task.
        eval_task_args: its constructor arguments.
        seed: of everything random.
        threads: engine threads; null: all cores. Results do not depend on it.
        torch_threads: threads of torch; its matrix products may depend on it.
        evaluation: see :class:`EvaluationOptions`.
        checkpoint: see :class:`CheckpointOptions`.
        output_dir: runs go to <output_dir>/<name>/.
        name: of the configuration; null: that of its file.
        imports: packages that register tasks, nodes, policies or algorithms.
    """

    task: str
    algorithm: Mapping[str, Any]
    graph: Mapping[str, Any] = field(default_factory=dict)
    task_args: Mapping[str, Any] = field(default_factory=dict)
    eval_task: str | None = None
    eval_task_args: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    threads: int | None = None
    torch_threads: int = 1
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)
    checkpoint: CheckpointOptions = field(default_factory=CheckpointOptions)
    output_dir: str = "outputs"
    name: str | None = None
    imports: Sequence[str] = ()

    def as_dict(self) -> dict[str, Any]:
        """Return plain data that :func:`from_mapping` turns into an equal configuration."""
        return _plain(asdict(self))


def load_config(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> Config:
    """Read a YAML file.

    Args:
        path: the file; a Hydra ``defaults`` list may refer to its neighbours.
        overrides: ``key=value`` in Hydra's syntax.

    Raises:
        ConfigError: naming the key, its value and what is legal.
    """
    return _from_omegaconf(composed(path, overrides), Path(path).stem)


def composed(path: str | os.PathLike[str], overrides: Sequence[str] = ()) -> DictConfig:
    """Return what Hydra makes of a file and overrides, unchecked.

    Raises:
        ConfigError: if Hydra cannot make anything of it, or the file configures Hydra itself.
    """
    file = checked_file(path)
    with _hydra(file, overrides) as (hydra, items):
        content: DictConfig = _compose(hydra, file, items, RunMode.RUN)
    with open_dict(content):
        del content["hydra"]
    return content


def sweep(
    path: str | os.PathLike[str], overrides: Sequence[str], job: Callable[[Config], object]
) -> None:
    """Call ``job`` with each configuration of a Hydra sweep in turn, until one raises.

    Args:
        path: the file.
        overrides: ``key=a,b,c`` in Hydra's syntax, and ``hydra.*`` for its launchers and sweepers.
        job: what to do.

    Raises:
        ConfigError: as :func:`load_config`.
    """
    file, here = checked_file(path), os.getpid()
    failures: list[Exception] = []

    def run_one(content: DictConfig) -> None:
        if failures:
            return
        try:
            job(_from_omegaconf(content, file.stem))
        except Exception as error:
            if os.getpid() != here:  # a parallel launcher; Hydra hands it over
                raise
            failures.append(error)  # Hydra would print it

    # Hydra leaves a file in its folder.
    with tempfile.TemporaryDirectory() as folder, _hydra(file, overrides) as (hydra, items):
        quiet = [f"hydra.sweep.dir={folder}", *_QUIET_SWEEP]
        given = {item.partition("=")[0] for item in items}
        items = [*(item for item in quiet if item.partition("=")[0] not in given), *items]
        _compose(hydra, file, items, RunMode.MULTIRUN)
        hydra.multirun(config_name=file.stem, task_function=run_one, overrides=items)
    if failures:
        raise failures[0]


def _from_omegaconf(content: DictConfig, name: str) -> Config:
    try:
        plain: Any = OmegaConf.to_container(content, resolve=True)
    except Exception as error:
        raise ConfigError(one_line(error)) from error
    return from_mapping(plain, name)


def from_mapping(content: Mapping[str, Any], name: str | None = None) -> Config:
    """Check plain data and fill in every default, those of algorithm and graph included.

    Raises:
        ConfigError: naming the key, its value and what is legal.
    """
    _check_keys(content, "")
    options = completed(Config, content, "")
    import_packages(options["imports"])
    options["name"] = _checked_name(options["name"] or name or "run")
    for key in ("task_args", "eval_task_args"):
        for reserved, instead in (("name", "task"), ("threads", "threads")):
            if reserved in options[key]:
                raise ConfigError(f"{key}.{reserved} is not legal here; say {instead}")
    options["graph"] = completed_section(options["graph"])
    algorithm = dict(options["algorithm"])
    kind = algorithm.pop("kind", None)
    builder = ALGORITHMS.get(kind, "algorithm.kind")
    options["algorithm"] = {"kind": kind, **completed(builder, algorithm, "algorithm")}
    if not 0 <= options["seed"] < 2**31:
        raise ConfigError(f"seed must lie in [0, 2^31), got {options['seed']}")
    for key in ("threads", "torch_threads"):
        if options[key] is not None and options[key] < 1:
            raise ConfigError(f"{key} must be at least 1, got {options[key]}")
    return Config(**options)


def import_packages(names: Sequence[str]) -> None:
    """Import the packages that register a user's environments, nodes and algorithms.

    Packages in the working directory are found too, as ``python -m`` would find them.

    Raises:
        ConfigError: naming the package that cannot be imported.
    """
    if names and os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    for name in names:
        try:
            importlib.import_module(name)
        except Exception as error:
            raise ConfigError(
                f"--import: cannot import {name!r} ({type(error).__name__}: {one_line(error)}); "
                "it must be importable from here, e.g. by PYTHONPATH"
            ) from error


def checked_file(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path of a YAML file that Hydra may be shown.

    Raises:
        ConfigError: if it does not exist, is not YAML, names code or configures Hydra itself.
    """
    file = Path(path).absolute()
    if not file.is_file():
        raise ConfigError(f"--config-file: no such file: {path}")
    if file.suffix != ".yaml":
        raise ConfigError(f"--config-file: {path} must end in .yaml")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config-file: cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path} is not YAML: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping, got {type(content).__name__}")
    _check_keys({key: value for key, value in content.items() if key != "defaults"}, "")
    if "hydra" in content:
        raise ConfigError(f"{path}: {_NO_HYDRA}")
    return file


def one_line(error: BaseException) -> str:
    """Return an exception's message on one line."""
    return " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def _hydra(file: Path, overrides: Sequence[str]) -> Iterator[tuple[Any, list[str]]]:
    """Give a Hydra of the file's folder, and the overrides as it wants them; report its errors."""
    items = [_hydra_override(item, file.parent) for item in overrides]
    previous = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(file.parent), version_base="1.3"):
            yield GlobalHydra.instance().hydra, items
    except MbrlError:
        raise
    except Exception as error:
        text = one_line(error)
        for ours, theirs in zip(items, overrides, strict=True):
            text = text.replace(ours, theirs)
        raise ConfigError(f"{file}: {text}") from error
    finally:
        GlobalHydra.instance().hydra = previous


def _compose(hydra: Any, file: Path, items: list[str], mode: RunMode) -> DictConfig:
    """Compose the file, and refuse it if it or a neighbour configures Hydra.

    Hydra runs code that its own section names; only the command line may write there.
    """
    content = _composed_by(hydra, file.stem, items, mode)
    ours = tuple(item for item in items if item.lstrip("+~").startswith("hydra"))
    if _section_of_hydra(content) != _untouched_section(mode, ours):
        raise ConfigError(f"{file}: {_NO_HYDRA}")
    return content


@functools.cache
def _untouched_section(mode: RunMode, items: tuple[str, ...]) -> Any:
    """Return Hydra's own section as the command line alone makes it."""
    return _section_of_hydra(_composed_by(GlobalHydra.instance().hydra, None, [*items], mode))


def _composed_by(hydra: Any, name: str | None, items: list[str], mode: RunMode) -> DictConfig:
    content: DictConfig = hydra.compose_config(
        config_name=name, overrides=items, run_mode=mode, with_log_configuration=False
    )
    return content


def _section_of_hydra(content: DictConfig) -> Any:
    section: Any = OmegaConf.to_container(content.hydra, resolve=False)
    for record in _HYDRA_RECORDS:
        inner, _, key = record.rpartition(".")
        (section[inner] if inner else section).pop(key, None)
    return section


def _hydra_override(item: str, folder: Path) -> str:
    """Return an override that may also set a key which the file leaves at its default."""
    key = item.partition("=")[0]
    # A key with a folder of files to choose from (folder/key/*.yaml) is set by choosing one.
    if not key or key[0] in "+~" or key.split(".")[0] == "hydra" or (folder / key).is_dir():
        return item
    return item if "/" in key else f"++{item}"


def _check_keys(value: Any, where: str) -> None:
    """Refuse keys that name code, or are no strings."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            path = f"{where}.{key}" if where else str(key)
            if key in _FORBIDDEN_KEYS:
                raise ConfigError(
                    f"{path}: a configuration chooses among registered names, it does not name code"
                )
            if not isinstance(key, str):
                raise ConfigError(f"{path}: a key must be a string, got {key!r}")
            _check_keys(inner, path)
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            _check_keys(inner, f"{where}[{i}]")


def _checked_name(name: str) -> str:
    if name in (".", "..") or Path(name).name != name or "\0" in name:
        raise ConfigError(f"name must be the name of a folder, without slashes, got {name!r}")
    return name


def _plain(value: Any) -> Any:
    """Tuples to lists, nested dataclasses to dicts: what YAML can say."""
    if hasattr(value, "__dataclass_fields__"):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
