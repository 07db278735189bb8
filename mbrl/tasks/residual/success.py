"""What an episode must have reached at its end."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mbrl.errors import ConfigError
from mbrl.ops import batched
from mbrl.options import completed
from mbrl.physics import Simulator
from mbrl.tasks.residual.cost import ResidualMap, step_indices
from mbrl.tasks.residual.named_model import NamedModel
from mbrl.tasks.residual.residuals import residual_of


class Success:
    r"""Bounds on residuals that hold in every state of the last seconds of an episode.

    .. math:: \max_j |r_{ij}(x, 0; t)| < b_i, \qquad \min_j r_{ij}(x, 0; t) > a_i.

    Args:
        simulator: the physics.
        where: configuration key, for messages.
        terms: by name, ``{residual: {kind: ..., ...}, below: b, above: a}`` each, with one of the
            bounds or both.
        last: seconds at the end of an episode; 0: its last state alone.

    Attributes:
        steps: how many control steps at the end of an episode must all be satisfied.

    Raises:
        ConfigError: naming the key, its value and what is legal.
    """

    def __init__(
        self,
        simulator: Simulator,
        where: str = "success",
        *,
        terms: Mapping[str, Mapping[str, Any]],
        last: float = 0.0,
    ):
        self._given = where, terms, last
        if last < 0:
            raise ConfigError(f"{where}.last must be 0 seconds or more, got {last}")
        if not terms:
            raise ConfigError(f"{where}.terms must have a term, got none")
        self.steps = max(1, math.ceil(last / simulator.dt - 1e-9))
        named, self._simulator = NamedModel(simulator), simulator
        residuals, bounds = [], []
        for name, declared in terms.items():
            key = f"{where}.terms.{name}"
            options = completed(_term, declared, key)
            below, above = options["below"], options["above"]
            if below is None and above is None:
                raise ConfigError(f"{key} must have below or above, got neither")
            if below is not None and below <= 0:
                raise ConfigError(f"{key}.below must be positive, got {below}")
            residuals.append(residual_of(named, options["residual"], f"{key}.residual"))
            bounds.append((math.inf if below is None else below, above))
        self._bounds = [
            (r.size, below, -math.inf if above is None else above)
            for r, (below, above) in zip(residuals, bounds, strict=True)
        ]
        self._map = ResidualMap(simulator, named, residuals)

    def satisfied(self, state: Tensor, t: int | Tensor = 0) -> Tensor:
        """Return which states hold all bounds.

        Args:
            state: [N, nx].
            t: index of the action that led to them, one for all or [N].

        Returns:
            [N] bool.
        """
        spec = self._simulator.spec
        state, idle = batched(spec, state.detach(), state.new_zeros(len(state), spec.nu))
        found = self._map.values(state.numpy(), idle.numpy(), step_indices(t, len(state)).numpy())
        holds = np.ones(len(found), dtype=bool)
        start = 0
        for size, below, above in self._bounds:
            part = found[:, start : (start := start + size)]
            holds &= (np.abs(part).max(axis=1) < below) & (part.min(axis=1) > above)
        return torch.from_numpy(holds)

    def on(self, simulator: Simulator) -> Success:
        """Return the same criterion evaluated by another simulator of the same model."""
        return _remade(simulator, *self._given)

    def __reduce__(self) -> tuple[object, ...]:
        """A copy or a pickle is a new criterion of the same terms."""
        return _remade, (self._simulator, *self._given)


def _remade(
    simulator: Simulator, where: str, terms: Mapping[str, Mapping[str, Any]], last: float
) -> Success:
    return Success(simulator, where, terms=terms, last=last)


def _term(
    *, residual: Mapping[str, Any], below: float | None = None, above: float | None = None
) -> None:
    """What a term is declared by."""
