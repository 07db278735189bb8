"""What the runner asks of an algorithm."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from mbrl.errors import ArgumentError
from mbrl.ranks import ALONE, Ranks
from mbrl.tasks import Task
from mbrl.types import Array


class Actor(Protocol):
    """What is evaluated: observations in, actions out."""

    def act(self, observation: Array) -> Array:
        """[B, n_obs] -> [B, nu], without noise."""

    def reset(self) -> None:
        """Begin new episodes."""


class StateActor(Protocol):
    """An actor that is told the state itself, as planners need it.

    Attributes:
        on_states: true.
    """

    on_states: bool

    def act(
        self,
        states: Array,
        t: int,
        contexts: Array | None = None,
        running: NDArray[np.bool_] | None = None,
    ) -> Array:
        """[B, nx], step, [B, n], which episodes have not ended [B] -> [B, nu]."""

    def reset(self) -> None:
        """Begin new episodes."""

    def measured(self) -> dict[str, float]:
        """Return what acting has cost, for the summary."""


def _no_policies(run: str) -> Actor:
    raise ArgumentError(f"no policy can be loaded here, got the run {run!r}")


def _go_on(doing: str) -> None:
    """Nobody asks anything of an update in progress."""


def _nowhere() -> None:
    """There is no folder of a run."""


class Setting(NamedTuple):
    """What an algorithm is given, beside its own options."""

    task: Task  # what is trained on
    graph: Mapping[str, Any]  # a ``graph:`` section, for those that use one
    generator: torch.Generator  # all randomness, initial weights included
    load_policy: Callable[[str], Actor | StateActor] = _no_policies  # of the folder of a run
    # For an algorithm whose updates take minutes, to call in their middle, where its state_dict is
    # whole and its next ``update`` goes on from there. Takes what the update is at; may save the
    # state, and may raise.
    pause: Callable[[str], None] = _go_on
    # Where checkpoints lie, for what is too large to be written with each of them; None: nowhere.
    # Not to be called before the first state_dict.
    folder: Callable[[], Path | None] = _nowhere
    ranks: Ranks = ALONE  # the processes that share the work


class Algorithm(Protocol):
    """A training loop cut open: the runner calls ``update`` and looks after everything else.

    One that optimises parameters may have a method ``loss(generator, batch=None)`` as well, which
    returns the :class:`~mbrl.landscape.Loss` that ``--mode landscape`` draws around them. One that
    has more to show of an update than numbers may have a method ``exhibits()``, which returns the
    :class:`~mbrl.types.Exhibits` of the last one made, and draws no random numbers. They need not
    survive a checkpoint. One that can tell what goes on inside an update may have a method
    ``diagnostics()``, which returns the :data:`~mbrl.types.Diagnostics` of the last one made under
    the same conditions. One whose class has an attribute ``uses_graph`` that is true optimises the
    computation graph of the configuration.

    One whose ``return_mean`` is of the weights before an update's step may have a method
    ``measured_state_dict()``, which returns :meth:`state_dict` with these in place of the present
    ones: what is kept as the best of a run.

    One that several ranks can share says so by a class attribute ``shares_ranks``. What ``update``
    returns and ``state_dict`` are then the same on all of them.
    """

    @property
    def updates(self) -> int:
        """How many there are to be; an algorithm that has nothing left to do may lower it."""

    def update(self) -> dict[str, float]:
        """Make one update.

        Returns:
            What was measured; ``env_steps`` is the number of real transitions used.

        Raises:
            DivergenceError: if physics or gradients stop being finite; the state is then that
                before the update, or of its last pause.
        """

    def actor(self) -> Actor | StateActor:
        """Return the current policy."""

    def state_dict(self) -> dict[str, Any]:
        """Return everything the next update depends on: tensors and plain data only.

        What lies in the folder of the setting is not part of it; that may be added to afterwards,
        and serve this state still.
        """

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what ``state_dict`` returned."""
