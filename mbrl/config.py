"""Configurations: loaded from YAML, checked, and completed with every default."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from mbrl.errors import ConfigError, MbrlError
from mbrl.graph import completed_section
from mbrl.options import completed
from mbrl.registry import ALGORITHMS

_FORBIDDEN_KEYS = ("_target_", "_partial_", "_args_")


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
    file = checked_file(path)
    previous = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(file.parent), version_base="1.3"):
            content = compose(file.stem, [hydra_override(item) for item in overrides])
    except MbrlError:
        raise
    except Exception as error:
        raise ConfigError(f"{path}: {one_line(error)}") from error
    finally:
        GlobalHydra.instance().hydra = previous
    return from_omegaconf(content, file.stem)


def from_omegaconf(content: DictConfig, name: str) -> Config:
    """Check what Hydra composed.

    Args:
        content: the composed configuration.
        name: what the run is called if the configuration does not say.
    """
    try:
        plain = OmegaConf.to_container(content, resolve=True)
    except Exception as error:
        raise ConfigError(one_line(error)) from error
    if not isinstance(plain, dict):
        raise ConfigError("a configuration must be a mapping")
    return from_mapping({str(key): value for key, value in plain.items()}, name)


def from_mapping(content: Mapping[str, Any], name: str | None = None) -> Config:
    """Check plain data and fill in every default, those of algorithm and graph included.

    Raises:
        ConfigError: naming the key, its value and what is legal.
    """
    _refuse_code(content, "")
    options = completed(Config, content, "")
    options["name"] = options["name"] or name or "run"
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
        content = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping, got {type(content).__name__}")
    _refuse_code(content, "")
    if "hydra" in content:
        raise ConfigError(f"{path}: the key 'hydra' is not allowed; remove it")
    return file


def hydra_override(item: str) -> str:
    """Return an override that may also set a key which the file leaves at its default."""
    key = item.partition("=")[0]
    if not item or item[0] in "+~" or key.startswith("hydra") or "/" in key:
        return item
    return f"++{item}"


def one_line(error: BaseException) -> str:
    """Return an exception's message on one line."""
    return " ".join(str(error).split()) or type(error).__name__


def _refuse_code(value: Any, where: str) -> None:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            path = f"{where}.{key}" if where else str(key)
            if key in _FORBIDDEN_KEYS:
                raise ConfigError(
                    f"{path}: a configuration chooses among registered names, it does not name code"
                )
            _refuse_code(inner, path)
    elif isinstance(value, list | tuple):
        for i, inner in enumerate(value):
            _refuse_code(inner, f"{where}[{i}]")


def _plain(value: Any) -> Any:
    """Tuples to lists, nested dataclasses to dicts: what YAML can say."""
    if hasattr(value, "__dataclass_fields__"):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value
