"""The gradient of a rollout's loss: one adjoint sweep against backward through T steps.

    python benchmarks/adjoint.py

Forward and backward of an open-loop rollout, (a) by ``MujocoDynamics`` step by step, whose backward
walks a graph of T ops, and (b) by ``MujocoRollout``. Both linearise the same points by the same
method. Variants alternate; the table gives medians.
"""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

import mbrl

TASKS = ("InvertedPendulum-v5", "HalfCheetah-v5", "Humanoid-v5")
BATCHES = (1, 16, 256)
HORIZONS = (32, 100)
SECONDS = 10.0  # of measuring a variant, about
MOST_REPEATS = 9


def by_steps(dynamics: mbrl.MujocoDynamics) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the rollout that applies the dynamics step by step."""

    def unroll(state: Tensor, actions: Tensor) -> Tensor:
        states = [state]
        for action in actions:
            states.append(dynamics(states[-1], action))
        return torch.stack(states)

    return unroll


def seconds(unroll: Callable[[Tensor, Tensor], Tensor], state: Tensor, actions: Tensor) -> float:
    """Time of one loss and its gradient by all actions."""
    leaf = actions.clone().requires_grad_()
    start = time.perf_counter()
    loss = (unroll(state, leaf) ** 2).sum() + (leaf**2).sum()
    torch.autograd.grad(loss, leaf)
    return time.perf_counter() - start


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    print(f"{'task':22}{'batch':>6}{'steps':>6}{'by steps ms':>13}{'sweep ms':>10}{'ratio':>7}")
    for name, batch, steps in itertools.product(TASKS, BATCHES, HORIZONS):
        task = mbrl.make_task(name)
        generator = torch.Generator().manual_seed(0)
        state = task.reset(batch, generator)
        low, high = task.action_low, task.action_high
        noise = torch.rand(steps, batch, task.action_size, generator=generator, dtype=torch.float64)
        actions = low + (high - low) * (0.4 + 0.2 * noise)
        rollout = mbrl.MujocoRollout(task.simulator)
        variants: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
            by_steps(mbrl.MujocoDynamics(task.simulator)),
            lambda x, u, rollout=rollout: rollout(x, u).states,
        )
        first = [seconds(variant, state, actions) for variant in variants]  # allocates
        repeats = max(2, min(MOST_REPEATS, int(SECONDS / max(first))))
        rounds = [[seconds(v, state, actions) for v in variants] for _ in range(repeats)]
        a, b = (1e3 * statistics.median(times) for times in zip(*rounds, strict=True))
        print(f"{name:22}{batch:6}{steps:6}{a:13.1f}{b:10.1f}{a / b:7.2f}", flush=True)


if __name__ == "__main__":
    main()
