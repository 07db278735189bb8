"""The improved cross-entropy method: correlated noise, and elites that live on."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from mbrl.errors import ArgumentError
from mbrl.planning.cem import GaussianPlanner, GaussianSearch
from mbrl.planning.checks import check_at_least, check_not_negative
from mbrl.planning.colored_noise import colored_noise
from mbrl.planning.planner import Plan


class _Search(GaussianSearch["ICEM"]):
    kept = (*GaussianSearch.kept, "_elites", "_iteration")

    def _begin(self, memory: Mapping[str, Tensor]) -> None:
        super()._begin(memory)
        planner = self._planner
        self._reused = round(planner.reuse * planner.elites)
        self._iteration = 0
        self._elites = _remembered(memory, self._theta, planner.elites)  # (T, E or 0, B, nu)

    def iterate(self) -> None:
        """Draw a population, add old elites to it, and fit the Gaussian to the new ones."""
        steps, batch, nu = self._theta.shape
        shape = steps, self._planner.population(self._iteration), batch, nu
        noise = colored_noise(self._planner.color, shape, self._generator)
        drawn = self._theta[:, None] + self._deviation[:, None] * noise
        joined = torch.cat([drawn, self._elites[:, : self._reused]], dim=1)
        self._elites = self._iterate(self.problem.clip(joined))
        self._iteration += 1

    @property
    def plan(self) -> Plan:
        """See :class:`Search`."""
        memory = MappingProxyType({"elites": self._elites})
        return super().plan._replace(memory=memory)


class ICEM(GaussianPlanner):
    r"""The cross-entropy method made sample-efficient, for planning at every step.

    .. math:: u^k = \mathrm{clip}(\mu + \sigma \odot \epsilon^k), \qquad
              S_\epsilon(f) \propto f^{-\beta}, \qquad
              N_i = \max(N \gamma^{-i}, 2 E)

    and the update of :class:`~mbrl.planning.CEM`. To the population are added a share of the last
    population's elites; in the first iteration, of those of the plan before, shifted in time by
    who keeps the memory. The best sequence of all is executed. Pinneri et al. 2020, "Sample-
    efficient cross-entropy method for real-time planning", algorithm 1.

    A plan's memory is ``elites`` [T, E, B, nu], the best first; of another shape they are refused
    with an ArgumentError.

    Two details differ from the paper: the mean competes to be the plan in every iteration, and
    never counts as an elite, so that a search need not know which of its iterations is the last;
    and the first mean is the plan before, shifted, not the mean before.

    Args:
        samples: N.
        elites: E, at most N.
        noise: sigma of the first population, relative to the spread of the actions (half their
            range, 1 without bounds).
        color: beta; 0 is white, 2 to 3 smooth.
        decay: gamma, at least 1.
        reuse: share of the elites that joins the next population, in [0, 1].
        momentum: share of the old Gaussian in the next, in [0, 1).
        floor: least sigma, relative to the spread.
        iterations: populations.
    """

    search = _Search

    def __init__(
        self,
        *,
        samples: int = 64,
        elites: int = 10,
        noise: float = 0.5,
        color: float = 2.0,
        decay: float = 1.25,
        reuse: float = 0.3,
        momentum: float = 0.1,
        floor: float = 0.0,
        iterations: int = 4,
    ):
        super().__init__(
            samples=samples,
            elites=elites,
            noise=noise,
            momentum=momentum,
            floor=floor,
            iterations=iterations,
        )
        check_not_negative(color=color)
        check_at_least(1, decay=decay)
        if not 0 <= reuse <= 1:
            raise ArgumentError(f"reuse must lie in [0, 1], got {reuse}")
        self.color, self.decay, self.reuse = color, decay, reuse

    def population(self, iteration: int) -> int:
        """Return how many sequences an iteration draws, counted from 0."""
        return max(int(self.samples * self.decay**-iteration), 2 * self.elites)


def _remembered(memory: Mapping[str, Tensor], actions: Tensor, count: int) -> Tensor:
    if "elites" not in memory:
        return actions[:, None][:, :0]
    elites, wanted = memory["elites"], (len(actions), count, *actions.shape[1:])
    if elites.shape not in (wanted, (wanted[0], 0, *wanted[2:])):
        raise ArgumentError(
            f"memory['elites'] must have shape {list(wanted)}, got {list(elites.shape)}"
        )
    return elites
