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

TASKS = (
    "InvertedPendulum InvertedDoublePendulum HalfCheetah Hopper Swimmer Walker2d Ant Humanoid "
    "Reacher Pusher HumanoidStandup"
)
HEADER = ("task", "reward", "value: median", "worst", "gradient: median", "worst")
ROW = "{:24}{:>10}{:>15}{:>9}{:>18}{:>9}"


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


def measured(task: mbrl.tasks.Task, count: int) -> list[str]:
    """Return the columns of a task."""
    if not task.has_reward_formula:
        return ["own step", "", "", "", ""]
    state, action = (x.requires_grad_() for x in visited(task, count))
    own = task.advance(state, action).reward
    ours = task.reward(state, action, mbrl.MujocoDynamics(task.simulator)(state, action))
    value = (ours - own).detach().abs()
    columns = ["formula", f"{value.median():.0e}", f"{value.max():.0e}"]
    if not ours.requires_grad:
        return [*columns, "none", ""]
    theirs = gradients(own, state, action)
    error = (gradients(ours, state, action) - theirs).norm(dim=1)
    error = error / theirs.norm(dim=1).clamp(min=1)
    return [*columns, f"{error.median():.0e}", f"{error.max():.0e}"]


def main() -> None:
    """Print the table."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    print(ROW.format(*HEADER))
    for name in TASKS.split():
        print(ROW.format(name, *measured(mbrl.make_task(f"{name}-v5"), count)))


if __name__ == "__main__":
    main()
