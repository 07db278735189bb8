"""Configurations: loaded from YAML, checked, and completed with every default."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import JobStatus
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict

from mbrl.errors import ConfigError, MbrlError, one_line, suggestion
from mbrl.graph import completed_section
from mbrl.imports import import_packages
from mbrl.monitoring import MonitorOptions
from mbrl.options import completed
from mbrl.registry import ALGORITHMS

T = TypeVar("T")

_FORBIDDEN_KEYS = ("_target_", "_partial_", "_args_", "_convert_", "_recursive_")
_FORBIDDEN = re.compile(rf"(?<![a-zA-Z0-9])({'|'.join(_FORBIDDEN_KEYS)})(?![a-zA-Z0-9])")
# Characters that Hydra's grammar has no place for outside of quotes, and those that mean something.
_OUTSIDE_GRAMMAR = re.compile(r"[^\x00-\x7f]|[~!#&;<>^`]")
_OF_GRAMMAR = re.compile(r"[][(){},'\"$\\]")
_OF_HYDRA = re.compile(r"(?<![a-zA-Z0-9_.-])hydra\b")  # in a list of defaults
_NO_CODE = "a configuration chooses among registered names, it does not name code"
# Far beyond any experiment, and well before YAML, Hydra or memory give up.
_DEEPEST, _MOST_ENTRIES = 40, 100_000
_MOST_THREADS = 1024
# What the command line may set of Hydra: which launcher and sweeper, and their options. All else
# (callbacks, search paths, environment variables) runs code or leaves traces.
_HYDRA_LEGAL = ("hydra/launcher", "hydra/sweeper", "hydra.launcher", "hydra.sweeper", "hydra.sweep")
# What Hydra knows of the job at hand; anything else under its key would configure Hydra itself.
_HYDRA_RECORDS = ("job.config_name", "job.override_dirname", "overrides", "runtime")
_NO_HYDRA = (
    "the key 'hydra' is not allowed in a file; legal on the command line: "
    f"{', '.join(_HYDRA_LEGAL)}"
)
# Parameters of a task that a configuration sets elsewhere.
_RESERVED = {"name": "say task", "threads": "say threads", "self": "choose another name"}
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
        seed: episode i is reset with seed + i; null: 10000 (1 + the run's seed). Evaluations during
            training, which choose the best, use seed + 5000 + i.
    """

    episodes: int = 10
    every: int = 0
    policy: Literal["latest", "best"] = "latest"
    seed: int | None = None

    def __post_init__(self) -> None:
        if self.episodes < 1:
            raise ConfigError(f"episodes must be at least 1, got {self.episodes}")
        if self.every < 0:
            raise ConfigError(f"every must not be negative, got {self.every}")
        if self.seed is not None and not 0 <= self.seed < 2**31:
            raise ConfigError(f"seed must lie in [0, 2^31) or be null, got {self.seed}")


@dataclass(frozen=True)
class CheckpointOptions:
    """Checkpoints: checkpoints/latest.pt, and the one before it, latest.previous.pt.

    A run also writes one when it ends: by itself, by a signal, or by an error of its physics or its
    environment. A process that is killed repeats at most ``every`` updates when it is resumed.

    Attributes:
        every: updates between checkpoints.
        seconds: between those in the middle of an update, of algorithms whose updates take long.
    """

    every: int = 10
    seconds: float = 300.0

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ConfigError(f"every must be at least 1, got {self.every}")
        if not self.seconds >= 0:
            raise ConfigError(f"seconds must not be negative, got {self.seconds}")


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
        monitor: see :class:`~mbrl.monitoring.MonitorOptions`.
        output_dir: runs go to <output_dir>/<name>/; ~ is the home.
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
    monitor: MonitorOptions = field(default_factory=MonitorOptions)
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
    path: str | os.PathLike[str],
    overrides: Sequence[str],
    job: Callable[[Config], T],
    note: Callable[[T], object] = lambda found: None,
) -> None:
    """Call ``job`` with each configuration of a Hydra sweep in turn, until one raises.

    A launcher such as joblib or submitit calls it in other processes, all of them.

    Args:
        path: the file.
        overrides: ``key=a,b,c`` in Hydra's syntax, and ``hydra.*`` for its launchers and sweepers.
        job: what to do.
        note: told what each call returned, in their order, also of those before one that raises.

    Raises:
        ConfigError: as :func:`load_config`; or, of another process, with the message of what was
            raised there.
    """
    file, here = checked_file(path), os.getpid()
    failures: list[Exception] = []

    def run_one(content: DictConfig) -> T | None:
        if failures:
            return None
        try:
            found = job(_from_omegaconf(content, file.stem))
        except Exception as error:
            if os.getpid() != here:  # Hydra hands it over, by pickling
                raise ConfigError(one_line(error)) from None
            failures.append(error)  # Hydra would print it
            return None
        if os.getpid() != here:
            return found
        note(found)
        return None

    # Hydra leaves a file in its folder.
    with tempfile.TemporaryDirectory() as folder, _hydra(file, overrides) as (hydra, items):
        quiet = [f"hydra.sweep.dir={folder}", *_QUIET_SWEEP]
        given = {item.partition("=")[0] for item in items}
        items = [*(item for item in quiet if item.partition("=")[0] not in given), *items]
        _compose(hydra, file, items, RunMode.MULTIRUN)
        done = hydra.multirun(config_name=file.stem, task_function=run_one, overrides=items)
    if failures:
        raise failures[0]
    if isinstance(done, list) and not any(done):
        raise ConfigError(f"-m: {' '.join(overrides)} asks for no job at all")
    # What sweepers return is theirs to decide; Hydra's own return the jobs, in batches.
    elsewhere = [job for batch in done for job in batch] if isinstance(done, list) else []
    for one in elsewhere:
        if one.status == JobStatus.COMPLETED and one.return_value is not None:
            note(one.return_value)
    for one in elsewhere:
        _ = one.return_value  # raises what its process raised


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
    given = options["name"]
    options["name"] = _checked_name((name or "run") if given is None else given)
    for key in ("task_args", "eval_task_args"):
        for reserved, instead in _RESERVED.items():
            if reserved in options[key]:
                raise ConfigError(f"{key}.{reserved} is not legal here; {instead}")
    options["graph"] = completed_section(options["graph"])
    algorithm = dict(options["algorithm"])
    kind = algorithm.pop("kind", None)
    builder = ALGORITHMS.get(kind, "algorithm.kind")
    options["algorithm"] = {"kind": kind, **completed(builder, algorithm, "algorithm")}
    if not 0 <= options["seed"] < 2**31:
        raise ConfigError(f"seed must lie in [0, 2^31), got {options['seed']}")
    for key in ("threads", "torch_threads"):
        if options[key] is not None and not 1 <= options[key] <= _MOST_THREADS:
            raise ConfigError(f"{key} must lie in [1, {_MOST_THREADS}], got {options[key]}")
    if "\0" in options["output_dir"]:
        raise ConfigError(f"output_dir must be a path, got {options['output_dir']!r}")
    if options["output_dir"].startswith("~/"):
        options["output_dir"] = os.path.expanduser(options["output_dir"])
    return Config(**options)


def checked_file(path: str | os.PathLike[str]) -> Path:
    """Return the absolute path of a YAML file that Hydra may be shown.

    Raises:
        ConfigError: if it does not exist, is not YAML, names code or configures Hydra itself.
    """
    if not isinstance(path, str | os.PathLike):
        raise ConfigError(f"--config-file must be a path, got {path!r}")
    file = Path(path).absolute()
    if not file.is_file():
        raise ConfigError(f"--config-file: no such file: {path}")
    if file.suffix != ".yaml":
        raise ConfigError(f"--config-file: {path} must end in .yaml")
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config-file: cannot read {path}: {error.strerror}") from error
    except RecursionError as error:
        raise ConfigError(f"{path} is not YAML: it is nested too deeply") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path} is not YAML: {one_line(error)}") from error
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping, got {type(content).__name__}")
    _check_keys(content, "")
    if "hydra" in content or _OF_HYDRA.search(str(content.get("defaults", ""))):
        raise ConfigError(f"{path}: {_NO_HYDRA}")
    return file


@contextlib.contextmanager
def _hydra(file: Path, overrides: Sequence[str]) -> Iterator[tuple[Any, list[str]]]:
    """Give a Hydra of the file's folder, and the overrides as it wants them; report its errors."""
    if isinstance(overrides, str) or not all(isinstance(item, str) for item in overrides):
        raise ConfigError(f"overrides must be a list of strings key=value, got {overrides!r}")
    for item in overrides:
        _check_override(item)
    items = [_hydra_override(item, file.parent) for item in overrides]
    previous = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()
    try:
        with warnings.catch_warnings(), initialize_config_dir(str(file.parent), version_base="1.3"):
            warnings.filterwarnings("ignore", module="hydra")  # advice on how to write YAML
            yield GlobalHydra.instance().hydra, items
    except MbrlError:
        raise
    except Exception as error:
        # Some of Hydra's errors say nothing, and leave it to their cause.
        cause: BaseException = error
        while not str(cause) and cause.__cause__ is not None:
            cause = cause.__cause__
        text = one_line(cause)
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
    key, _, value = item.partition("=")
    if value == "~":  # YAML's null
        item = f"{key}=null"
    elif not key.lstrip("+").startswith("hydra") and _needs_quotes(value):
        item = f"{key}='{value.strip()}'"
    # A key with a folder of files to choose from (folder/key/*.yaml) is set by choosing one.
    if not key or key[0] in "+~" or key.split(".")[0] == "hydra" or (folder / key).is_dir():
        return item
    return item if "/" in key else f"++{item}"


def _needs_quotes(value: str) -> bool:
    return bool(_OUTSIDE_GRAMMAR.search(value)) and not _OF_GRAMMAR.search(value)


def _check_override(item: str) -> None:
    """Refuse an override that names code, or sets what is not to be set of Hydra."""
    if _FORBIDDEN.search(item):
        raise ConfigError(f"{item}: {_NO_CODE}")
    key = item.lstrip("+~ ").partition("=")[0].partition("@")[0]
    if re.match(r"hydra\b", key) and not any(
        key == legal or key.startswith((f"{legal}.", f"{legal}/")) for legal in _HYDRA_LEGAL
    ):
        raise ConfigError(f"{item}: {key!r} cannot be set; {suggestion(key, _HYDRA_LEGAL)}")


def _check_keys(content: Any, where: str) -> None:
    """Refuse keys that name code or are no strings, and what is nested or repeated without end."""
    waiting, seen = [(where, 0, content)], 0
    while waiting:
        path, depth, value = waiting.pop()
        seen += 1
        if depth > _DEEPEST or seen > _MOST_ENTRIES:
            legal = f"at most {_DEEPEST} levels and {_MOST_ENTRIES} entries"
            raise ConfigError(f"{path[:100]}: a configuration may have {legal}")
        if isinstance(value, Mapping):
            for key, inner in value.items():
                inner_path = f"{path}.{key}" if path else str(key)
                if not isinstance(key, str):
                    raise ConfigError(f"{inner_path}: a key must be a string, got {key!r}")
                if key in _FORBIDDEN_KEYS:
                    raise ConfigError(f"{inner_path}: {_NO_CODE}")
                waiting.append((inner_path, depth + 1, inner))
        elif isinstance(value, list | tuple):
            waiting += [(f"{path}[{i}]", depth + 1, inner) for i, inner in enumerate(value)]


def _checked_name(name: str) -> str:
    plain = Path(name).name == name != ".." and name.isprintable()
    if not plain or not 0 < len(name.encode()) < 256:
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
