"""The random numbers of several seeds, each drawn by a generator of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor


class Seeds:
    """Generators of S runs that are made together, of seeds first, first + 1, ...

    Args:
        first: seed of the first run.
        count: S.

    Attributes:
        numbers: the seeds.
        learning: generators of what learning depends on.
        looking: others, for evaluations, so that learning does not depend on how many episodes
            are looked at.
    """

    def __init__(self, first: int, count: int):
        self.numbers = range(first, first + count)
        self.learning = [torch.Generator().manual_seed(seed) for seed in self.numbers]
        self.looking = [
            torch.Generator().manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
            for generator in self.learning
        ]

    def __len__(self) -> int:
        return len(self.numbers)

    def state_dict(self) -> dict[str, Any]:
        """Return where the generators are."""
        return {
            "generators": [generator.get_state() for generator in self.learning],
            "eval_generators": [generator.get_state() for generator in self.looking],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        for name, generators in (("generators", self.learning), ("eval_generators", self.looking)):
            for generator, stored in zip(generators, state[name], strict=True):
                generator.set_state(stored)


def normal(generators: Sequence[torch.Generator], *size: int) -> Tensor:
    """Draw standard normal numbers, each seed its [T, ...]; return [T, S, ...] float64."""
    return torch.stack([torch.randn(size, generator=g, dtype=torch.float64) for g in generators], 1)


def uniform(generators: Sequence[torch.Generator], *size: int) -> Tensor:
    """Draw numbers in [0, 1), each seed its [T, ...]; return [T, S, ...] float64."""
    return torch.stack([torch.rand(size, generator=g, dtype=torch.float64) for g in generators], 1)
