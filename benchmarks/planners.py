"""A leaderboard of planners: cost, success, planning rate and engine steps on every task.

Runs MPC (or plans, --kind trajectory_optimization) of each planner on each task of
configs/planning, one episode a seed in the real Gymnasium environment, and prints means with 95 %
intervals: Student's t for costs, Wilson's for success. Costs are returns, negated. A step is one
control step of the engine; a Jacobian counts as what differences would take, ndx + nu + 1 steps.

    python benchmarks/planners.py [--tasks cartpole ...] [--planners ilqr icem ...] [--seeds 5]
"""

import argparse
import csv
import math
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import torch
import yaml

import mbrl
from mbrl.finished_runs import evaluate_actor, evaluation_seed, evaluation_task, made_algorithm
from mbrl.registry import PLANNERS

FOLDER = Path(__file__).resolve().parents[1] / "configs" / "planning"
TASKS = sorted(file.stem for file in FOLDER.glob("*.yaml") if not file.stem.endswith("_plan"))
# Two-sided 97.5 % quantiles of Student's t, by degrees of freedom.
STUDENT = (math.nan, 12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
NORMAL = 1.96


def configuration(task_name, kind):
    """Return the file of a task; one of its own for plans, if there is one."""
    plan = FOLDER / f"{task_name}_plan.yaml"
    return (
        plan
        if kind == "trajectory_optimization" and plan.exists()
        else FOLDER / f"{task_name}.yaml"
    )


def overrides(planner, file):
    """Return what chooses a planner: the options shipped for it, else its own defaults."""
    kind = f"algorithm.planner={{kind:{planner}}}"
    if "planner:" not in str(yaml.safe_load(file.read_text()).get("defaults", "")).replace("'", ""):
        same = mbrl.load_config(file).algorithm["planner"]["kind"] == planner
        return [] if same else [kind]
    name = f"plan/{planner}" if file.stem.endswith("_plan") else planner
    shipped = (FOLDER / "planner" / f"{name}.yaml").exists()
    return [f"planner={name}"] if shipped else ["~planner", kind]


def episode(task_name, planner, seed, kind, more):
    """Run one episode; return a row of measurements."""
    file = configuration(task_name, kind)
    given = [f"seed={seed}", f"algorithm.kind={kind}", *overrides(planner, file), *more]
    config = mbrl.load_config(file, given)
    generator = torch.Generator().manual_seed(seed)
    task = mbrl.make_task(config.task, threads=config.threads, **config.task_args)
    algorithm = made_algorithm(config, task, generator)
    started = time.perf_counter()
    if kind == "trajectory_optimization":
        done = 0
        while done < algorithm.updates:
            algorithm.update()
            done += 1
    actor = algorithm.actor()
    problem = actor.problem
    model, before = problem.model, problem.effort()
    found = evaluate_actor(evaluation_task(config) or task, actor, 1, evaluation_seed(config))
    after = problem.effort()
    spent = after if kind == "trajectory_optimization" else {k: after[k] - before[k] for k in after}
    price = model.tangent_size + problem.action_size + 1
    return {
        "task": task_name,
        "planner": planner,
        "seed": seed,
        "cost": -float(found.returns[0]),
        "success": math.nan if found.successes is None else float(found.successes[0]),
        "planning_hz": actor.measured()["planning_hz"],
        "engine_steps": spent["control_steps"] + price * spent["linearizations"],
        "seconds": time.perf_counter() - started,
    }


def mean_interval(values):
    """Return mean and half width of its 95 % interval."""
    n = len(values)
    if n < 2:
        return float(np.mean(values)), math.nan
    quantile = STUDENT[n - 1] if n <= len(STUDENT) else NORMAL
    return float(np.mean(values)), quantile * float(np.std(values, ddof=1)) / math.sqrt(n)


def wilson(successes):
    """Return Wilson's 95 % interval of a share."""
    n, share, z = len(successes), float(np.mean(successes)), NORMAL
    center = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, center - half), min(1.0, center + half)


def line(task, planner, rows):
    """Return one line of the table."""
    cost, half = mean_interval([row["cost"] for row in rows])
    successes = [row["success"] for row in rows]
    low, high = wilson(successes)
    rate = np.mean([row["planning_hz"] for row in rows])
    steps = np.mean([row["engine_steps"] for row in rows])
    return (
        f"{task:18} {planner:20} {cost:11.2f} +- {half:<9.2f} {np.mean(successes):5.2f} "
        f"[{low:.2f}, {high:.2f}] {rate:8.1f} {steps:12.3g}"
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--planners", nargs="+", choices=list(PLANNERS), default=list(PLANNERS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--kind", choices=("mpc", "trajectory_optimization"), default="mpc")
    parser.add_argument("--csv", type=Path, help="where every episode goes, one row each")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of every configuration")
    options = parser.parse_intermixed_args()
    every = []
    head = f"{'task':18} {'planner':20} {'cost':>11}    {'95 %':9} success [95 %]"
    print(f"{head}      plans/s engine steps")
    for task in options.tasks:
        for planner in options.planners:
            rows = [
                episode(task, planner, seed, options.kind, options.overrides)
                for seed in range(options.seeds)
            ]
            every += rows
            print(line(task, planner, rows), flush=True)
            if options.csv:
                with options.csv.open("w", newline="") as file:
                    writer = csv.DictWriter(file, every[0].keys())
                    writer.writeheader()
                    writer.writerows(every)


if __name__ == "__main__":
    main()
