"""Where the time of the main job goes: inside libmujoco, and what the rest is.

    python benchmarks/engine_share.py [--config-file FILE] [--updates N]

Wraps the batch engine's calls with a clock and makes updates of the configuration's algorithm.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from pathlib import Path

import torch
from mujoco.batch import Batch

import mbrl
from mbrl.algorithms import PolicyGradient, Setting
from mbrl.graph import Graph
from mbrl.physics.linearization import Linearizer

DEFAULT = Path(__file__).parent.parent / "configs" / "inverted_pendulum.yaml"


class Clock:
    """Adds up the time inside wrapped functions; a nested one counts for itself alone."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._inner = [0.0]

    def wrap(self, owner: object, name: str, label: str) -> None:
        """Replace ``owner.name`` by a timed version."""
        function = getattr(owner, name)

        def timed(*args, **kwargs):
            self._inner.append(0.0)
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent = time.perf_counter() - start
                self.seconds[label] += spent - self._inner.pop()
                self._inner[-1] += spent

        setattr(owner, name, timed)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config-file", default=str(DEFAULT))
    parser.add_argument("--updates", type=int, default=20)
    options = parser.parse_args()
    config = mbrl.load_config(options.config_file)
    torch.set_num_threads(config.torch_threads)
    task = mbrl.make_task(config.task, threads=config.threads, **config.task_args)
    settings = {key: value for key, value in config.algorithm.items() if key != "kind"}
    generator = torch.Generator().manual_seed(config.seed)
    algorithm = PolicyGradient(Setting(task, config.graph, generator), **settings)
    for _ in range(3):
        algorithm.update()

    clock = Clock()
    clock.wrap(Batch, "step", "libmujoco: steps and perturbed steps")
    clock.wrap(Batch, "forward", "libmujoco: forward")
    clock.wrap(Linearizer, "__call__", "linearisation outside libmujoco (NumPy)")
    clock.wrap(type(task), "reset", "start states (environment resets)")
    clock.wrap(Graph, "unroll", "unrolling the graph (torch, op overhead)")
    clock.wrap(torch.Tensor, "backward", "backward (autograd, matrix products)")
    start = time.perf_counter()
    for _ in range(options.updates):
        algorithm.update()
    total = time.perf_counter() - start
    clock.seconds["optimiser, statistics"] = total - sum(clock.seconds.values())
    print(f"{Path(options.config_file).name}: {1e3 * total / options.updates:.1f} ms per update")
    for label, seconds in sorted(clock.seconds.items(), key=lambda item: -item[1]):
        print(f"  {100 * seconds / total:5.1f} %  {label}")


if __name__ == "__main__":
    main()
