"""A memory of the transitions of several seeds, and batches of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbrl.errors import ArgumentError


class Batch(NamedTuple):
    """Transitions of S seeds, B each."""

    observation: Tensor  # (S, B, n)
    action: Tensor  # (S, B, nu)
    reward: Tensor  # (S, B)
    following: Tensor  # (S, B, n): what was observed next
    mask: Tensor  # (S, B): 0 where the transition terminated its episode, otherwise 1


class TransitionReplay:
    """The newest ``capacity`` transitions of each of S seeds, which are added in lockstep.

    Numbers are kept in single precision, which is what most environments give: CartPole-v1's
    observations, and rewards that are small integers, lose nothing. Memory is taken as it fills.

    Args:
        seeds: S.
        capacity: transitions of each seed.
        observation_size: n.
        action_size: nu.

    Attributes:
        added: transitions of each seed that were ever put in.
        bytes_each: that a transition of all seeds takes.

    Raises:
        ArgumentError: if there is no room for a single transition.
    """

    def __init__(self, seeds: int, capacity: int, *, observation_size: int, action_size: int):
        if capacity < 1:
            raise ArgumentError(f"capacity must be at least 1, got {capacity}")
        n, nu = observation_size, action_size
        self._widths = [n, nu, 1, n, 1]
        # One row for all of a transition: a batch is then one gathering.
        self._rows = torch.empty((capacity, seeds, sum(self._widths)), dtype=torch.float32)
        self._seeds = torch.arange(seeds)[:, None]
        self.bytes_each = self._rows[0].nbytes
        self.added = 0

    def __len__(self) -> int:
        return min(self.added, len(self._rows))

    def size_after(self, count: int) -> int:
        """Return what the length will be when ``count`` more have been added."""
        return min(self.added + count, len(self._rows))

    def add(
        self,
        observation: Tensor,
        action: Tensor,
        reward: Tensor,
        following: Tensor,
        terminated: Tensor,
    ) -> None:
        """Put in a transition of every seed: [S, n], [S, nu], [S], [S, n], [S] bool."""
        parts = [observation, action, reward[:, None], following, ~terminated[:, None]]
        row = self._rows[self.added % len(self._rows)]
        torch.cat([part.to(torch.float32) for part in parts], dim=1, out=row)
        self.added += 1

    def batch(self, indices: Tensor, dtype: torch.dtype) -> Batch:
        """Return transitions [S, B] of these indices, which count from the oldest slot."""
        width = self._rows.shape[2]
        flat = (indices * len(self._seeds) + self._seeds).flatten()
        rows = self._rows.view(-1, width).index_select(0, flat).to(dtype)
        parts = rows.view(*indices.shape, width).split(self._widths, dim=2)
        observation, action, reward, following, mask = parts
        return Batch(observation, action, reward[..., 0], following, mask[..., 0])

    def pieces(self, first: int) -> list[NDArray[np.float32]]:
        """Return where all transitions from the first-th on lie, in the order they were added.

        Args:
            first: index among all that were ever put in, of one that is still remembered.
        """
        capacity, rows = len(self._rows), self._rows.numpy()
        found = []
        while first < self.added:
            slot = first % capacity
            last = min(capacity, slot + self.added - first)
            found.append(rows[slot:last])
            first += last - slot
        return found

    def ahead(self, count: int) -> Tensor:
        """Return a copy of what the next ``count`` transitions take the place of."""
        return self._rows[self._slots(min(count, len(self._rows)))]

    def put_back(self, rows: Tensor) -> None:
        """Undo additions: with ``added`` set back, put what :meth:`ahead` returned then back."""
        self._rows[self._slots(len(rows))] = rows

    def _slots(self, count: int) -> Tensor:
        return (self.added + torch.arange(count)) % len(self._rows)

    def state_dict(self) -> dict[str, Any]:
        """Return what has been put in, and how much there ever was."""
        return {"rows": self._rows[: len(self)].clone(), "added": self.added}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self.added = int(state["added"])
        self._rows[: len(self)] = state["rows"]


def distinct_indices(counts: NDArray[np.int64], batch: int, generator: torch.Generator) -> Tensor:
    """Draw batches without replacement: of each of T counts n, one of its subsets uniformly.

    Repeated indices are drawn again until there is none. As every step treats all indices alike,
    so does the outcome: all subsets are equally likely. That costs next to nothing where n is
    much larger than the batch; where it is not, the first of a permutation are taken.

    Args:
        counts: n, [T] integers.
        batch: size of the subsets.
        generator: draws them.

    Returns:
        Indices [T, batch] in [0, n), ascending: neighbours in memory.

    Raises:
        ArgumentError: if a count is smaller than the batch.
    """
    if len(counts) and counts.min() < batch:
        raise ArgumentError(
            f"batch_size must be at most the transitions there are, {counts.min()}, got {batch}"
        )
    found = np.empty((len(counts), batch), dtype=np.int64)
    few = counts < 4 * batch
    for row in np.flatnonzero(few):
        found[row] = torch.randperm(int(counts[row]), generator=generator)[:batch].numpy()
    rows = np.flatnonzero(~few)
    found[rows] = _uniform(counts[rows, None], batch, generator)
    found.sort(axis=1)
    while len(rows):
        repeated = found[rows, 1:] == found[rows, :-1]
        rows, repeated = rows[some := repeated.any(axis=1)], repeated[some]
        at, column = np.nonzero(repeated)
        found[rows[at], column + 1] = _uniform(counts[rows[at], None], 1, generator)[:, 0]
        found[rows] = np.sort(found[rows], axis=1)
    return torch.from_numpy(found)


def any_indices(counts: NDArray[np.int64], batch: int, generator: torch.Generator) -> Tensor:
    """Draw batches with replacement: [T, batch] integers in [0, n), for each of T counts n."""
    return torch.from_numpy(_uniform(counts[:, None], batch, generator))


def _uniform(
    counts: NDArray[np.int64], width: int, generator: torch.Generator
) -> NDArray[np.int64]:
    """Return integers [T, width] in [0, n) for counts n [T, 1]."""
    drawn = torch.rand((len(counts), width), generator=generator, dtype=torch.float64)
    whole: NDArray[np.int64] = (drawn.numpy() * counts).astype(np.int64)
    return whole
