"""Models of a tabular process, in batches: likelihood, bounds on their norm, what they imply."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor

from mbrl.algorithms.omd.soft_bellman import SoftBellman
from mbrl.ops import Adjoint, AdjointSystem, implicit_solution

Projection: TypeAlias = Literal["joint", "per_array"]
Parameters: TypeAlias = dict[str, Tensor]  # logits l [S, A, S, N], rewards [S, A, N]


class Estimates(NamedTuple):
    """How good the soft Q functions of models are, [N] each."""

    returns: Tensor  # of their policies, in the process itself
    q_errors: Tensor  # max |Q_opt - Q|
    q_error_bounds: Tensor  # what is known of that from the model


class TabularModels:
    r"""N models theta = (l, r) of one process, with transitions :math:`P = softmax(l / \tau)`.

    Args:
        bellman: the operator, and the process.
    """

    def __init__(self, bellman: SoftBellman):
        self.bellman, self._mdp = bellman, bellman.mdp
        zero = torch.zeros_like(bellman.rewards)
        self.q_optimal = bellman.fixed_point(bellman.transitions, bellman.rewards, zero)

    def tables(self, theta: Parameters) -> tuple[Tensor, Tensor]:
        """Return transitions and rewards."""
        return torch.softmax(theta["logits"] / self._mdp.temperature, dim=2), theta["rewards"]

    def q_functions(self, theta: Parameters, start: Tensor, exact: Tensor | bool) -> Tensor:
        r"""Return Q* of the models, [S, A, N], as a function of them: Q = B_theta Q.

        Args:
            theta: the models.
            start: Q where Newton's method starts.
            exact: which rows, [N], have the exact derivative; of the others the adjoint leaves the
                inverse of :math:`I - \partial B_\theta / \partial Q` out.
        """
        return implicit_solution(
            lambda given: self.bellman.fixed_point(*self.tables(given), start),
            lambda w, given: w - self.bellman.backup(w, *self.tables(given)),
            theta,
            adjoint=self._adjoint(exact),
        )

    def likelihood_losses(self, theta: Parameters) -> Tensor:
        """Return mean (r - r_true)^2 + mean KL(P_true || P), both over (s, a), [N]."""
        true = self.bellman.transitions
        logarithms = torch.log_softmax(theta["logits"] / self._mdp.temperature, dim=2)
        divergence = (torch.xlogy(true, true) - true * logarithms).sum(2)
        return ((theta["rewards"] - self.bellman.rewards).square() + divergence).mean((0, 1))

    def project(self, theta: Parameters, bounds: Tensor, projection: Projection) -> None:
        r"""Shrink in place what is longer than its bound, [N].

        joint: :math:`(l, r)` together, with norm :math:`\sqrt{|l / \tau|^2 + |r|^2}`. per_array:
        l and r each by themselves, with norm :math:`\sqrt{|X_0 / \tau|^2 + |X_{1:}|^2}`, where the
        index of X is the action for l and the state for r. That is what the decorator of the
        original's optimiser, written for a pair of arrays, does to each array of its pair.
        """
        logits, rewards, tau = theta["logits"], theta["rewards"], self._mdp.temperature
        with torch.no_grad():
            if projection == "joint":
                norms = ((logits / tau).square().sum((0, 1, 2)) + _square(rewards)).sqrt()
                _shrink([logits, rewards], norms, bounds)
                return
            for array, index in ((logits, 1), (rewards, 0)):
                first, *others = array.unbind(index)
                squares = _square(first) / tau**2 + sum(map(_square, others))
                _shrink([array], torch.as_tensor(squares).sqrt(), bounds)

    def estimates(self, theta: Parameters, q: Tensor, *, of_parts: bool) -> Estimates:
        r"""Judge Q functions [S, A, N] of the models.

        Of Q = Q* of a model, :math:`|Q_{opt} - Q|_\infty \le \epsilon / (1 - \gamma)` with
        :math:`\epsilon = |B_{true} Q - B_\theta Q|_\infty`; or, of the parts of the model,

        .. math:: |Q_{opt} - Q|_\infty \le \frac{\epsilon_r}{1 - \gamma}
                  + \frac{\gamma \, \epsilon_P \max |r|}{2 (1 - \gamma)^2}, \qquad
                  \epsilon_r = |\hat r - r|_\infty, \quad
                  \epsilon_P = \max_{s,a} |\hat P - P|_1 .

        Args:
            theta: the models.
            q: the Q functions.
            of_parts: which of the bounds.
        """
        bellman, mdp = self.bellman, self._mdp
        with torch.no_grad():
            transitions, rewards = self.tables(theta)
            left = 1 - mdp.discount
            if of_parts:
                of_rewards = _largest(rewards - bellman.rewards)
                of_transitions = (transitions - bellman.transitions).abs().sum(2).amax((0, 1))
                factor = mdp.discount * mdp.rewards.abs().max() / (2 * left**2)
                bounds = of_rewards / left + factor * of_transitions
            else:
                true = bellman.backup(q, bellman.transitions, bellman.rewards)
                bounds = _largest(true - bellman.backup(q, transitions, rewards)) / left
            return Estimates(bellman.returns(q), _largest(q - self.q_optimal), bounds)

    def _adjoint(self, exact: Tensor | bool) -> Adjoint:
        def solved(system: AdjointSystem, gradient: Tensor) -> Tensor:
            g = gradient.reshape(system.w.shape)
            z = self.bellman.solve_adjoint(system.w, self.tables(system.theta)[0], g)
            return torch.where(torch.as_tensor(exact), z, g).flatten()

        return solved


def _square(array: Tensor) -> Tensor:
    """|X|^2 of every row, [N]."""
    return array.square().flatten(0, -2).sum(0)


def _largest(array: Tensor) -> Tensor:
    return array.abs().amax((0, 1))


def _shrink(arrays: list[Tensor], norms: Tensor, bounds: Tensor) -> None:
    factors = torch.where(norms > bounds, bounds / norms, 1.0)
    for array in arrays:
        array.mul_(factors)
