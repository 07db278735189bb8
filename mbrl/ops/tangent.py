"""Maps between the coordinates of a state and its tangent space, in torch arithmetic."""

from __future__ import annotations

import torch
from torch import Tensor

from mbrl.physics import StateSpec


class TangentMap:
    r"""The matrix E(x) = d(x (+) d)/dd at d = 0, applied without being formed.

    E is the identity but for the 4-by-3 block G of each quaternion, G w = q (0, w) / 2, for which
    G'G = \|q\|^2 I / 4. Hence E^+ = (E'E)^{-1} E' is known in closed form.

    Args:
        spec: the state space.
        extras: Euclidean coordinates that follow those of the state.
    """

    def __init__(self, spec: StateSpec, extras: int = 0):
        self._nx, self._ndx = spec.nx + extras, spec.ndx + extras
        self._euclidean = spec.is_euclidean
        more = torch.arange(extras)
        self._x = torch.cat([torch.from_numpy(spec.euclidean_x), spec.nx + more])
        self._dx = torch.cat([torch.from_numpy(spec.euclidean_dx), spec.ndx + more])
        self._quaternion_x = torch.from_numpy(spec.quaternion_x)  # (n, 4)
        self._quaternion_dx = torch.from_numpy(spec.quaternion_dx)  # (n, 3)

    @property
    def is_identity(self) -> bool:
        """Whether tangent vectors and coordinates coincide, so that E(x) = I everywhere."""
        return self._euclidean

    def push(self, x: Tensor, tangent: Tensor) -> Tensor:
        """Return E(x) tangent: [B, nx], [B, ndx] -> [B, nx]."""
        if self._euclidean:
            return tangent
        block, _ = self._block(x)
        rotated = _times(block, tangent[:, self._quaternion_dx])
        return self._assembled(tangent[:, self._dx], rotated, self._x, self._quaternion_x, self._nx)

    def push_transposed(self, x: Tensor, gradient: Tensor) -> Tensor:
        """Return E(x)' gradient: [B, nx], [B, nx] -> [B, ndx]."""
        if self._euclidean:
            return gradient
        block, _ = self._block(x)
        rotated = _times(block.mT, gradient[:, self._quaternion_x])
        return self._assembled(
            gradient[:, self._x], rotated, self._dx, self._quaternion_dx, self._ndx
        )

    def pull(self, x: Tensor, change: Tensor) -> Tensor:
        """Return E(x)^+ change: [B, nx], [B, nx] -> [B, ndx]."""
        if self._euclidean:
            return change
        block, square = self._block(x)
        rotated = _times(block.mT, change[:, self._quaternion_x]) * (4.0 / square)
        return self._assembled(
            change[:, self._x], rotated, self._dx, self._quaternion_dx, self._ndx
        )

    def pull_transposed(self, x: Tensor, costate: Tensor) -> Tensor:
        """Return (E(x)^+)' costate: [B, nx], [B, ndx] -> [B, nx].

        The unique gradient in the tangent plane at ``x`` whose products with tangent vectors are
        the costate's.
        """
        if self._euclidean:
            return costate
        block, square = self._block(x)
        rotated = _times(block, costate[:, self._quaternion_dx]) * (4.0 / square)
        return self._assembled(costate[:, self._dx], rotated, self._x, self._quaternion_x, self._nx)

    def _block(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """G of every quaternion, (B, n, 4, 3), and squared norms, (B, n, 1)."""
        quaternion = x[:, self._quaternion_x]  # (B, n, 4)
        w, i, j, k = quaternion.unbind(-1)
        columns = torch.stack([-i, -j, -k, w, -k, j, k, w, -i, -j, i, w], dim=-1)
        block = 0.5 * columns.unflatten(-1, (4, 3))
        return block, (quaternion * quaternion).sum(-1, keepdim=True)

    @staticmethod
    def _assembled(
        flat: Tensor, rotated: Tensor, to: Tensor, rotated_to: Tensor, width: int
    ) -> Tensor:
        # One gather by the inverse permutation: no in-place write, so functorch transforms pass.
        values = torch.cat([flat, rotated.reshape(len(rotated), rotated_to.numel())], dim=1)
        order = torch.empty(width, dtype=torch.long)
        order[torch.cat([to, rotated_to.flatten()])] = torch.arange(width)
        return values[:, order]


def _times(matrix: Tensor, vector: Tensor) -> Tensor:
    """Products (B, n, i, j) (B, n, j) -> (B, n, i); einsum has no rule for is_grads_batched."""
    return (matrix @ vector[..., None])[..., 0]
