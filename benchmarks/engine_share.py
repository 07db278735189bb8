"""Where the time goes: inside the engine, and what the rest is.

    python benchmarks/engine_share.py [--config-file FILE] [--updates N]
    python benchmarks/engine_share.py --unroll [--config-file FILE] [--batch B] [--horizon T]
    python benchmarks/engine_share.py --ilqr [--config-file FILE] [--horizon T]

Wraps the engine's calls with a clock. Makes updates of the configuration's algorithm; with --unroll
only unrolls its graph, forward and backward to the gradient of its parameters; with --ilqr makes
iterations of iLQR from one start, on the configuration's costs.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import torch
from mujoco.batch import Batch

import mbrl
from mbrl.algorithms import PolicyGradient, Setting
from mbrl.config import Config
from mbrl.graph import Graph
from mbrl.graph.nodes import DynamicsNode, Observe, PolicyNode, Reward, Terminate
from mbrl.physics.linearization import Linearizer
from mbrl.physics.sensing import Sensing
from mbrl.planning import ILQR, ilqr_search, make_problem
from mbrl.planning.ilqr_search import ILQRSearch
from mbrl.tasks import Task

DEFAULT = Path(__file__).parent.parent / "configs" / "inverted_pendulum.yaml"
ENGINE = "engine: "  # how the labels begin of what is no overhead
WARM_UP = 3
INITIAL_SD = 0.1  # of iLQR's first actions


class Clock:
    """Adds up the time inside wrapped functions; a nested one counts for itself alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = [0.0]
        self._whole = False

    def wrap(self, owner: object, name: str, label: str, *, whole: bool = False) -> None:
        """Replace ``owner.name`` by a timed version; ``whole``: all that it calls is its own."""
        function = getattr(owner, name)

        def timed(*args, **kwargs):
            if self._whole:
                return function(*args, **kwargs)
            self._whole = whole
            self._inner.append(0.0)
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent = time.perf_counter() - start
                self.seconds[label] += spent - self._inner.pop()
                self._inner[-1] += spent
                self._whole = False

        setattr(owner, name, timed)


def update_of(config: Config, task: Task, clock: Clock) -> Callable[[], object]:
    """Return an update of the configuration's algorithm."""
    settings = {key: value for key, value in config.algorithm.items() if key != "kind"}
    generator = torch.Generator().manual_seed(config.seed)
    algorithm = PolicyGradient(Setting(task, config.graph, generator), **settings)
    clock.wrap(Linearizer, "__call__", "linearisation outside libmujoco (NumPy)")
    clock.wrap(type(task), "reset", "start states (environment resets)")
    clock.wrap(Graph, "unroll", "unrolling the graph (torch, op overhead)")
    clock.wrap(torch.autograd, "grad", "backward (autograd, matrix products)")
    return algorithm.update


def unroll_of(
    config: Config, task: Task, clock: Clock, batch: int, horizon: int
) -> Callable[[], object]:
    """Return one unroll of the configuration's graph and its gradient."""
    generator = torch.Generator().manual_seed(config.seed)
    graph = mbrl.build_graph(config.graph, task, generator=generator)
    start = task.start(batch, generator)

    def unroll() -> None:
        trajectory = graph.unroll(start.state, horizon, generator=generator, context=start.context)
        trajectory.rewards.sum(0).mean().backward()
        graph.zero_grad()

    clock.wrap(Linearizer, "__call__", ENGINE + "linearisation", whole=True)
    for node, label in (
        (Observe, "observe"),
        (PolicyNode, "policy"),
        (DynamicsNode, "dynamics node: checks, copies, the op"),
        (Reward, "reward"),
        (Terminate, "terminate"),
    ):
        clock.wrap(node, "forward", label)
    clock.wrap(Graph, "unroll", "unrolling: schedule, carries, stacks")
    clock.wrap(torch.Tensor, "backward", "backward: autograd, matrix products")
    return unroll


def iteration_of(config: Config, task: Task, clock: Clock, horizon: int) -> Callable[[], object]:
    """Return an iteration of iLQR from one state, with its default options."""
    generator = torch.Generator().manual_seed(config.seed)
    costs = {key: config.algorithm[key] for key in ("cost", "terminal")}
    problem = make_problem(task, horizon, **costs)
    state = task.start(1, generator).state
    start = problem.perturbed(problem.still(1), INITIAL_SD, generator)
    search = ILQR().begin(problem, state, start, generator)

    def iterate() -> None:
        nonlocal search
        if search.converged:
            search = ILQR().begin(problem, state, start, generator)
        search.iterate()

    clock.wrap(Linearizer, "__call__", ENGINE + "linearisation", whole=True)
    clock.wrap(Sensing, "values", ENGINE + "measurements", whole=True)
    clock.wrap(Sensing, "linearize", ENGINE + "linearisation of measurements", whole=True)
    clock.wrap(ilqr_search, "backward_pass", "backward pass (Riccati, box QPs)")
    clock.wrap(ILQRSearch, "_linearize", "quadratic models of costs (torch, NumPy)")
    clock.wrap(ILQRSearch, "_follow", "candidates: feedback, costs, acceptance")
    return iterate


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", default=str(DEFAULT))
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--unroll", action="store_true")
    parser.add_argument("--ilqr", action="store_true")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--horizon", type=int, help="default: 32, with --ilqr 100")
    options = parser.parse_args()
    config = mbrl.load_config(options.config_file)
    torch.set_num_threads(config.torch_threads)
    task = mbrl.make_task(config.task, threads=config.threads, **config.task_args)
    clock = Clock()
    clock.wrap(Batch, "step", ENGINE + "steps")
    clock.wrap(Batch, "forward", ENGINE + "forward")
    if options.ilqr:
        horizon = options.horizon or 100
        run = iteration_of(config, task, clock, horizon)
        unit = f"iteration of iLQR, horizon {horizon}, {task.simulator.threads} threads"
    elif options.unroll:
        horizon = options.horizon or 32
        run = unroll_of(config, task, clock, options.batch, horizon)
        unit = f"unroll of {horizon} steps, batch {options.batch}"
    else:
        run, unit = update_of(config, task, clock), "update"
    for _ in range(WARM_UP):
        run()
    clock.seconds.clear()
    start = time.perf_counter()
    for _ in range(options.updates):
        run()
    total = time.perf_counter() - start
    clock.seconds["everything else"] = total - sum(clock.seconds.values())
    print(f"{Path(options.config_file).name}: {1e3 * total / options.updates:.1f} ms per {unit}")
    for label, seconds in sorted(clock.seconds.items(), key=lambda item: -item[1]):
        print(
            f"  {1e3 * seconds / options.updates:7.2f} ms  {100 * seconds / total:5.1f} %  {label}"
        )
    outside = sum(s for label, s in clock.seconds.items() if not label.startswith(ENGINE))
    print(f"  outside the engine: {100 * outside / total:.1f} %")


if __name__ == "__main__":
    main()
