"""Plans of a batch of which some rows diverge where they begin."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from mbrl.errors import DivergenceError
from mbrl.planning.model import naming, without
from mbrl.planning.planner import NOTHING, Plan, Planner
from mbrl.planning.problem import Problem


def plan_or_restart(
    planner: Planner,
    problem: Problem,
    state: Tensor,
    actions: Tensor,
    *,
    generator: torch.Generator,
    memory: Mapping[str, Tensor] = NOTHING,
    iterations: int | None = None,
    seconds: float | None = None,
) -> tuple[Plan, Tensor]:
    """Plan; rows that a DivergenceError names begin again, from rest and without memory.

    The others keep where they began, and their memory; an error that names no rows means all.
    Without a divergence this is ``planner.plan``. Every attempt has the deadline to itself.

    Args:
        planner: how.
        problem: of B rows.
        state: [B, nx].
        actions: where to begin, [T, B, nu].
        generator: see :meth:`Planner.plan`, as the rest.
        memory: see there.
        iterations: see there.
        seconds: see there.

    Returns:
        The plans of all rows, and the indices of those that began again, ascending.

    Raises:
        DivergenceError: if rows diverge even from rest; names them.
    """
    plan = partial(planner.plan, generator=generator, iterations=iterations, seconds=seconds)
    every = kept = torch.arange(len(state))
    parts: list[tuple[Tensor, Plan]] = []
    while len(kept):
        try:
            remembered = {name: series[..., kept, :] for name, series in memory.items()}
            found = plan(problem.rows(kept), state[kept], actions[:, kept], memory=remembered)
        except DivergenceError as error:
            kept = without(kept, error)
        else:
            parts.append((kept, found))
            break
    again = every[~torch.isin(every, kept)]
    if len(again):
        with naming(again):
            parts.append((again, plan(problem.rows(again), state[again])))
    return Plan.joined(parts), again
