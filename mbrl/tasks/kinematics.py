"""Where points of bodies are, in torch arithmetic with derivatives of every order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import mujoco
import numpy as np
import torch
from torch import Tensor

from mbrl.errors import TaskError
from mbrl.types import Array

_HINGE, _SLIDE = mujoco.mjtJoint.mjJNT_HINGE, mujoco.mjtJoint.mjJNT_SLIDE


class PointKinematics:
    r"""World positions of points fixed in bodies, as ``mj_kinematics`` computes them.

    .. math:: p(q) = T_b(q) \begin{pmatrix} o \\ 1 \end{pmatrix}, \qquad
              T_b = T_{\text{parent}} \, P_b \prod_j (I + f_j(q_j) S_j + g_j(q_j) C_j)

    for a point with offset o in body b, homogeneous transforms T and the body's placement P in its
    parent, q counted from ``qpos0``. A slide has f = q and S the shift along its axis; a hinge has
    f = sin q, g = 1 - cos q, S the cross product by its axis, about its anchor, and C its square.

    Args:
        model: the compiled model; constants are copied out of it.
        points: (body id, offset [3] in the body's frame) of each point.

    Raises:
        TaskError: if a ball or free joint moves one of the points.
    """

    def __init__(self, model: mujoco.MjModel, points: Sequence[tuple[int, Array]]):
        factors, last = _factors(model, [body for body, _ in points])
        self._parents = [factor.parent for factor in factors]
        self._constant = torch.from_numpy(np.stack([factor.constant for factor in factors]))
        self._first = torch.from_numpy(np.stack([factor.first for factor in factors]))
        self._second = torch.from_numpy(np.stack([factor.second for factor in factors]))
        self._address = torch.tensor([factor.address for factor in factors])
        self._slides = torch.tensor([factor.slides for factor in factors])
        self._zero = torch.from_numpy(model.qpos0[self._address.numpy()])
        self._points = [(last[b], torch.from_numpy(np.append(offset, 1.0))) for b, offset in points]

    def __call__(self, qpos: Tensor) -> Tensor:
        """[..., nq] float64 -> [..., points, 3]."""
        q = qpos[..., self._address] - self._zero
        f, g = torch.where(self._slides, q, q.sin()), 1 - q.cos()
        moved = f[..., None, None] * self._first + g[..., None, None] * self._second
        frames: list[Tensor] = []
        for factor, parent in zip((self._constant + moved).unbind(-3), self._parents, strict=True):
            frames.append(factor if parent is None else frames[parent] @ factor)
        return torch.stack([frames[at][..., :3, :] @ point for at, point in self._points], dim=-2)


class _Factor(NamedTuple):
    """One joint of a body, the first one after the body's placement; or a placement alone."""

    parent: int | None  # index of the factor before it
    constant: Array  # (4, 4)
    first: Array  # (4, 4), times f(q)
    second: Array  # (4, 4), times g(q)
    address: int = 0  # of q in qpos
    slides: bool = False


def _factors(model: mujoco.MjModel, bodies: Sequence[int]) -> tuple[list[_Factor], dict[int, int]]:
    """Return the factors of the bodies and their ancestors, and the last factor of each body."""
    needed = set(bodies)
    for body in bodies:
        while body := int(model.body_parentid[body]):
            needed.add(body)
    factors: list[_Factor] = []
    last: dict[int, int] = {}
    for body in sorted(needed):  # parents first
        parent, placement = last.get(int(model.body_parentid[body])), _placement(model, body)
        if not model.body_jntnum[body]:
            factors.append(_Factor(parent, placement, np.zeros((4, 4)), np.zeros((4, 4))))
        for k in range(int(model.body_jntnum[body])):
            joint = int(model.body_jntadr[body]) + k
            s, c = _motion(model, joint)
            address, slides = int(model.jnt_qposadr[joint]), model.jnt_type[joint] == _SLIDE
            factors.append(
                _Factor(parent, placement, placement @ s, placement @ c, address, bool(slides))
            )
            parent, placement = len(factors) - 1, np.eye(4)
        last[body] = len(factors) - 1
    return factors, last


def _placement(model: mujoco.MjModel, body: int) -> Array:
    rotation = np.empty(9)
    mujoco.mju_quat2Mat(rotation, model.body_quat[body])
    transform = np.eye(4)
    transform[:3, :3], transform[:3, 3] = rotation.reshape(3, 3), model.body_pos[body]
    return transform


def _motion(model: mujoco.MjModel, joint: int) -> tuple[Array, Array]:
    """Return S and C of a joint, (4, 4) each."""
    s, c = np.zeros((4, 4)), np.zeros((4, 4))
    axis, anchor = model.jnt_axis[joint], model.jnt_pos[joint]
    if model.jnt_type[joint] == _SLIDE:
        s[:3, 3] = axis
    elif model.jnt_type[joint] == _HINGE:
        x, y, z = axis
        cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
        s[:3, :3], s[:3, 3] = cross, -cross @ anchor
        c[:3, :3], c[:3, 3] = cross @ cross, -cross @ cross @ anchor
    else:
        raise TaskError(
            f"joint {model.joint(joint).name!r} must be a hinge or a slide: the torch formula of "
            "this environment covers no ball and no free joint"
        )
    return s, c
