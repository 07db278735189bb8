"""The loss of an action sequence."""

from __future__ import annotations

import torch
from torch import Tensor

from mbrl.planning import Problem
from mbrl.planning.gradients import finite_gradient

_MOST_ROWS = 16_384  # of a rollout
_MOST_NUMBERS = 2**25  # that a rollout holds: 256 MB


class TrajectoryLoss:
    r"""The mean cost of action sequences from B starts, each of them clipped into the bounds.

    .. math:: L(\theta) = \frac{1}{B} \sum_{b=1}^{B} \Big( \sum_t
              c(x_t^b, u_t^b, x_{t+1}^b) + \phi(x_T^b) \Big), \qquad
              u_t^b = \mathrm{clip}(\theta_t^b, \underline u, \overline u)

    Args:
        problem: c, phi and the bounds.
        state: where the sequences begin, [B, nx].
        actions: the solution, [T, B, nu].
    """

    def __init__(self, problem: Problem, state: Tensor, actions: Tensor):
        self._problem, self._state, self._shape = problem, state, actions.shape
        self.solution = actions.detach().to(torch.float64).flatten()
        self.layout = {"actions": tuple(actions.shape)}
        self.unit = problem.spread.expand(self._shape).flatten()
        steps, batch, nu = self._shape
        numbers = (steps + 1) * (state.shape[1] + nu)
        rows = min(_MOST_ROWS, _MOST_NUMBERS // numbers)
        self.at_once = max(1, rows // batch)

    def values(self, points: Tensor) -> Tensor:
        """See :class:`~mbrl.landscape.Loss`."""
        return self._problem.rollout(self._state, self._actions(points))[1].mean(1)

    def gradients(self, points: Tensor) -> Tensor:
        """See :class:`~mbrl.landscape.Loss`; zero by actions that are beyond their bounds."""
        problem, raw = self._problem, self._sequences(points)
        kept = problem.clip(raw)
        states, costs = problem.rollout(self._state, kept)
        by_action, good = finite_gradient(
            problem,
            states.flatten(1, 2),
            kept.flatten(1, 2),
            costs.flatten(),
            scene=problem.scene.repeated(len(points)),
        )
        found = torch.where(raw == kept, by_action.reshape(kept.shape), 0.0)
        found[:, ~good.reshape(costs.shape).all(1)] = torch.nan
        return found.transpose(0, 1).flatten(1) / self._shape[1]

    def filtered(self, direction: Tensor) -> Tensor:
        """Return a direction [n] in units of half the range of each control."""
        return self.unit * direction

    def _sequences(self, points: Tensor) -> Tensor:
        """[K, n] -> [T, K, B, nu]."""
        return points.reshape(len(points), *self._shape).transpose(0, 1)

    def _actions(self, points: Tensor) -> Tensor:
        return self._problem.clip(self._sequences(points))
