"""Torch's own random numbers, which users' code may draw from: as repeatable as a run's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import torch


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Let torch's generator of the CPU begin with a seed, and put it back where it was after.

    What begins with the same seed by a ``torch.Generator`` of its own draws other numbers.
    """
    before = torch.get_rng_state()
    apart = torch.randint(2**62, (1,), generator=torch.Generator().manual_seed(seed))
    torch.default_generator.manual_seed(int(apart))
    try:
        yield
    finally:
        torch.set_rng_state(before)


def reseed(seed: int, update: int, rank: int) -> None:
    """Let torch's generator of the CPU begin anew, for an update of one rank of several.

    Noise belongs to the rows of a rank, so that ranks must not draw the same; and as nothing of it
    is carried from update to update, a checkpoint of one rank is that of all.
    """
    (word,) = np.random.SeedSequence([seed % 2**64, update, rank]).generate_state(1, np.uint64)
    torch.default_generator.manual_seed(int(word >> np.uint64(1)))
