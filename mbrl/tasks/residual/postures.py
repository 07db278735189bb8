"""Residuals of whole poses: wrapped angles, a keyframe, a recorded motion."""

from __future__ import annotations

from collections.abc import Sequence

import mujoco
import numpy as np
from numpy.typing import NDArray

from mbrl.errors import ConfigError
from mbrl.tasks.residual.direct import Names, Numbers, joint_dofs, no_slopes, scalar_joints
from mbrl.tasks.residual.named_model import NamedModel, Point, Residual, Slopes, vector
from mbrl.tasks.residual.recording import load_recording, resampled
from mbrl.types import Array

_HINGE = int(mujoco.mjtJoint.mjJNT_HINGE)


class Angle(Residual):
    r"""Hinges against angles, without a jump between pi and -pi.

    .. math:: r = (\cos q - \cos q^*, \; \sin q - \sin q^*), \qquad |r| = 2 |\sin((q - q^*) / 2)|.

    Args:
        joint: a hinge, or several: first all cosines, then all sines.
        target: q* [rad].
    """

    def __init__(self, named: NamedModel, where: str, *, joint: Names, target: Numbers = 0.0):
        ids, model = scalar_joints(named, joint, f"{where}.joint"), named.model
        for i in ids:
            if model.jnt_type[i] != _HINGE:
                raise ConfigError(
                    f"{where}.joint: {model.joint(i).name!r} is a slide; legal: hinges"
                )
        self._q, self._dof = model.jnt_qposadr[ids], model.jnt_dofadr[ids]
        self._target = vector(target, len(ids), f"{where}.target")
        self._spec, self.size = named.spec, 2 * len(ids)

    def value(self, point: Point) -> Array:
        """Return r, [N, 2 n]."""
        q, wanted = point.state[:, self._q], self._target
        return np.concatenate([np.cos(q) - np.cos(wanted), np.sin(q) - np.sin(wanted)], axis=1)

    def slopes(self, point: Point) -> Slopes:
        """Return the Jacobians of r."""
        q, n = point.state[:, self._q], len(self._q)
        slopes, each = no_slopes(self._spec, len(q), self.size), np.arange(n)
        slopes.x[:, each, self._dof] = -np.sin(q)
        slopes.x[:, n + each, self._dof] = np.cos(q)
        return slopes


class _Relative(Residual):
    r"""Some components of :math:`W (x \ominus x^*)`, a difference in tangent space."""

    def __init__(self, named: NamedModel, rows: NDArray[np.intp], weights: Array):
        self._spec, self._rows, self._weights = named.spec, rows, weights
        self.size = len(rows)

    def _reference(self, point: Point) -> Array:
        """Return x*, (nx) or [N, nx]."""
        raise NotImplementedError

    def value(self, point: Point) -> Array:
        """Return r, [N, k]."""
        return self._weights * self._difference(point)[:, self._rows]

    def slopes(self, point: Point) -> Slopes:
        """Return the Jacobians of r."""
        slopes = no_slopes(self._spec, len(point.state), self.size)
        slopes.x[:, np.arange(self.size), self._rows] = self._weights
        whole = self._spec.through_difference(slopes.x, self._difference(point))
        return Slopes(whole, slopes.u)

    def _difference(self, point: Point) -> Array:
        return self._spec.difference(self._reference(point), point.state)


class Posture(_Relative):
    r"""Joints relative to a pose, :math:`q \ominus q^*`; of balls, a rotation vector.

    Args:
        keyframe: a keyframe that has the pose; None: the model's reference pose.
        qpos: the pose itself, [nq].
        joint: which joints; None: all.
    """

    def __init__(
        self,
        named: NamedModel,
        where: str,
        *,
        keyframe: str | None = None,
        qpos: Sequence[float] | None = None,
        joint: Names | None = None,
    ):
        dofs = joint_dofs(named, joint, f"{where}.joint")
        super().__init__(named, dofs, np.ones(len(dofs)))
        self._pose = named.state(keyframe, f"{where}.keyframe")
        if qpos is not None:
            if keyframe is not None:
                raise ConfigError(f"{where}: either keyframe or qpos, not both")
            if len(qpos) != named.spec.nq:
                raise ConfigError(
                    f"{where}.qpos must have {named.spec.nq} numbers, got {len(qpos)}"
                )
            self._pose[: named.spec.nq] = qpos

    def _reference(self, point: Point) -> Array:
        return self._pose


class Track(_Relative):
    r"""A recorded motion: :math:`(q \ominus q^*(\tau), \; w (v - v^*(\tau)))`.

    The state after the action of step t belongs to :math:`\tau = (t + 1) \Delta t`, counted from
    the recording's first frame. Between frames the recording is interpolated, past its end its
    last frame holds.

    Args:
        recording: a file, see :func:`load_recording`.
        velocity_weight: w; 0 leaves velocities out.
        joint: which joints; None: all.
    """

    uses_time = True

    def __init__(
        self,
        named: NamedModel,
        where: str,
        *,
        recording: str,
        velocity_weight: float = 0.0,
        joint: Names | None = None,
    ):
        if velocity_weight < 0:
            raise ConfigError(f"{where}.velocity_weight must be 0 or more, got {velocity_weight}")
        rows = joint_dofs(named, joint, f"{where}.joint")
        weights = np.ones(len(rows))
        found = load_recording(recording, named.spec, f"{where}.recording")
        if velocity_weight:
            if found.qvel is None:
                raise ConfigError(
                    f"{where}.velocity_weight must be 0: the recording {recording} has no qvel"
                )
            weights = np.concatenate([weights, velocity_weight * weights])
            rows = np.concatenate([rows, named.spec.nv + rows])
        super().__init__(named, rows, weights)
        self._frames = resampled(found, named.spec, named.dt)

    def _reference(self, point: Point) -> Array:
        return self._frames[np.minimum(point.t + 1, len(self._frames) - 1)]
