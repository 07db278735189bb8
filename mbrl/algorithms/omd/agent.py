"""What learns from a memory of transitions, for S seeds side by side."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

from mbrl.data import Batch
from mbrl.nn import FlatAdam

Draw: TypeAlias = Callable[[], Batch]
Parts: TypeAlias = dict[str, Tensor | FlatAdam]


class Agent(ABC):
    """Numbers of S seeds, one row each, that are learned from batches of their transitions."""

    @property
    @abstractmethod
    def batches(self) -> int:
        """How many batches an update takes."""

    @abstractmethod
    def update(self, draw: Draw) -> None:
        """Learn from batches of real transitions; ``draw`` returns another one each time."""

    @abstractmethod
    def measured(self, batch: Batch) -> dict[str, Tensor]:
        """Return what describes the seeds' state on a batch, [S] each."""

    @abstractmethod
    def parts(self) -> Parts:
        """Return all that updates change, by name: tensors [S, ...] and optimisers."""

    def lost(self) -> Tensor:
        """Return which seeds' numbers are no longer finite, those of optimisers too, [S] bool.

        A seed whose optimiser met a gradient too large to be squared would never move again.
        """
        finite = [
            part.isfinite().flatten(1).all(1) if isinstance(part, Tensor) else part.finite()
            for part in self.parts().values()
        ]
        return ~torch.stack(finite).all(0)

    def numbers(self, seeds: Sequence[int]) -> dict[str, Tensor]:
        """Return a copy of the numbers of some seeds, [len(seeds), ...] each."""
        return {name: part[list(seeds)] for name, part in self._tensors().items()}

    def put_back(self, seeds: Sequence[int], numbers: Mapping[str, Tensor]) -> None:
        """Set the numbers of some seeds to what :meth:`numbers` returned."""
        for name, part in self._tensors().items():
            part[list(seeds)] = numbers[name]

    def state_dict(self) -> dict[str, Any]:
        """Return the parts as they are."""
        return {
            name: part.clone() if isinstance(part, Tensor) else part.state_dict()
            for name, part in self.parts().items()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        for name, part in self.parts().items():
            if isinstance(part, Tensor):
                part.copy_(state[name])
            else:
                part.load_state_dict(state[name])

    def _tensors(self) -> dict[str, Tensor]:
        return {name: part for name, part in self.parts().items() if isinstance(part, Tensor)}
