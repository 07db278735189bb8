"""Where points of bodies are, in torch arithmetic with derivatives of every order."""

from __future__ import annotations

from collections.abc import Sequence

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
    parent. A slide has f = q and S the shift along its axis; a hinge has f = sin q,
    g = 1 - cos q, S the cross product by its axis, about its anchor, and C its square.

    Args:
        model: the compiled model; constants are copied out of it.
        points: (body id, offset [3] in the body's frame) of each point.

    Raises:
        TaskError: if a ball or free joint moves one of the points.
    """

    def __init__(self, model: mujoco.MjModel, points: Sequence[tuple[int, Array]]):
        # A factor is one joint of a body, the first one preceded by the body's placement; a body
        # without joints is one constant factor. Parents are indices of earlier factors.
        self._parents: list[int | None] = []
        base, first, second, address, slides = [], [], [], [], []
        last: dict[int, int] = {}  # body: its last factor
        for body in _needed(model, [body for body, _ in points]):
            parent, placement = last.get(int(model.body_parentid[body])), _placement(model, body)
            start = int(model.body_jntadr[body])
            for joint in range(start, start + int(model.body_jntnum[body])) or [None]:
                s, c = (np.zeros((4, 4)),) * 2 if joint is None else _motion(model, joint)
                base.append(placement)
                first.append(placement @ s)
                second.append(placement @ c)
                address.append(0 if joint is None else int(model.jnt_qposadr[joint]))
                slides.append(joint is not None and model.jnt_type[joint] == _SLIDE)
                self._parents.append(parent)
                last[body] = parent = len(self._parents) - 1
                placement = np.eye(4)
        self._base, self._first, self._second = (
            torch.from_numpy(np.array(part).reshape(-1, 4, 4)) for part in (base, first, second)
        )
        self._address, self._slides = torch.tensor(address), torch.tensor(slides)
        self._zero = torch.from_numpy(model.qpos0[address])
        self._points = [(last[b], torch.from_numpy(np.append(offset, 1.0))) for b, offset in points]

    def __call__(self, qpos: Tensor) -> Tensor:
        """[..., nq] float64 -> [..., points, 3]."""
        q = qpos[..., self._address] - self._zero
        f, g = torch.where(self._slides, q, q.sin()), 1 - q.cos()
        moved = f[..., None, None] * self._first + g[..., None, None] * self._second
        frames: list[Tensor] = []
        for factor, parent in zip((self._base + moved).unbind(-3), self._parents, strict=True):
            frames.append(factor if parent is None else frames[parent] @ factor)
        return torch.stack([frames[at][..., :3, :] @ point for at, point in self._points], dim=-2)


def _needed(model: mujoco.MjModel, bodies: Sequence[int]) -> list[int]:
    """Return the bodies and their ancestors below the world, parents first."""
    needed = set(bodies)
    for body in bodies:
        while body := int(model.body_parentid[body]):
            needed.add(body)
    return sorted(needed)


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
