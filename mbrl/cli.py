"""The command line: ``python main.py --config-file FILE [--mode MODE] [key=value ...]``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import hydra
from omegaconf import DictConfig, OmegaConf

from mbrl.config import (
    Config,
    checked_file,
    from_mapping,
    from_omegaconf,
    hydra_override,
    one_line,
)
from mbrl.errors import ConfigError, DivergenceError, MbrlError, suggestion
from mbrl.graph import build_graph, draw, mermaid
from mbrl.run_folder import RunFolder
from mbrl.runner import Interrupted, import_packages, load_policy, resumed_config, run
from mbrl.tasks import evaluate, make_task

DONE, USER_ERROR, DIVERGED = 0, 2, 3
_QUIET_HYDRA = (
    "hydra.run.dir=.",
    "hydra.sweep.dir=.",
    "hydra.sweep.subdir=.",
    "hydra.output_subdir=null",
    "hydra/job_logging=disabled",
    "hydra/hydra_logging=disabled",
)


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
        options = _parse(sys.argv[1:] if arguments is None else list(arguments))
        return _MODES[options.mode](options)
    except Interrupted as stop:
        print(stop, file=sys.stderr)
        return 128 + stop.signum
    except KeyboardInterrupt:
        return 130
    except DivergenceError as error:
        return _fail(error, DIVERGED)
    except MbrlError as error:
        return _fail(error, USER_ERROR)


def _fail(error: MbrlError, code: int) -> int:
    print(f"error: {one_line(error)}", file=sys.stderr)
    return code


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(prog="main.py", description=__doc__, allow_abbrev=False)
    parser.add_argument("--config-file", metavar="FILE", help="a YAML file, e.g. in configs/")
    parser.add_argument("--mode", default="train", help=f"one of {', '.join(_MODES)}")
    parser.add_argument("--resume", metavar="DIR", help="continue the run in this folder")
    parser.add_argument("--run", metavar="DIR", nargs="+", help="finished runs, for --mode eval")
    parser.add_argument(
        "--import", metavar="PACKAGE", action="append", dest="imports", default=[],
        help="a package that registers environments, nodes or algorithms",
    )  # fmt: skip
    parser.add_argument("-m", "--multirun", action="store_true", help="sweep: key=a,b,c")
    parser.add_argument("--cfg", choices=["job"], help="print the composed configuration and stop")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="change the configuration"
    )
    options = parser.parse_intermixed_args(arguments)
    if options.mode not in _MODES:
        raise ConfigError(
            f"--mode: unknown mode {options.mode!r}; {suggestion(options.mode, _MODES)}"
        )
    for item in options.overrides:
        if "=" not in item and not item.startswith("~"):
            raise ConfigError(f"{item!r} is not of the form key=value; see --help")
    return options


def _train(options: argparse.Namespace) -> int:
    if options.resume is not None:
        return _report(run(_resumed(options), resume=options.resume))
    return _composed(options, lambda config: _report(run(config)))


def _graph(options: argparse.Namespace) -> int:
    def show(config: Config) -> int:
        task = make_task(config.task, threads=config.threads, **config.task_args)
        graph = build_graph(config.graph, task)
        folder = RunFolder.create(Path(config.output_dir), config.name or "run", config.seed)
        folder.write_config(config.as_dict())
        text = mermaid(graph.spec, graph.widths)
        folder.plot("graph.mmd").write_text(text)
        draw(graph.spec, folder.plot("graph.png"), graph.widths)
        print(text, end="")
        print(f"graph={folder.plot('graph.png')} run_dir={folder.path}")
        return DONE

    return _composed(options, show)


def _eval(options: argparse.Namespace) -> int:
    if not options.run:
        raise ConfigError("--mode eval needs --run DIR: the folder of a finished run")
    for run_dir in options.run:
        config = resumed_config(run_dir)
        policy = load_policy(run_dir)
        task = make_task(
            config.eval_task or config.task,
            **(config.eval_task_args if config.eval_task else config.task_args),
        )
        result = evaluate(
            task, policy.act, episodes=config.evaluation.episodes, seed=config.evaluation.seed or 0
        )
        print(f"eval_return_mean={result.returns.mean()} run_dir={run_dir}")
    return DONE


_MODES: dict[str, Callable[[argparse.Namespace], int]] = {
    "train": _train,
    "graph": _graph,
    "eval": _eval,
}


def _report(result: object) -> int:
    summary, run_dir = result.summary, result.run_dir  # type: ignore[attr-defined]
    print(f"eval_return_mean={summary['eval_return_mean']} run_dir={run_dir}", flush=True)
    return DONE


def _resumed(options: argparse.Namespace) -> Config:
    config = resumed_config(options.resume)
    if not options.overrides:
        return config
    content = OmegaConf.create(config.as_dict())
    try:
        content.merge_with_dotlist(options.overrides)
    except Exception as error:
        raise ConfigError(one_line(error)) from error
    return from_mapping(dict(OmegaConf.to_container(content, resolve=True)))  # type: ignore[arg-type]


def _composed(options: argparse.Namespace, job: Callable[[Config], int]) -> int:
    """Let Hydra compose the configuration (and sweep over it) and run ``job`` on each."""
    if options.config_file is None:
        raise ConfigError(
            "--config-file is missing; e.g. --config-file configs/inverted_pendulum.yaml"
        )
    import_packages(options.imports)
    file = checked_file(options.config_file)
    codes: list[int] = []

    def task_function(content: DictConfig) -> None:
        config = from_omegaconf(content, file.stem)
        merged = [*config.imports, *(n for n in options.imports if n not in config.imports)]
        codes.append(job(from_mapping({**config.as_dict(), "imports": merged})))

    sys.argv[1:] = [
        f"--config-path={file.parent}",
        f"--config-name={file.stem}",
        *(["--multirun"] if options.multirun else []),
        *(["--cfg", options.cfg] if options.cfg else []),
        *_QUIET_HYDRA,
        *map(hydra_override, options.overrides),
    ]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # errors come to us, not to Hydra's own printer
    try:
        hydra.main(version_base="1.3", config_path=None)(task_function)()
    except (MbrlError, KeyboardInterrupt):
        raise
    except Exception as error:
        if type(error).__module__.split(".")[0] in ("hydra", "omegaconf"):
            raise ConfigError(f"{options.config_file}: {one_line(error)}") from error
        raise
    return max(codes, default=DONE)
