r"""Soft Q functions of tables, in batches: operator, fixed point, adjoint, return.

Shapes: S states, A actions, N rows of a batch, which come last: tables are small and batches long,
so that sums over states and actions run along memory. Transitions are [S, A, S, N], rewards and Q
[S, A, N], values [S, N]; N may be 1, for tables that all rows share.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mbrl.errors import DivergenceError
from mbrl.tasks import TabularMDP

_RESIDUAL = 1e-13  # of a fixed point, relative to the largest it can be
_MOST = 100  # iterations of Newton's method, which takes less than ten


class SoftBellman:
    r"""The soft Bellman operator of any tables P, r, at a process's discount and temperature.

    .. math:: (B_{P,r} Q)(s, a) = r(s, a) + \gamma \sum_{s'} P(s' \mid s, a) V(s'), \qquad
              V(s) = \tau \log \sum_a e^{Q(s, a) / \tau}, \qquad
              \pi(a \mid s) = e^{(Q(s, a) - V(s)) / \tau}

    Args:
        mdp: the process.

    Attributes:
        mdp: the same.
        transitions: its P, [S, A, S, 1].
        rewards: its r, [S, A, 1].
    """

    def __init__(self, mdp: TabularMDP):
        self.mdp = mdp
        self.transitions, self.rewards = mdp.transitions[..., None], mdp.rewards[..., None]
        self._discount, self._temperature = mdp.discount, mdp.temperature
        self._discounted = mdp.discount * self.transitions
        self._identity = torch.eye(mdp.states, dtype=torch.float64)[..., None]

    def backup(self, q: Tensor, transitions: Tensor, rewards: Tensor) -> Tensor:
        """Return B Q, [S, A, N]."""
        return rewards + self._discount * _expected(transitions, self.soft(q)[0])

    def soft(self, q: Tensor) -> tuple[Tensor, Tensor]:
        """Return V [S, N] and pi [S, A, N]."""
        scaled = q / self._temperature
        logarithms = torch.log_softmax(scaled, dim=1)
        # Any action says what V is: pi is e^((Q - V) / tau).
        values = self._temperature * (scaled[:, 0] - logarithms[:, 0])
        return values, logarithms.exp()

    def fixed_point(self, transitions: Tensor, rewards: Tensor, start: Tensor) -> Tensor:
        r"""Return Q* = B Q*, [S, A, N], by Newton's method, which is soft policy iteration.

        .. math:: Q \leftarrow Q + (I - \gamma P \Pi)^{-1} (B Q - Q)

        has S unknowns, the changes that pi expects. It ends where B Q - Q is 1e-13 of the largest
        that Q can be, so that Q is right to 1e-13 / (1 - gamma) of that.

        Args:
            transitions: P.
            rewards: r.
            start: Q to start from; any will do.

        Raises:
            DivergenceError: if that is not reached, as with tables that are not finite.
        """
        small = _RESIDUAL * (1 + rewards.abs().max() / (1 - self._discount))
        discounted, q = self._discount * transitions, start
        for _ in range(_MOST):
            values, policy = self.soft(q)
            target = rewards + _expected(discounted, values)
            error = target - q
            if error.abs().max() <= small:
                return target
            resolvent = self._resolvent(policy, discounted)
            q = target + _expected(discounted, _solved(resolvent, (policy * error).sum(1)))
        raise DivergenceError("the model's soft Q function is not finite")

    def solve_adjoint(self, q: Tensor, transitions: Tensor, gradient: Tensor) -> Tensor:
        r"""Return :math:`(I - J^\top)^{-1} g` with J = dB/dQ, for g [S, A, N].

        J is :math:`\gamma P(s' \mid s, a) \pi(b \mid s')`, of rank S: what is left to solve is
        :math:`(I - \gamma P_\pi^\top) x = \sum_{s,a} P(\cdot \mid s, a) g(s, a)`.
        """
        policy, discounted = self.soft(q)[1], self._discount * transitions
        right = (discounted * gradient[:, :, None]).sum((0, 1))
        resolvent = self._resolvent(policy, discounted).transpose(0, 1)
        return gradient + policy * _solved(resolvent, right)[:, None]

    def returns(self, q: Tensor) -> Tensor:
        r"""Return :math:`\mu^\top (I - \gamma P_\pi)^{-1} r_\pi`, [N], of the policies of Q."""
        policy = self.soft(q)[1]
        resolvent = self._resolvent(policy, self._discounted)
        return self.mdp.initial @ _solved(resolvent, (policy * self.rewards).sum(1))

    def bellman_errors(self, q: Tensor) -> Tensor:
        """Return B Q - Q in the process itself, [S, A, N]."""
        return self.backup(q, self.transitions, self.rewards) - q

    def _resolvent(self, policy: Tensor, discounted: Tensor) -> Tensor:
        """I - gamma P_pi, [S, S, N], of gamma P."""
        return self._identity - (policy[:, :, None] * discounted).sum(1)


def _expected(transitions: Tensor, values: Tensor) -> Tensor:
    """E[V(s')] of every state and action, [S, A, N]."""
    return (transitions * values).sum(2)


def _solved(matrix: Tensor, right: Tensor) -> Tensor:
    """[S, S, N], [S, N] -> [S, N]."""
    return torch.linalg.solve(matrix.movedim(-1, 0), right.T).T
