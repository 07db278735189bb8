"""Tracking a recorded motion with an arm of six muscles: iLQR against CMA-ES and others.

The problem of ``configs/planning/muscle_arm.yaml``, planned once over its whole length. Every seed
draws a start, the same for all planners; all begin with muscles at rest. A planner ends before it
has spent more than the budget of control steps, to which the Jacobians of a step add the
ndx + nu + 1 of one-sided differences: an upper bound, ours are cheaper. Planners that sample have
the best options that were found for this problem: of CMA-ES, 10 to 50 knots, linear and cubic,
step sizes from 0.02 to 0.4, populations of 10 and the default, full and diagonal covariances.

    python benchmarks/muscle_arm.py [--planners ilqr cma_es ...] [--seeds 5] [--budget 60000]

Prints means over the seeds with 95 % bootstrap intervals of the cost and of the root mean square of
the joints' errors over the motion in degrees, the control steps spent, and seconds.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import torch

import mbrl
from mbrl.planning import CMAES, ICEM, ILQR, MPPI, GradientShooting, make_problem
from mbrl.tasks import ResidualCost

ROOT = Path(__file__).resolve().parents[1]
CONFIG = ROOT / "configs" / "planning" / "muscle_arm.yaml"
MANY = 10**9  # iterations: the budget ends the search
PLANNERS = {
    "ilqr": ILQR(iterations=MANY),
    "cma_es": CMAES(knots=14, noise=0.03, iterations=MANY),
    "cma_es_diagonal": CMAES(knots=14, noise=0.03, diagonal=True, iterations=MANY),
    "gradient_shooting": GradientShooting(knots=50, iterations=MANY),
    "icem": ICEM(noise=0.1, iterations=MANY),
    "mppi": MPPI(knots=20, samples=16, noise=0.03, iterations=MANY),
}


class Outcome(NamedTuple):
    """What a planner has reached, and what it has spent."""

    cost: float
    error: float  # degrees
    steps: float
    seconds: float


class Tracking:
    """The problem of the configuration.

    Attributes:
        task: what is to be done.
        problem: over the whole motion.
    """

    def __init__(self):
        config = mbrl.load_config(CONFIG)
        self.task = mbrl.make_task(config.task, threads=1, **config.task_args)
        self.problem = make_problem(self.task, config.algorithm["horizon"])
        recording = config.task_args["cost"]["track"]["residual"]["recording"]
        track = {"residual": {"kind": "track", "recording": recording}}
        self._errors = ResidualCost(self.task.simulator, {"track": track})

    def spent(self):
        """Return the control steps so far, those of Jacobians by differences among them."""
        model, spec = self.problem.model, self.task.simulator.spec
        return model.control_steps + (spec.ndx + spec.nu + 1) * model.linearizations

    def error(self, plan):
        """Return the root mean square of the joints' errors along a plan [degrees]."""
        t = torch.arange(self.problem.horizon)
        errors = self._errors.residuals(plan.states[1:, 0], plan.actions[:, 0], t)
        return math.degrees(errors.square().mean().sqrt())

    def solve(self, planner, seed, budget):
        """Search until convergence or the budget; the iteration that exceeds it does not count."""
        generator = torch.Generator().manual_seed(seed)
        state, before = self.task.reset(1, generator), self.spent()
        began = time.perf_counter()
        search = planner.begin(self.problem, state, self.problem.still(1), generator)
        steps, plan = self.spent() - before, search.plan
        while not search.converged:
            search.iterate()
            if self.spent() - before > budget:
                break
            steps, plan = self.spent() - before, search.plan
        seconds = time.perf_counter() - began
        return Outcome(plan.costs.item(), self.error(plan), steps, seconds)


def mean_and_interval(values, resamples=10_000):
    """Return the mean, and the 95 % interval of its bootstrap."""
    values = torch.tensor(values, dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(values), (resamples, len(values)), generator=generator)
    low, high = values[drawn].mean(1).quantile(values.new_tensor([0.025, 0.975]))
    return values.mean().item(), low.item(), high.item()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--planners", nargs="+", choices=PLANNERS, default=list(PLANNERS))
    parser.add_argument("--seeds", type=int, default=5, help="of each planner")
    parser.add_argument("--budget", type=int, default=60_000, help="control steps")
    options = parser.parse_args()
    torch.set_num_threads(1)
    tracking = Tracking()
    print(f"{'planner':18}{'cost':>25}{'error, degrees':>25}{'steps':>9}{'seconds':>9}")
    for name in options.planners:
        outcomes = [
            tracking.solve(PLANNERS[name], seed, options.budget) for seed in range(options.seeds)
        ]
        costs, errors, steps, seconds = zip(*outcomes, strict=True)
        cells = ["{:.3g} [{:.3g}, {:.3g}]".format(*mean_and_interval(v)) for v in (costs, errors)]
        spent = [sum(values) / len(values) for values in (steps, seconds)]
        print(f"{name:18}{cells[0]:>25}{cells[1]:>25}{spent[0]:9.0f}{spent[1]:9.1f}", flush=True)


if __name__ == "__main__":
    main()
