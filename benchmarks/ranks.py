"""Updates a second of one process, and of several ranks that share its batch, each on a core.

    python benchmarks/ranks.py [--ranks 2] [--config-file configs/ant.yaml] [--updates 8]
                               [algorithm.batch=256 ...]

Trains with one rank and with several, in turns, and prints the ratio of their updates a second; the
first update, which warms up, does not count. A rank is bound to one core, with one thread. Wants a
quiet machine with as many cores as ranks.
"""

import argparse
import csv
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BOUND = "--bound"  # how a rank is told from the command


def train_bound(arguments):
    """Be a rank."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(os.environ["LOCAL_RANK"])]})
    from mbrl.cli import main as mbrl_main

    return mbrl_main(arguments)


def seconds_of(ranks, options, overrides):
    """Return the seconds of an update."""
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [
                sys.executable, "-m", "torch.distributed.run", "--standalone",
                "--nproc-per-node", str(ranks), __file__, BOUND,
                "--config-file", str(options.config_file), *overrides,
                f"algorithm.updates={options.updates}", "evaluation.episodes=1",
                "threads=1", "torch_threads=1", f"output_dir={folder}", "name=timed",
            ],
            cwd=ROOT, check=False, capture_output=True, text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        )  # fmt: skip
        if done.returncode:
            raise SystemExit(done.stderr)
        (table,) = Path(folder).glob("timed/*/metrics.csv")
        with table.open() as lines:
            clock = [float(row["wall_s"]) for row in csv.DictReader(lines)]
    return (clock[-1] - clock[0]) / (len(clock) - 1)


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--config-file", type=Path, default=ROOT / "configs" / "ant.yaml")
    parser.add_argument("--updates", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    options, overrides = parser.parse_known_args()
    cores = len(os.sched_getaffinity(0))
    if not 1 <= options.ranks <= cores:
        parser.error(f"--ranks must be at most the number of cores, {cores}, got {options.ranks}")
    if options.updates < 2:
        parser.error(f"--updates must be at least 2, got {options.updates}")
    overrides = overrides or ["algorithm.batch=256"]
    ratios = []
    for _ in range(options.repeats):
        one, several = (seconds_of(ranks, options, overrides) for ranks in (1, options.ranks))
        ratios.append(one / several)
        print(
            f"one rank {1 / one:.2f} updates/s, {options.ranks} ranks {1 / several:.2f}: "
            f"{ratios[-1]:.2f} times",
            flush=True,
        )
    print(f"median {statistics.median(ratios):.2f} times")


if __name__ == "__main__":
    if sys.argv[1:2] == [BOUND]:
        sys.exit(train_bound(sys.argv[2:]))
    main()
