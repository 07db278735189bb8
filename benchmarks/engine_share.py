"""Where the time goes: inside the engine, and what the rest is.

    python benchmarks/engine_share.py [--config-file FILE] [--updates N]
    python benchmarks/engine_share.py --unroll [--config-file FILE] [--batch B] [--horizon T]

Wraps the engine's calls with a clock. Makes updates of the configuration's algorithm; with --unroll
only unrolls its graph, forward and backward to the gradient of its parameters.
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
from mbrl.tasks import Task

DEFAULT = Path(__file__).parent.parent / "configs" / "inverted_pendulum.yaml"
ENGINE = "engine: "  # how the labels begin of what is no overhead
WARM_UP = 3


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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", default=str(DEFAULT))
    parser.add_argument("--updates", type=int, default=20)
    parser.add_argument("--unroll", action="store_true")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--horizon", type=int, default=32)
    options = parser.parse_args()
    config = mbrl.load_config(options.config_file)
    torch.set_num_threads(config.torch_threads)
    task = mbrl.make_task(config.task, threads=config.threads, **config.task_args)
    clock = Clock()
    clock.wrap(Batch, "step", ENGINE + "steps")
    clock.wrap(Batch, "forward", ENGINE + "forward")
    if options.unroll:
        run = unroll_of(config, task, clock, options.batch, options.horizon)
        unit = f"unroll of {options.horizon} steps, batch {options.batch}"
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
