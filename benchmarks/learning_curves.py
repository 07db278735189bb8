"""Learning curves of runs of learned_mpc beside a published one: a picture, a table, numbers.

    python benchmarks/learning_curves.py RUN [RUN ...] [--labels ...] [--published]
                                         [--x iteration|env_steps] [--out docs/nagabandi_curve]

writes OUT.csv and OUT.png and prints what they say. An iteration is an update, counted from 0, and
its return the mean over its episodes. Runs may be unfinished; the mean of several ends where the
first of them does.

--published adds the curve of Holly Grimm's write-up of CS 294-112's homework 4 (Berkeley, fall
2017): the half-cheetah that configs/nagabandi_half_cheetah.yaml learns. It is one run of one seed,
and was read off the plot, to within 10. Its environment steps are those of the homework's settings:
10 episodes of 1000 steps, of random actions before the first iteration and of MPC in each.
"""

import argparse
import csv
import math
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mbrl.monitoring import read_metrics

PUBLISHED = (
    300, 830, 1205, 1230, 1333, 1287, 1362, 1317, 1357, 1417, 1365, 1415, 1393, 1403, 1428,
)  # fmt: skip
STEPS = 10_000  # of the published run, an iteration
EARLY = 2  # the iteration that is looked at for how fast a run learns
LAST = 3  # iterations that are averaged for where it arrives
RETURN = "return_mean"
ERRORS = (
    "one_step_error", "open_loop_error", "validation_one_step_error", "validation_open_loop_error",
)  # fmt: skip
FIXED = ("iteration", "published", "mean")  # columns that no run may be called


class Curve:
    """What was measured in each iteration, {column: [value, ...]}, and how it is drawn."""

    def __init__(self, label, columns, **style):
        self.label, self.columns, self.style = label, columns, style

    @property
    def returns(self):
        return self.columns[RETURN]

    def at(self, iteration):
        return self.returns[iteration] if iteration < len(self.returns) else math.nan


def run_curve(path, label):
    """Return the curve of the folder of a run; a line that is just being written is left out."""
    file = path / "metrics.csv"
    if not file.exists():
        raise SystemExit(f"error: {file}: No such file")
    columns = {name: values.tolist() for name, values in read_metrics(file).items()}
    if not columns:
        raise SystemExit(f"error: {file} has no iteration yet")
    if RETURN not in columns:
        raise SystemExit(f"error: {file} has no column {RETURN!r}, only {', '.join(columns)}")
    return Curve(label, columns, linewidth=1.4, marker="o", markersize=3)


def published_curve():
    steps = [STEPS * (2 + iteration) for iteration in range(len(PUBLISHED))]
    columns = {RETURN: [float(value) for value in PUBLISHED], "env_steps": steps}
    return Curve("published", columns, linewidth=1.6, linestyle="--", color="#666666")


def mean_curve(runs):
    """Return the mean of runs, as far as all of them have come."""
    columns = {}
    for name in (RETURN, "env_steps"):
        together = zip(*(run.columns[name] for run in runs), strict=False)
        columns[name] = [math.fsum(values) / len(runs) for values in together]
    return Curve("mean", columns, linewidth=2.6, color="black")


def write_csv(path, curves):
    """Write a row an iteration, a column a curve; a cell is empty where there is no value."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["iteration", *(curve.label for curve in curves)])
        for iteration in range(max(len(curve.returns) for curve in curves)):
            values = [curve.at(iteration) for curve in curves]
            writer.writerow([iteration, *("" if math.isnan(v) else repr(v) for v in values)])


def figure_of(curves, x):
    """Return the figure; x: iteration or env_steps."""
    figure = Figure(figsize=(7.2, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for curve in curves:
        name = "published (one run, read off its plot)" if curve.label == "published" else None
        across = range(len(curve.returns)) if x == "iteration" else curve.columns[x]
        axes.plot(across, curve.returns, label=name or curve.label, **curve.style)
    axes.set_xlabel("iteration" if x == "iteration" else "environment steps")
    axes.set_ylabel("return, mean over the episodes of an iteration")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(linewidth=0.4, alpha=0.6)
    axes.legend(fontsize=8)
    return figure


def print_returns(curves):
    width = max(len(curve.label) for curve in curves)
    print(f"{'return':<{width}}  iterations  iteration {EARLY}  last {LAST}    best")
    for curve in curves:
        found = curve.returns
        last = math.fsum(found[-LAST:]) / len(found[-LAST:])
        print(
            f"{curve.label:<{width}}  {len(found):10d}  {curve.at(EARLY):11.1f}"
            f"  {last:6.1f}  {max(found):6.1f}"
        )


def print_errors(run):
    names = [name for name in ERRORS if name in run.columns]
    print(f"\nerrors of the model, {run.label}\niteration  {'  '.join(names)}")
    for iteration, values in enumerate(zip(*(run.columns[name] for name in names), strict=True)):
        cells = (f"{v:{len(n)}.4g}" for n, v in zip(names, values, strict=True))
        print(f"{iteration:9d}  {'  '.join(cells)}")


def parsed(arguments):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    parser.add_argument("--labels", nargs="+", help="one a run; their folders' names")
    parser.add_argument("--published", action="store_true")
    parser.add_argument("--x", choices=("iteration", "env_steps"), default="iteration")
    parser.add_argument("--out", type=Path, default=Path("docs/nagabandi_curve"))
    options = parser.parse_args(arguments)
    options.labels = options.labels or [run.resolve().name for run in options.runs]
    if len(options.labels) != len(options.runs):
        parser.error(f"{len(options.runs)} runs and {len(options.labels)} labels")
    taken = [*FIXED, *options.labels]
    if len(set(taken)) < len(taken):
        parser.error(f"labels must differ, from {', '.join(FIXED)} too: {options.labels}")
    return options


def main(arguments=None):
    options = parsed(arguments)
    runs = [run_curve(*one) for one in zip(options.runs, options.labels, strict=True)]
    curves = [published_curve()] if options.published else []
    curves += [*runs, mean_curve(runs)]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    write_csv(options.out.with_name(f"{options.out.name}.csv"), curves)
    drawn = curves if len(runs) > 1 else curves[:-1]  # the mean of one is that one
    picture = options.out.with_name(f"{options.out.name}.png")
    figure_of(drawn, options.x).savefig(picture, dpi=150)
    print_returns(drawn)
    for run in runs:
        print_errors(run)


if __name__ == "__main__":
    main()
