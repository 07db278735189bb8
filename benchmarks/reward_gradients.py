"""How each stock task's reward is differentiated, and how far the formula is from the step.

Along random episodes, from set states: the torch formula against the reward that the environment's
own step returns, and the total derivatives of both with respect to state and action, relative to
the larger of 1 and the norm of the latter.

    python benchmarks/reward_gradients.py [states per task]
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor

import mbrl

TASKS = [
    "InvertedPendulum",
    "InvertedDoublePendulum",
    "HalfCheetah",
    "Hopper",
    "Swimmer",
    "Walker2d",
    "Ant",
    "Humanoid",
    "Reacher",
    "Pusher",
    "HumanoidStandup",
]

HEADER = f"{'task':24}{'reward':>12}{'value: median':>15}{'worst':>9}{'gradient: median':>18}{'worst':>9}"


def visited(task: mbrl.tasks.Task, count: int) -> tuple[Tensor, Tensor]:
    """Return states along random episodes of 50 steps, and random actions."""
    generator = torch.Generator().manual_seed(0)
    batch = -(-count // 50)
    state, states, actions = task.reset(batch, generator), [], []
    low, high = task.action_low, task.action_high
    for _ in range(50):
        share = torch.rand(batch, task.action_size, generator=generator, dtype=torch.float64)
        states.append(state)
        actions.append(low + (high - low) * share)
        state = torch.from_numpy(task.simulator.step(state.numpy(), actions[-1].numpy()))
    return torch.cat(states)[:count], torch.cat(actions)[:count]


def gradients(reward: Tensor, *inputs: Tensor) -> Tensor:
    """Return d reward / d inputs, [B, nx + nu]; zero where there is none."""
    found = torch.autograd.grad(reward.sum(), inputs, allow_unused=True)
    parts = [torch.zeros_like(x) if g is None else g for g, x in zip(found, inputs, strict=True)]
    return torch.cat(parts, dim=1)


def main() -> None:
    """Print the table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    print(HEADER)
    for name in TASKS:
        task = mbrl.make_task(f"{name}-v5")
        if not task.has_reward_formula:
            print(f"{name:24}{'own step':>12}")
            continue
        state, action = (x.requires_grad_() for x in visited(task, count))
        own = task.advance(state, action).reward
        following = mbrl.MujocoDynamics(task.simulator)(state, action)
        ours = task.reward(state, action, following)
        value = (ours - own).detach().abs()
        if not ours.requires_grad:
            print(f"{name:24}{'formula':>12}{value.median():15.0e}{value.max():9.0e}{'none':>18}")
            continue
        theirs = gradients(own, state, action)
        error = (gradients(ours, state, action) - theirs).norm(dim=1)
        error = error / theirs.norm(dim=1).clamp(min=1)
        print(
            f"{name:24}{'formula':>12}{value.median():15.0e}{value.max():9.0e}"
            f"{error.median():18.0e}{error.max():9.0e}"
        )


if __name__ == "__main__":
    main()
