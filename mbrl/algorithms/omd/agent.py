"""What learns from a memory of transitions, for S seeds side by side."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor

from mbrl.algorithms.omd.adam import Adam
from mbrl.data import Batch

Draw: TypeAlias = Callable[[], Batch]
Parts: TypeAlias = dict[str, Tensor | Adam]


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
        """Return which seeds' numbers are no longer finite, [S] bool."""
        numbers = [part for part in self.parts().values() if isinstance(part, Tensor)]
        return ~torch.stack([part.isfinite().all(1) for part in numbers]).all(0)

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
