"""iLQR against Adam on the pathwise gradient, at the settings of Model-Based-RL.

The locomotion tasks of MahanFathi/Model-Based-RL: horizon 40, its frame skips, deterministic
trajectory optimisation by Adam (lr 1e-3, GRAD_WEIGHTS average, 5001 updates, mode "Grad") from
small random actions, and iLQR from the same actions. Prints costs (the return, negated) per seed;
of Adam the best of all its iterates counts.

    python benchmarks/original_settings.py [--tasks Hopper ...] [--seeds 3] [--updates 5001]
"""

import argparse
import csv
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import mbrl
from mbrl.planning import ILQR, Variational, make_problem

HORIZON = 40
TASKS = {
    "Hopper": ("mbrl/SmoothHopper-v0", {"frame_skip": 20, "reset_noise_scale": 0.0}),
    "Swimmer": ("Swimmer-v5", {"frame_skip": 10, "reset_noise_scale": 0.0}),
    "HalfCheetah": (
        "HalfCheetah-v5",
        {"frame_skip": 10, "reset_noise_scale": 0.0, "ctrl_cost_weight": 0.01},
    ),
    "Walker2d": ("mbrl/SmoothWalker2d-v0", {"frame_skip": 25, "reset_noise_scale": 0.0}),
}
INITIAL_SD = 0.1
EVERY = 100  # updates of Adam between two rows of the file


def begun(name):
    """Return the problem of a task and its one start."""
    task_id, arguments = TASKS[name]
    task = mbrl.make_task(task_id, **arguments)
    problem = make_problem(task, HORIZON, until_termination=False)
    return problem, task.reset(1, torch.Generator().manual_seed(0))


def solve(planner, problem, state, seed, note):
    """Iterate a planner; return the final cost, iterations and seconds."""
    generator = torch.Generator().manual_seed(seed)
    actions = problem.perturbed(problem.still(1), INITIAL_SD, generator)
    search = planner.begin(problem, state, actions, generator)
    started, done = time.perf_counter(), 0
    while done < planner.iterations and not search.converged:
        search.iterate()
        done += 1
        note(done, search.plan.costs.item())
    return search.plan.costs.item(), done, time.perf_counter() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--methods", nargs="+", choices=("adam", "ilqr"), default=["ilqr", "adam"])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=5001)
    parser.add_argument("--curve", type=Path, help="a CSV file for the costs along the way")
    options = parser.parse_args()
    planners = {
        "ilqr": ILQR(
            iterations=50, regularizations=5, step_lengths=4, proximal=0.03, samples=10, noise=0.2
        ),
        "adam": Variational(
            iterations=options.updates,
            samples=1,
            initial_sd=0.0,
            lr=1e-3,
            weighting="average",
        ),
    }
    rows = []
    print("task          method  seed       cost  iterations  seconds", flush=True)
    for name in options.tasks:
        problem, state = begun(name)
        for method in options.methods:
            for seed in range(options.seeds):

                def note(done, cost, key=(name, method, seed)):
                    if key[1] == "ilqr" or done % EVERY == 0:
                        rows.append((*key, done, cost))

                cost, done, seconds = solve(planners[method], problem, state, seed, note)
                print(
                    f"{name:12}  {method:6}  {seed:4}  {cost:9.2f}  {done:10}  {seconds:7.1f}",
                    flush=True,
                )
    if options.curve:
        with options.curve.open("w", newline="") as file:
            csv.writer(file).writerows([("task", "method", "seed", "iteration", "cost"), *rows])


if __name__ == "__main__":
    main()
