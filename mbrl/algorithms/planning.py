"""What the algorithms that plan have in common."""

from __future__ import annotations

import copy
import dataclasses
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from mbrl.algorithms.algorithm import Actor, Setting
from mbrl.errors import ConfigError
from mbrl.graph import GraphPolicy
from mbrl.nn import load_state_dynamics
from mbrl.planning import Planner, Policy, Problem, SamplingPlanner
from mbrl.ranks import Ranks
from mbrl.tasks import Task


def guide(setting: Setting, run: str | None, key: str) -> Policy | None:
    """Return the policy of another run as a function of states, for planners to start from.

    Args:
        setting: of the algorithm that asks.
        run: the folder of the run; None: there is none.
        key: the configuration key it came from, for messages.

    Raises:
        ConfigError: if it cannot act on this task.
    """
    if run is None:
        return None
    actor = setting.load_policy(run)
    if getattr(actor, "on_states", False):
        raise ConfigError(f"{key}: {run} is a run of a planner; legal: a run with a policy")
    return _Guide(setting.task, cast(Actor, actor))


def learned(task: Task, run: str | None, key: str) -> nn.Module | None:
    """Return the model of another run in the place of a task's dynamics, for planners.

    Args:
        task: what is planned for.
        run: the folder of the run; None: there is none.
        key: the configuration key it came from, for messages.

    Raises:
        ArgumentError: if there is no such run, or its model does not fit the task.
        CheckpointError: if it has no undamaged checkpoint.
    """
    if run is None:
        return None
    return load_state_dynamics(run, task.state_size, task.action_size, where=key)


def shared(problem: Problem, planner: Planner, ranks: Ranks, *, timed: bool = False) -> Problem:
    """Return a problem whose candidates are shared by ranks.

    Args:
        problem: what is planned.
        planner: by what.
        ranks: those of the setting.
        timed: whether planning ends by the clock.

    Raises:
        ConfigError: if there are several, and the planner has no candidates to share, or clocks
            would part the ranks.
    """
    if ranks.size > 1 and not isinstance(planner, SamplingPlanner):
        raise ConfigError(
            f"algorithm.planner.kind: {type(planner).__name__} runs in one process, and there are "
            f"{ranks.size}; legal under torchrun: planners that sample, such as icem"
        )
    if ranks.size > 1 and timed:
        raise ConfigError("algorithm.seconds: the clocks of several ranks differ; legal: null")
    return dataclasses.replace(problem, ranks=ranks)


class _Guide:
    """A policy that observes states for itself; of its past it knows the time alone."""

    def __init__(self, task: Task, actor: Actor):
        self._task, self._actor = task, actor

    def __call__(self, states: Tensor, t: int, context: Tensor | None) -> Tensor:
        with torch.no_grad():
            seen = self._task.observe(states, t=t, context=context)
        actor = copy.deepcopy(self._actor)
        if isinstance(actor, GraphPolicy):
            actor.reset(t)
        else:
            actor.reset()
        return torch.from_numpy(np.asarray(actor.act(seen.numpy())))
