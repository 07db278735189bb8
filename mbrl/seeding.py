"""Torch's own random numbers, which users' code may draw from: as repeatable as a run's."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

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
