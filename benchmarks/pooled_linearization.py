"""Why Jacobians are computed in backward, for many steps at once: the alternatives, timed.

    python benchmarks/pooled_linearization.py

One unroll and its backward, with the linearisations (a) pooled over all saved steps at the first
backward, as ``MujocoDynamics`` does it, and (b) made step by step as backward asks for them, which
costs what linearising in forward would. Variants alternate; the table gives medians.
"""

from __future__ import annotations

import statistics
import time

import torch

import mbrl

CASES = [
    ("InvertedPendulum-v5", 4, 80),
    ("InvertedPendulum-v5", 64, 50),
    ("HalfCheetah-v5", 4, 32),
    ("HalfCheetah-v5", 64, 32),
]
REPEATS = 5


def seconds(dynamics: torch.nn.Module, state: torch.Tensor, horizon: int, width: int) -> float:
    """Time of one unroll of ``horizon`` steps under a constant action, and its backward."""
    action = torch.full((len(state), width), 0.1, dtype=torch.float64, requires_grad=True)
    start = time.perf_counter()
    for _ in range(horizon):
        state = dynamics(state, action)
    state.sum().backward()
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(f"{'task':24}{'batch':>6}{'steps':>6}{'pooled ms':>11}{'per step ms':>13}{'ratio':>7}")
    for name, batch, horizon in CASES:
        task = mbrl.make_task(name)
        state = task.reset(batch, torch.Generator().manual_seed(0))
        pooled, single = (mbrl.MujocoDynamics(task.simulator) for _ in range(2))
        single.op.sweep.record = lambda *_: None  # nothing to take along
        times: dict[str, list[float]] = {"pooled": [], "single": []}
        for repeat in range(REPEATS + 1):
            for label, dynamics in (("pooled", pooled), ("single", single)):
                spent = seconds(dynamics, state, horizon, task.action_size)
                if repeat:  # the first allocates
                    times[label].append(spent)
        a, b = (1e3 * statistics.median(times[label]) for label in ("pooled", "single"))
        print(f"{name:24}{batch:6}{horizon:6}{a:11.1f}{b:13.1f}{b / a:7.2f}")


if __name__ == "__main__":
    main()
