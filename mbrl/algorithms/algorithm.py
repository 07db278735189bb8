"""What the runner asks of an algorithm."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch

from mbrl.tasks import Task
from mbrl.types import Array


class Setting(NamedTuple):
    """What an algorithm is given, beside its own options."""

    task: Task
    graph: Mapping[str, Any]  # a ``graph:`` section, for those that use one
    generator: torch.Generator  # all randomness, initial weights included


class Actor(Protocol):
    """What is evaluated: observations in, actions out."""

    def act(self, observation: Array) -> Array:
        """[B, n_obs] -> [B, nu], without noise."""

    def reset(self) -> None:
        """Begin new episodes."""


class Algorithm(Protocol):
    """A training loop cut open: the runner calls ``update`` and looks after everything else."""

    updates: int  # how many there are to be

    def update(self) -> dict[str, float]:
        """Make one update.

        Returns:
            What was measured; ``env_steps`` is the number of real transitions used.

        Raises:
            DivergenceError: if physics or gradients stop being finite; the state is then that
                before the update.
        """

    def actor(self) -> Actor:
        """Return the current policy."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next update depends on: tensors and plain data only."""

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
