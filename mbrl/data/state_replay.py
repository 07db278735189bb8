"""A bounded first-in-first-out memory of states."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from mbrl.errors import ArgumentError
from mbrl.types import Start


class StateReplay:
    """The newest ``size`` of the states that were put in, each with its context.

    Args:
        size: how many states are kept.
        state_size: nx.
        context_size: n.

    Raises:
        ArgumentError: if there is no room for a single state.
    """

    def __init__(self, size: int, state_size: int, context_size: int = 0):
        if size < 1:
            raise ArgumentError(f"size must be at least 1, got {size}")
        self.size = size
        self._states = torch.zeros(0, state_size, dtype=torch.float64)
        self._contexts = torch.zeros(0, context_size, dtype=torch.float64)
        self._oldest = 0  # the row that is overwritten next, once the memory is full

    def __len__(self) -> int:
        return len(self._states)

    @torch.no_grad()
    def add(self, states: Tensor, contexts: Tensor) -> None:
        """Put in states [n, nx] with contexts [n, c], the oldest first; old ones make room."""
        states, contexts = states[-self.size :], contexts[-self.size :]
        room = min(self.size - len(self), len(states))
        if room:
            self._states = torch.cat([self._states, states[:room]])
            self._contexts = torch.cat([self._contexts, contexts[:room]])
        rest = len(states) - room
        if rest:
            rows = (self._oldest + torch.arange(rest)) % self.size
            self._states[rows], self._contexts[rows] = states[-rest:], contexts[-rest:]
            self._oldest = (self._oldest + rest) % self.size

    def sample(self, n: int, generator: torch.Generator) -> Start:
        """Draw n states uniformly, with replacement.

        Raises:
            ArgumentError: if there is nothing to draw from.
        """
        if not len(self):
            raise ArgumentError("nothing was put into the memory of states yet")
        rows = torch.randint(len(self), (n,), generator=generator)
        return Start(self._states[rows], self._contexts[rows])

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything later draws depend on."""
        return {
            "states": self._states.clone(),
            "contexts": self._contexts.clone(),
            "oldest": torch.tensor(self._oldest),
        }

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._states, self._contexts = state["states"].clone(), state["contexts"].clone()
        self._oldest = int(state["oldest"])
