"""Where the rollouts of an update begin."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from mbrl.data import StateReplay
from mbrl.errors import ArgumentError
from mbrl.tasks import Task
from mbrl.types import Start, Trajectory


class ResetStart:
    """The task's own start states.

    Args:
        task: the task.
    """

    record: tuple[str, ...] = ()  # values of the graph that ``note`` needs, where there are such

    def __init__(self, task: Task):
        self._task = task

    def draw(self, batch: int, generator: torch.Generator) -> Start:
        """Return where ``batch`` rollouts begin."""
        return self._task.start(batch, generator)

    def note(self, trajectory: Trajectory, context: Tensor) -> None:
        """See the rollouts of an update, and their contexts [B, n]."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything later draws depend on."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""


class ReplayStart(ResetStart):
    """States that earlier rollouts visited, and some fresh ones.

    Short rollouts then train on states far from the start: every update carries on where earlier
    ones left off. States are remembered with their context, up to the last one in which a row was
    still running; the first update begins with the task's own start states alone.

    Args:
        task: the task.
        size: states that are remembered; the oldest are forgotten first.
        fresh: share of the rollouts that begin with the task's own start states (rounded up).

    Raises:
        ArgumentError: if a number is out of its range, or the task depends on the time within an
            episode, which a remembered state has lost.
    """

    record = ("terminated",)

    def __init__(self, task: Task, *, size: int = 32768, fresh: float = 0.25):
        super().__init__(task)
        if size < 1:
            raise ArgumentError(f"algorithm.start.size must be at least 1, got {size}")
        if not 0 <= fresh <= 1:
            raise ArgumentError(f"algorithm.start.fresh must lie in [0, 1], got {fresh}")
        if task.uses_time:
            raise ArgumentError(
                f"algorithm.start.kind: replay does not fit {task.name}, which depends on the step "
                "index t of an episode: a remembered state has lost it; legal here: reset"
            )
        self._fresh = fresh
        self._replay = StateReplay(size, task.state_size, task.context_size)

    def draw(self, batch: int, generator: torch.Generator) -> Start:
        """Return where ``batch`` rollouts begin, the fresh ones first."""
        fresh = math.ceil(self._fresh * batch) if len(self._replay) else batch
        new = self._task.start(fresh, generator)
        old = self._replay.sample(batch - fresh, generator) if fresh < batch else None
        if old is None:
            return new
        return Start(torch.cat([new.state, old.state]), torch.cat([new.context, old.context]))

    def note(self, trajectory: Trajectory, context: Tensor) -> None:
        """Remember the states in which rows were still running, of each step in turn."""
        ended = trajectory.values.get("terminated")
        last = trajectory.alive[-1]
        alive = torch.cat([trajectory.alive, (last if ended is None else last & ~ended[-1])[None]])
        states = trajectory.states.detach()
        contexts = context.expand(len(states), -1, -1)
        self._replay.add(states[alive], contexts[alive])

    def state_dict(self) -> dict[str, Any]:
        """Return the remembered states."""
        return {"replay": self._replay.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._replay.load_state_dict(state["replay"])


STARTS: dict[str, Callable[..., ResetStart]] = {"reset": ResetStart, "replay": ReplayStart}
