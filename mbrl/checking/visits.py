"""States and controls that a task meets before any training."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from mbrl.errors import TaskError
from mbrl.graph import Graph
from mbrl.physics import bounds
from mbrl.tasks import Task
from mbrl.types import Array

_EPISODES = 8  # of each kind
_LONGEST = 200  # steps of an episode that are looked at


class Visits(NamedTuple):
    """States [n, nx] and controls [n, nu] along episodes."""

    states: Array  # (n, nx)
    ctrls: Array  # (n, nu)
    by_policy: int  # the first so many rows are the policy's, the others of random controls
    known: bool  # controls are what the actions came to; else drawn at random, the task hides them


def visits(graph: Graph, count: int, generator: torch.Generator) -> Visits:
    """Sample states along episodes of a graph's policy, and along others under random actions.

    Args:
        graph: the computation graph, trained or not.
        count: states to return; fewer if the episodes are shorter.
        generator: draws starts, noise of the policy, actions and the sample.

    Raises:
        TaskError: if the task has no simulator.
        DivergenceError: if the physics diverge.
    """
    task = graph.task
    if task.simulator is None:
        raise TaskError(f"{task.name} has no MuJoCo simulator: there is no physics to check")
    horizon = min(task.max_episode_steps or _LONGEST, _LONGEST)
    half = count // 2
    with torch.no_grad():
        chosen = _sample(*_by_policy(graph, horizon, generator), half, generator)
        drawn = _sample(*_at_random(task, horizon, generator), count - half, generator)
        applied = [task.controls(action) for _, action in (chosen, drawn)]
    states = torch.cat([chosen[0], drawn[0]])
    known = [ctrl for ctrl in applied if ctrl is not None]
    if known:
        ctrls = torch.cat(known)
    else:
        low, high = (
            torch.from_numpy(bound[task.simulator.spec.na :])
            for bound in bounds(task.simulator.model)
        )
        ctrls = _uniform(low, high, len(states), generator)
    return Visits(states.numpy(), ctrls.numpy(), len(chosen[0]), bool(known))


def _by_policy(graph: Graph, horizon: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return all states and actions of episodes, [n, nx] and [n, nu]."""
    start = graph.task.start(_EPISODES, generator)
    met = graph.unroll(start.state, horizon, generator=generator, context=start.context)
    return met.states[:-1][met.alive], met.actions[met.alive]


def _at_random(task: Task, horizon: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    start = task.start(_EPISODES, generator)
    state, alive = start.state, torch.ones(_EPISODES, dtype=torch.bool)
    states, actions = [], []
    for t in range(horizon):
        action = _uniform(task.action_low, task.action_high, len(state), generator)
        states.append(state[alive])
        actions.append(action[alive])
        taken = task.step(state, action, t=t, context=start.context)
        alive = alive & ~taken.terminated
        if not alive.any():
            break
        state = torch.where(alive[:, None], taken.next_state, state)
    return torch.cat(states), torch.cat(actions)


def _sample(
    states: Tensor, actions: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    rows = torch.randperm(len(states), generator=generator)[:count]
    return states[rows], actions[rows]


def _uniform(low: Tensor, high: Tensor, rows: int, generator: torch.Generator) -> Tensor:
    """Draw [rows, n] between bounds; what is unbounded on a side reaches to -1 or 1."""
    low = torch.where(low.isfinite(), low, (high - 2.0).clamp(max=-1.0))
    high = torch.where(high.isfinite(), high, (low + 2.0).clamp(min=1.0))
    share = torch.rand(rows, len(low), generator=generator, dtype=torch.float64)
    return low + (high - low) * share
