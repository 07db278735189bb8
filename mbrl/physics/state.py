"""The state space of a MuJoCo model: coordinates, tangent space, retraction and difference."""

from __future__ import annotations

from typing import NamedTuple

import mujoco
import numpy as np
from numpy.typing import NDArray

from mbrl.errors import ArgumentError
from mbrl.types import Array

_JOINT = mujoco.mjtJoint
# Below this the rotation of a tangent vector is its own first-order term to the last bit.
_TINY_ANGLE = 1e-15
# Below this the expansion of (1 - a/2 cot a/2) / a^2, 1/12 + a^2/720, is its first term to within
# what the cancellation in the closed form loses.
_SMALL_HALF_ANGLE = 1e-4


class StateParts(NamedTuple):
    """Views of a state's three parts."""

    qpos: Array  # (..., nq)
    qvel: Array  # (..., nv)
    act: Array  # (..., na)


class StateSpec:
    r"""State x = [qpos, qvel, act] on a manifold with tangent dx = [dq, dv, da].

    The position part of a ball or free joint is a unit quaternion, so a state has
    ``nx = nq + nv + na`` coordinates and ``ndx = 2 nv + na`` degrees of freedom:

    .. math:: x \oplus dx = [q \otimes \exp(dq),\ v + dv,\ a + da], \qquad
              y \ominus x = \log(x^{-1} y).

    ``retract`` and ``difference`` are MuJoCo's ``mj_integratePos`` and ``mj_differentiatePos`` over
    a batch; all other coordinates are Euclidean.

    Args:
        model: the compiled model; only its layout is read.
    """

    def __init__(self, model: mujoco.MjModel):
        self.nq, self.nv, self.na, self.nu = model.nq, model.nv, model.na, model.nu
        self.nx = self.nq + self.nv + self.na
        self.ndx = 2 * self.nv + self.na
        euclidean: list[tuple[int, int]] = []
        quaternions: list[tuple[int, int]] = []
        for kind, q, v in zip(model.jnt_type, model.jnt_qposadr, model.jnt_dofadr, strict=True):
            if kind == _JOINT.mjJNT_FREE:
                euclidean += [(q + i, v + i) for i in range(3)]
                quaternions.append((q + 3, v + 3))
            elif kind == _JOINT.mjJNT_BALL:
                quaternions.append((q, v))
            else:
                euclidean.append((q, v))
        # Velocities and activations are Euclidean too: one pair of index vectors serves them all.
        euclidean += [(self.nq + i, self.nv + i) for i in range(self.nv + self.na)]
        pairs = np.array(euclidean, dtype=np.intp).reshape(-1, 2)
        self.euclidean_x: NDArray[np.intp] = pairs[:, 0]  # (k,) coordinate indices
        self.euclidean_dx: NDArray[np.intp] = pairs[:, 1]  # (k,) tangent indices
        starts = np.array(quaternions, dtype=np.intp).reshape(-1, 2)
        self.quaternion_x: NDArray[np.intp] = starts[:, :1] + np.arange(4)  # (n, 4)
        self.quaternion_dx: NDArray[np.intp] = starts[:, 1:] + np.arange(3)  # (n, 3)

    @property
    def is_euclidean(self) -> bool:
        """Whether no joint carries a quaternion, so that tangent and coordinates coincide."""
        return len(self.quaternion_x) == 0

    def split(self, x: Array) -> StateParts:
        """Return views (qpos, qvel, act) of states ``x`` [..., nx]."""
        return StateParts(
            x[..., : self.nq], x[..., self.nq : self.nq + self.nv], x[..., self.nq + self.nv :]
        )

    def join(self, qpos: Array, qvel: Array, act: Array | None = None) -> Array:
        """Return states [..., nx] put together from their parts."""
        if act is None:
            act = np.zeros((*np.shape(qpos)[:-1], self.na))
        return np.concatenate([qpos, qvel, act], axis=-1, dtype=np.float64)

    def retract(self, x: Array, dx: Array) -> Array:
        """Move states along tangent vectors.

        Args:
            x: states, [..., nx].
            dx: tangent vectors, [..., ndx], broadcast against ``x``.

        Returns:
            x (+) dx, [..., nx]; quaternions keep their norm.
        """
        x, dx = self._checked(x, "x", self.nx), self._checked(dx, "dx", self.ndx)
        batch = np.broadcast_shapes(x.shape[:-1], dx.shape[:-1])
        y = np.array(np.broadcast_to(x, (*batch, self.nx)))
        y[..., self.euclidean_x] += dx[..., self.euclidean_dx]
        for q, v in zip(self.quaternion_x, self.quaternion_dx, strict=True):
            y[..., q] = _multiply(y[..., q], _exponential(dx[..., v]))
        return y

    def difference(self, x: Array, y: Array) -> Array:
        """Return the tangent vector at ``x`` that leads to ``y``: y (-) x, [..., ndx].

        Args:
            x: base states, [..., nx].
            y: target states, [..., nx], broadcast against ``x``.
        """
        x, y = self._checked(x, "x", self.nx), self._checked(y, "y", self.nx)
        batch = np.broadcast_shapes(x.shape[:-1], y.shape[:-1])
        dx = np.empty((*batch, self.ndx))
        dx[..., self.euclidean_dx] = y[..., self.euclidean_x] - x[..., self.euclidean_x]
        for q, v in zip(self.quaternion_x, self.quaternion_dx, strict=True):
            dx[..., v] = _logarithm(_relative(x[..., q], y[..., q]))
        return dx

    def through_difference(self, rows: Array, dx: Array) -> Array:
        r"""Multiply by the Jacobian of a difference :math:`dx = y \ominus x` by y.

        It is the identity but for the block of each quaternion, the inverse of the right Jacobian
        of SO(3) at the rotation vector :math:`\phi` of length :math:`\theta`,

        .. math:: J(\phi) = I + \tfrac{1}{2} [\phi]_\times
                  + \frac{1 - (\theta/2) \cot (\theta/2)}{\theta^2} [\phi]_\times^2

        (Sola, Deray & Atchuthan, "A micro Lie theory for state estimation in robotics", 2018,
        equation 144). The Jacobian by x is :math:`-J(-\phi)`.

        Args:
            rows: row vectors, [..., k, ndx].
            dx: the difference, [..., ndx].

        Returns:
            The products [..., k, ndx].
        """
        rows, dx = self._checked(rows, "rows", self.ndx), self._checked(dx, "dx", self.ndx)
        if self.is_euclidean:
            return rows
        products = rows.copy()
        for v in self.quaternion_dx:
            rotation = dx[..., None, v]  # (..., 1, 3)
            once = np.cross(rows[..., v], rotation)  # r' [phi] = (r x phi)'
            products[..., v] += 0.5 * once + _curvature(rotation) * np.cross(once, rotation)
        return products

    def _checked(self, value: Array, name: str, width: int) -> Array:
        value = np.asarray(value, dtype=np.float64)
        if value.ndim == 0 or value.shape[-1] != width:
            raise ArgumentError(f"{name} must have shape [..., {width}], got {list(value.shape)}")
        return value


def _multiply(a: Array, b: Array) -> Array:
    """Quaternion product, [..., 4] each."""
    aw, ax, ay, az = np.moveaxis(a, -1, 0)
    bw, bx, by, bz = np.moveaxis(b, -1, 0)
    return np.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        axis=-1,
    )


def _relative(a: Array, b: Array) -> Array:
    """Quaternion product of a's conjugate and b, [..., 4] each; exactly no rotation if a = b."""
    aw, ax, ay, az = np.moveaxis(a, -1, 0)
    bw, bx, by, bz = np.moveaxis(b, -1, 0)
    # Terms that cancel for a = b stand in pairs: equal states differ by zero, not by rounding.
    return np.stack(
        [
            aw * bw + ax * bx + ay * by + az * bz,
            (aw * bx - ax * bw) + (az * by - ay * bz),
            (aw * by - ay * bw) + (ax * bz - az * bx),
            (aw * bz - az * bw) + (ay * bx - ax * by),
        ],
        axis=-1,
    )


def _exponential(w: Array) -> Array:
    """Unit quaternion of a rotation vector [..., 3]."""
    angle = np.linalg.norm(w, axis=-1, keepdims=True)
    small = angle < _TINY_ANGLE
    factor = np.where(small, 0.5, np.sin(0.5 * angle) / np.where(small, 1.0, angle))
    return np.concatenate([np.cos(0.5 * angle), factor * w], axis=-1)


def _logarithm(q: Array) -> Array:
    """Rotation vector, of length at most pi, of a quaternion [..., 4]."""
    sine = np.linalg.norm(q[..., 1:], axis=-1, keepdims=True)
    angle = 2.0 * np.arctan2(sine, q[..., :1])
    angle = np.where(angle > np.pi, angle - 2.0 * np.pi, angle)
    small = sine < _TINY_ANGLE
    return (
        np.where(small, 2.0 * np.sign(q[..., :1]), angle / np.where(small, 1.0, sine)) * q[..., 1:]
    )


def _curvature(w: Array) -> Array:
    """(1 - a/2 cot a/2) / a^2 for rotation vectors [..., 3] of length a, [..., 1]."""
    half = 0.5 * np.linalg.norm(w, axis=-1, keepdims=True)
    small = half < _SMALL_HALF_ANGLE
    safe = np.where(small, 1.0, half)
    return np.where(small, 1.0 / 12.0, (1.0 - safe / np.tan(safe)) / (4.0 * safe * safe))
