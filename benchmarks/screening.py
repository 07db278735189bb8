"""What random shooting loses by a sketch in eight bits, and what time it saves.

    python benchmarks/screening.py RUN [--finalists F ...] [--steps N] [--threads K]

Plans with the model that a run of configs/nagabandi_half_cheetah.yaml has learned, from the states
of its task that the full search leads to: at each, the same 1000 sequences of 15 actions for ten
cheetahs are rolled out in full, and by F finalists of the sketch. "same" is the share of plans that
are the full search's; "regret" how much more the plan costs, on average, in standard deviations of
the candidates' costs (by which the best of 1000 lies some 3 below their mean).
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

import mbrl
from mbrl.nn import load_dynamics
from mbrl.planning import Problem, learned_model, observed_problem

EPISODES, SAMPLES, HORIZON = 10, 1000, 15


def drawn(problem: Problem, generator: torch.Generator) -> torch.Tensor:
    """Return sequences as random shooting draws them, [T, K, B, nu]."""
    shape = HORIZON, SAMPLES, EPISODES, problem.action_size
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    return problem.low + (problem.high - problem.low) * uniform


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--finalists", type=int, nargs="+", default=[1, 10, 50, 200])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    task = mbrl.make_task("mbrl/HalfCheetahTorso-v0")
    problem = observed_problem(task, HORIZON, learned_model(load_dynamics(options.run)))
    generator = torch.Generator().manual_seed(0)
    state = task.start(EPISODES, generator).state
    same: dict[int, list[float]] = {count: [] for count in options.finalists}
    regret: dict[int, list[float]] = {count: [] for count in options.finalists}
    times: dict[int, list[float]] = {count: [] for count in (0, *options.finalists)}
    for _ in range(options.steps):
        observed = task.observe(state)
        actions = drawn(problem, generator)
        begun = time.perf_counter()
        costs, winner, _ = problem.compete(observed, actions)
        times[0].append(time.perf_counter() - begun)
        for count in options.finalists:
            begun = time.perf_counter()
            screened, place, _ = problem.compete(observed, actions, count)
            times[count].append(time.perf_counter() - begun)
            same[count].append(float((place == winner).double().mean()))
            gap = (screened.amin(0) - costs.amin(0)) / costs.std(0)
            regret[count].append(float(gap.mean()))
        state = task.step(state, actions[0, winner, torch.arange(EPISODES)]).next_state
    print(f"{'finalists':>10}{'same':>8}{'regret':>9}{'time of the full search':>26}")
    for count in options.finalists:
        ratio = statistics.median(a / b for a, b in zip(times[count], times[0], strict=True))
        print(
            f"{count:>10}{statistics.mean(same[count]):>8.2f}{statistics.mean(regret[count]):>9.4f}"
            f"{ratio:>26.2f}"
        )


if __name__ == "__main__":
    main()
