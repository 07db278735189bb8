"""Returns of OMD, MLE and VEP against how wrong the model has to be: runs, tables, pictures.

    python benchmarks/omd_misspecification.py cartpole [--agents omd mle vep] [--seeds 10]
                                    [--updates 200] [--dtype float32] [--root outputs/omd]
                                    [--only TEXT] [--draw] [--out docs/omd_cartpole]
    python benchmarks/omd_misspecification.py half_cheetah --seeds 3 --updates 20

makes the runs of a study one after another, in ROOT/STUDY/SETTING/AGENT, and skips those that are
there: stop it at any time (Ctrl-C), start it again, and it goes on where it was; so does one with
more --updates. Several of them may work on disjoint --agents at once. Every run trains its seeds
as one tensor program. With --draw nothing is run: what there is is added to OUT.csv, in place of
shorter runs that are in it, and all of OUT.csv becomes OUT.png and is printed. So the runs may be
made at several times and places.

A seed's final return is the mean of its last LAST evaluations of 10 episodes, also of one that
diverged and kept the policy of before; the interval is that of Student's t over seeds, at 95 %.
`error` is the mean squared distance of the model's next observation from the real one on a batch,
at the end: its mean over seeds, and its median, which runs of before did not measure.
"""

import argparse
import csv
import itertools
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np

import mbrl
from mbrl.errors import DivergenceError
from mbrl.finished_runs import resumed_config
from mbrl.monitoring import draw_chart, write_columns
from mbrl.reporting import mean_interval
from mbrl.signals import Interrupted
from mbrl.types import Chart, Curve, Panel

LAST = 5


class Setting(NamedTuple):
    """One place on an axis of a study."""

    name: str
    axis: str
    value: float
    overrides: tuple[str, ...]


def width(value):
    overrides = (f"algorithm.model_hidden_dim={value}",)
    return Setting(f"width_{value}", "width of the model", value, overrides)


def distractors(value, *overrides):
    overrides = (f"task_args.distractors={value}", *overrides)
    return Setting(f"distractors_{value}", "distractors", value, overrides)


# Well specified, cartpole's are 32 wide and half_cheetah's 256, without distractors.
STUDIES = {
    "cartpole": (
        "configs/omd_cartpole.yaml",
        [*map(width, (1, 2, 3, 4, 8, 32)), *map(distractors, (4, 16))],
    ),
    "half_cheetah": (
        "configs/omd_half_cheetah.yaml",
        [*map(width, (16, 256)), distractors(100, "algorithm.model_hidden_dim=256")],
    ),
}
PLAIN = {"cartpole": "width_32", "half_cheetah": "width_256"}  # has no distractors either
# omd_warm is the ablation of the inner optimiser: it is not begun anew in every update.
AGENTS = {
    "omd": ("algorithm.agent=omd",),
    "mle": ("algorithm.agent=mle",),
    "vep": ("algorithm.agent=vep",),
    "omd_warm": ("algorithm.agent=omd", "algorithm.warm_opt=true"),
}


def train(options):
    file, settings = STUDIES[options.study]
    for setting in settings:
        for agent in options.agents:
            name = f"{setting.name}/{agent}"
            if options.only not in name:
                continue
            print(f"-- {name}", flush=True)
            try:
                carry_on(options, file, [*setting.overrides, *AGENTS[agent]], name)
            except DivergenceError as error:
                print(f"{name}: {error}", flush=True)


def carry_on(options, file, overrides, name):
    """Begin a run, or go on with the one that is there."""
    folder = options.root / options.study / name
    same = {"seeds": options.seeds, "dtype": options.dtype}
    begun = sorted(folder.glob("*/*-seed*"))
    if not begun:
        chosen = {**same, "updates": options.updates}
        overrides = [*overrides, *(f"algorithm.{name}={value}" for name, value in chosen.items())]
        mbrl.run(mbrl.load_config(file, [*overrides, f"output_dir={folder}", "torch_threads=1"]))
        return
    before = resumed_config(begun[0])
    for name, value in same.items():
        found = before.algorithm.get(name, value)
        if found != value:
            raise SystemExit(
                f"error: {begun[0]} has {name}={found}, --{name} says {value}; "
                "choose another --root"
            )
    if len(rows_of(begun[0])) < options.updates:
        changed = before.as_dict()
        changed["algorithm"]["updates"] = options.updates
        mbrl.run(changed, resume=begun[0])


def rows_of(run):
    file = run / "metrics.csv"
    if not file.exists():
        return []
    with file.open() as lines:
        return list(csv.DictReader(lines))


class Found(NamedTuple):
    """What a run has come to."""

    setting: Setting
    agent: str
    steps: int
    returns: np.ndarray  # of the seeds
    error: float
    median_error: float

    @property
    def interval(self):
        """Mean, lower and upper end."""
        return tuple(map(float, mean_interval(self.returns)))


def found_in(options):
    for setting in STUDIES[options.study][1]:
        for agent in AGENTS:
            runs = sorted((options.root / options.study / setting.name / agent).glob("*/*-seed*"))
            rows = rows_of(runs[0]) if runs else []
            if len(rows) < LAST:
                continue
            seeds = [n for n in rows[0] if n.startswith("return_") and n[7:].isdigit()]
            last = np.array([[float(row[n]) for n in seeds] for row in rows[-LAST:]])
            yield Found(
                setting, agent, int(rows[-1]["env_steps"]), last.mean(0), *errors_of(rows[-1])
            )


def errors_of(row):
    """Return mean and median."""
    return float(row["model_error"]), float(row.get("model_error_median", math.nan))


def recorded_in(file, study):
    """Yield what is written in a table of before."""
    settings = {setting.name: setting for setting in STUDIES[study][1]}
    if file.exists():
        with file.open() as lines:
            for row in csv.DictReader(lines):
                returns = np.array([float(row[f"seed_{i}"]) for i in range(int(row["seeds"]))])
                steps, errors = int(row["env_steps"]), errors_of(row)
                yield Found(settings[row["setting"]], row["agent"], steps, returns, *errors)


def merged(*several):
    """Return the longest run of every setting and agent, the later one of equals, in order."""
    best = {}
    for found in itertools.chain(*several):
        key = found.setting.name, found.agent
        if key not in best or found.steps >= best[key].steps:
            best[key] = found
    settings = list(dict.fromkeys(s.name for _, all_of in STUDIES.values() for s in all_of))
    agents = list(AGENTS)
    return sorted(
        best.values(), key=lambda f: (settings.index(f.setting.name), agents.index(f.agent))
    )


def panels_of(options, found):
    plain = PLAIN[options.study]
    for axis in dict.fromkeys(f.setting.axis for f in found):
        curves = []
        for agent in AGENTS:
            here = [f for f in found if f.agent == agent and f.setting.axis == axis]
            if axis == "distractors":
                here += [
                    f._replace(setting=f.setting._replace(value=0))
                    for f in found
                    if f.agent == agent and f.setting.name == plain
                ]
            here.sort(key=lambda f: f.setting.value)
            if here:
                x = np.array([f.setting.value for f in here], dtype=float)
                mean, low, high = np.array([f.interval for f in here]).T
                curves.append(Curve(agent, x, mean, low, high))
        base = 2.0 if axis.startswith("width") else None
        yield Panel("mean over seeds and 95 % interval", axis, "final return", curves, x=base)


def draw(options):
    out = options.out or Path("docs") / f"omd_{options.study}"
    table = out.with_suffix(".csv")
    found = merged(recorded_in(table, options.study), found_in(options))
    if not found:
        raise SystemExit(f"error: no run of {LAST} updates below {options.root / options.study}")
    columns = {
        "setting": [f.setting.name for f in found],
        "agent": [f.agent for f in found],
        "seeds": [len(f.returns) for f in found],
        "env_steps": [f.steps for f in found],
        **{
            name: [f.interval[i] for f in found]
            for i, name in enumerate(("return_mean", "low", "high"))
        },
        "model_error": [f.error for f in found],
        "model_error_median": [f.median_error for f in found],
        **{
            f"seed_{i}": [f.returns[i] if i < len(f.returns) else math.nan for f in found]
            for i in range(max(len(f.returns) for f in found))
        },
    }
    write_columns(columns, table)
    draw_chart(Chart(out.name, list(panels_of(options, found)), columns), out.with_suffix(".png"))
    print(
        f"{'setting':<16}{'agent':<10}seeds    steps   return  interval            error   median"
    )
    for f in found:
        mean, low, high = f.interval
        interval = f"[{low:.1f}, {high:.1f}]"
        print(
            f"{f.setting.name:<16}{f.agent:<10}{len(f.returns):>5}{f.steps:>9}{mean:>9.1f}"
            f"  {interval:<16}{f.error:>7.3g}  {f.median_error:>7.3g}"
        )
    print(f"{out}.png {table}")


def parsed():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", choices=list(STUDIES))
    parser.add_argument("--agents", nargs="+", choices=list(AGENTS))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument("--dtype", choices=["float32", "float64"], default="float32")
    parser.add_argument("--root", type=Path, default=Path("outputs/omd"))
    parser.add_argument("--only", default="", help="a part of SETTING/AGENT")
    parser.add_argument("--draw", action="store_true")
    parser.add_argument("--out", type=Path, help="without a suffix; default: docs/omd_STUDY")
    options = parser.parse_args()
    if options.agents is None:
        options.agents = ["omd", "mle", "vep"] if options.study == "cartpole" else ["omd", "mle"]
    return options


def main():
    options = parsed()
    if options.draw:
        draw(options)
        return
    try:
        train(options)
    except Interrupted as stop:
        raise SystemExit(str(stop)) from None


if __name__ == "__main__":
    main()
