"""The command line: ``python main.py --config-file FILE [--mode MODE] [key=value ...]``."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple, NoReturn, TypeVar

import torch
from omegaconf import DictConfig, OmegaConf

from mbrl.checking import check
from mbrl.config import (
    Config,
    composed,
    from_mapping,
    load_config,
    sweep,
)
from mbrl.errors import ConfigError, DivergenceError, MbrlError, one_line, suggestion
from mbrl.finished_runs import (
    draw_landscape,
    evaluate_run,
    record_run,
    resumed_config,
    training_task,
)
from mbrl.graph import build_graph, draw, mermaid
from mbrl.imports import import_packages
from mbrl.landscape import LandscapeOptions
from mbrl.monitoring import write_columns
from mbrl.options import at_key, completed
from mbrl.ranks import is_first, joined, launched
from mbrl.reporting import (
    ReportOptions,
    sweep_columns,
    sweep_rows,
    sweep_text,
    write_report,
)
from mbrl.run_folder import RunFolder, whole
from mbrl.runner import Result, run
from mbrl.signals import Interrupted

T = TypeVar("T")
DONE, USER_ERROR, DIVERGED = 0, 2, 3
_LANDSCAPE, _PAGE = "landscape", "report"  # sections of options, which no run records


class _Done(NamedTuple):
    """What a job has come to."""

    code: int
    run_dir: Path | None = None  # of a run


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; see --help")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: what follows the program's name; None: those of this process.

    Returns:
        The exit code: 0 done, 2 the user's mistake, 3 diverged, 128 + n stopped by signal n.
    """
    try:
        with _terminable(), warnings.catch_warnings():
            # Gymnasium's advice would stand before the one line of an error.
            warnings.filterwarnings("ignore", module="gymnasium")
            options = _parse(sys.argv[1:] if arguments is None else list(arguments))
            import_packages(options.imports)
            with joined():
                return _MODES[options.mode](options)
    except Interrupted as stop:
        if is_first():
            print(stop, file=sys.stderr)
        return 128 + stop.signum
    except KeyboardInterrupt as stop:
        return 128 + (stop.args[0] if stop.args else signal.SIGINT)
    except DivergenceError as error:
        return _fail(error, DIVERGED)
    except MbrlError as error:
        return _fail(error, USER_ERROR)
    except OSError as error:  # a full disk, a closed terminal: no bug of ours
        return _fail(error, USER_ERROR)
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):  # torch's
            raise
        return _fail(f"out of memory ({one_line(error)}); make batch, horizon or widths smaller")


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM end the program as SIGINT does, also where no run looks after it."""

    def stop(signum: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(signum)

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: the caller handles signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _fail(error: object, code: int = USER_ERROR) -> int:
    who = "" if is_first() else f"rank {os.environ['RANK']}: "
    print(f"{who}error: {one_line(error)}", file=sys.stderr)
    return code


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(prog="main.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--config-file", metavar="FILE", help="a YAML file, e.g. in configs/")
    parser.add_argument("--mode", default="train", help=f"one of {', '.join(_MODES)}")
    parser.add_argument(
        "--resume", metavar="DIR", help="continue the run in this folder, as it was configured"
    )
    parser.add_argument(
        "--run", metavar="DIR", nargs="+", action="extend",
        help=f"finished runs, for --mode {' or '.join(_OF_RUNS)}",
    )  # fmt: skip
    parser.add_argument(
        "--import", metavar="PACKAGE", action="append", dest="imports", default=[],
        help="a package that registers environments, nodes or algorithms",
    )  # fmt: skip
    parser.add_argument("-m", "--multirun", action="store_true", help="sweep: key=a,b,c")
    parser.add_argument("--cfg", choices=["job"], help="print the composed configuration and stop")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value",
        help="change the configuration; landscape.* and report.* are options of those modes",
    )  # fmt: skip
    options = parser.parse_intermixed_args(arguments)
    if options.mode not in _MODES:
        raise ConfigError(
            f"--mode: unknown mode {options.mode!r}; {suggestion(options.mode, _MODES)}"
        )
    # --run takes all that follows it; what is no folder is an override.
    given = options.run or []
    options.run = [item for item in given if "=" not in item or Path(item).is_dir()]
    options.overrides += [item for item in given if item not in options.run]
    for item in options.overrides:
        if "=" not in item and not item.startswith("~"):
            raise ConfigError(f"{item!r} is not of the form key=value; see --help")
    _refuse_idle(options)
    return options


def _refuse_idle(options: argparse.Namespace) -> None:
    """Refuse options that would have no effect, rather than ignore what somebody asked for."""
    single = "a run that exists is one run"
    of_runs = options.mode in _OF_RUNS
    for given, idle, reason in (
        ("--config-file", options.config_file and of_runs, "runs are as they were configured"),
        ("--resume", options.resume and options.mode != "train", "goes with --mode train"),
        ("--run", options.run and not of_runs, f"goes with --mode {' or '.join(_OF_RUNS)}"),
        ("-m", options.multirun and (options.resume or of_runs), single),
        ("--cfg", options.cfg and (options.resume or of_runs), "goes with --config-file"),
        ("torchrun", launched() and options.mode != "train", "goes with --mode train"),
    ):
        if idle:
            raise ConfigError(f"{given} has no effect here: {reason}")
    if of_runs and not options.run:
        raise ConfigError(f"--mode {options.mode} needs --run DIR: the folder of a finished run")


def _train(options: argparse.Namespace) -> int:
    if options.resume is not None:
        if options.config_file is not None and is_first():
            # On standard output: there may be one line of errors on the other, and nothing else.
            print(
                f"note: --resume continues with {options.resume}/config.yaml; "
                f"{options.config_file} is not read"
            )
        return _report(run(_of_run(options.resume, options), resume=options.resume)).code
    return _composed(options, lambda config: _report(run(config)))


def _report(result: Result) -> _Done:
    mean = result.summary["eval_return_mean"]
    if is_first():
        print(f"eval_return_mean={mean} run_dir={result.run_dir}", flush=True)
    return _Done(DONE, result.run_dir)


def _graph(options: argparse.Namespace) -> int:
    return _composed(options, _show_graph)


def _show_graph(config: Config) -> _Done:
    task = training_task(config)
    graph = build_graph(config.graph, task)
    folder = RunFolder.create(Path(config.output_dir), config.name or "run", config.seed)
    folder.write_config(config.as_dict())
    text = mermaid(graph.spec, graph.widths)
    folder.plot("graph.mmd").write_text(text)
    draw(graph.spec, folder.plot("graph.png"), graph.widths)
    print(text, end="")
    print(f"graph={folder.plot('graph.png')} run_dir={folder.path}")
    return _Done(DONE)


def _check(options: argparse.Namespace) -> int:
    return _composed(options, _show_check)


def _show_check(config: Config) -> _Done:
    task = training_task(config)
    generator = torch.Generator().manual_seed(config.seed)
    graph = build_graph(config.graph, task, generator=generator)
    print(check(graph, generator), end="")
    return _Done(DONE)


def _eval(options: argparse.Namespace) -> int:
    def show(run_dir: str) -> None:
        result = evaluate_run(run_dir, _of_evaluation(run_dir, options))
        print(f"eval_return_mean={float(result.returns.mean())} run_dir={run_dir}", flush=True)

    return _each(options, show)


def _landscape(options: argparse.Namespace) -> int:
    grid = _own_options(options, _LANDSCAPE, LandscapeOptions)

    def show(run_dir: str) -> None:
        picture = draw_landscape(run_dir, _of_run(run_dir, options), grid)
        print(f"landscape={picture} run_dir={run_dir}", flush=True)

    return _each(options, show)


def _record(options: argparse.Namespace) -> int:
    def show(run_dir: str) -> None:
        video = record_run(run_dir, _of_evaluation(run_dir, options, "monitor"))
        print(f"video={video} run_dir={run_dir}", flush=True)

    return _each(options, show)


def _each(options: argparse.Namespace, show: Callable[[str], None]) -> int:
    """Do something with every run; one with which it cannot be done says so, and the next follows.

    Returns:
        The exit code: the largest of theirs.
    """
    code = DONE
    for run_dir in options.run:
        try:
            show(run_dir)
        except Interrupted:
            raise
        except DivergenceError as error:
            code = max(code, _fail(error, DIVERGED))
        except MbrlError as error:
            code = max(code, _fail(error))
    return code


def _page(options: argparse.Namespace) -> int:
    where = _own_options(options, _PAGE, ReportOptions)
    if options.overrides:
        raise ConfigError(
            f"--mode report shows runs as they are, it takes no {options.overrides[0]!r}; "
            "legal: report.file=FILE"
        )
    print(f"report={write_report(options.run, where)}", flush=True)
    return DONE


def _own_options(options: argparse.Namespace, section: str, target: type[T]) -> T:
    """Take the options of a mode out of the overrides."""
    wanted = [item for item in options.overrides if _section(item) == section]
    options.overrides = [item for item in options.overrides if item not in wanted]
    given: Any = _plain(OmegaConf.create(), wanted).get(section, {})
    checked = completed(target, given, section)
    with at_key(section, target):
        return target(**checked)


def _section(override: str) -> str:
    return override.lstrip("+").partition("=")[0].partition(".")[0]


_MODES: dict[str, Callable[[argparse.Namespace], int]] = {
    "train": _train,
    "graph": _graph,
    "check": _check,
    "eval": _eval,
    "record": _record,
    "landscape": _landscape,
    "report": _page,
}
# The modes that are told of finished runs by --run.
_OF_RUNS = ("eval", "record", "landscape", "report")
# The sections that an evaluation depends on: a policy is as its run has left it.
_EVALUATED = (
    "task", "task_args", "eval_task", "eval_task_args", "evaluation", "seed", "threads",
    "torch_threads", "imports",
)  # fmt: skip


def _of_run(run_dir: str, options: argparse.Namespace) -> Config:
    """Return the configuration of a run that exists, changed as the command line says."""
    content = OmegaConf.create(resumed_config(run_dir).as_dict())
    return _with_imports(from_mapping(_plain(content, options.overrides)), options)


def _of_evaluation(run_dir: str, options: argparse.Namespace, *more: str) -> Config:
    """Return what :func:`_of_run` does, unless an override would change nothing of an evaluation.

    Args:
        run_dir: the folder of the run.
        options: the command line.
        more: sections that matter besides those of every evaluation.
    """
    config, legal = _of_run(run_dir, options), (*_EVALUATED, *more)
    for item in options.overrides:
        section, _, path = item.lstrip("+").partition("=")[0].partition(".")
        name = path.partition(".")[0]
        if section not in legal:
            why = "the policy is as it was trained", suggestion(section, legal)
        elif section in ("task", "task_args") and config.eval_task is not None:
            why = (
                f"it is evaluated in eval_task {config.eval_task}",
                "legal: eval_task_args.NAME=VALUE, eval_task=NAME, eval_task=null",
            )
        elif section == "task_args" and name in config.eval_task_args:
            given = config.eval_task_args[name]
            why = f"eval_task_args.{name} is {given!r}", f"legal: eval_{item.lstrip('+')}"
        else:
            continue
        raise ConfigError(
            f"{item} changes nothing of the evaluation of {run_dir}: {'; '.join(why)}"
        )
    return config


def _plain(content: DictConfig, overrides: Sequence[str]) -> dict[str, Any]:
    """Return a configuration, changed, as plain data."""
    try:
        content.merge_with_dotlist([item.lstrip("+") for item in overrides])
        plain: Any = OmegaConf.to_container(content, resolve=True)
    except Exception as error:
        raise ConfigError(one_line(error)) from error
    return plain


def _composed(options: argparse.Namespace, job: Callable[[Config], _Done]) -> int:
    """Compose the configuration, or those of a sweep, and run ``job`` on each."""
    if options.config_file is None:
        raise ConfigError(
            "--config-file is missing; e.g. --config-file configs/inverted_pendulum.yaml"
        )
    if options.cfg:
        text = OmegaConf.to_yaml(composed(options.config_file, options.overrides))
        if is_first():
            print(text, end="")
        return DONE
    if not options.multirun:
        return job(_with_imports(load_config(options.config_file, options.overrides), options)).code

    def job_of_sweep(config: Config) -> _Done:
        try:
            return job(_with_imports(config, options))
        except DivergenceError as error:  # says nothing about the others
            return _Done(_fail(error, DIVERGED), error.run_dir)

    done: list[_Done] = []
    try:
        sweep(options.config_file, options.overrides, job_of_sweep, done.append)
    finally:  # those that came to their end, whatever became of the others
        _show_sweep([found.run_dir for found in done if found.run_dir is not None])
    return max((found.code for found in done), default=DONE)


def _show_sweep(run_dirs: Sequence[Path]) -> None:
    """Print what the runs of a sweep have come to, and write it to <output_dir>/sweep_*.csv."""
    if not run_dirs or not is_first():
        return
    rows = sweep_rows(run_dirs)
    runs = run_dirs[0].parent
    # Not in a folder: <output_dir>/*/* are runs, and nothing else.
    folder, stem = runs.parent, f"sweep_{runs.name}_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    earlier = len(list(folder.glob(f"{stem}*.csv")))  # of the same second
    path = folder / (f"{stem}-{earlier + 1}.csv" if earlier else f"{stem}.csv")
    with whole(path) as file:
        write_columns(sweep_columns(rows), file)
    # Not on standard output, where every line names the folder of a run.
    print(f"{sweep_text(rows)}sweep={path}", file=sys.stderr, flush=True)


def _with_imports(config: Config, options: argparse.Namespace) -> Config:
    """Record the packages of --import in the run."""
    return dataclasses.replace(
        config, imports=tuple(dict.fromkeys((*config.imports, *options.imports)))
    )
