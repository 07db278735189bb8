"""Residuals that are coordinates of the state, controls or measurements, less a target."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence

import mujoco
import numpy as np
from numpy.typing import NDArray

from mbrl.errors import ConfigError
from mbrl.physics import Probe, StateSpec
from mbrl.tasks.residual.named_model import NamedModel, Point, Residual, Slopes, vector
from mbrl.types import Array

Names = str | Sequence[str]
Numbers = float | Sequence[float]
Indices = int | Sequence[int]
_SCALAR = {int(mujoco.mjtJoint.mjJNT_HINGE), int(mujoco.mjtJoint.mjJNT_SLIDE)}
_SENSOR, _OBJECT = mujoco.mjtSensor, mujoco.mjtObj
_AXES = "xyz"


class Direct(Residual):
    r"""Some entries of a vector y(x, u), less a target: :math:`r = y_i - y_i^*`.

    Args:
        width: that of y.
        where: configuration key, for messages.
        target: y*, one number for all entries or one for each; None: zero.
        indices: which entries of y; None: all.
    """

    def __init__(
        self, width: int, where: str, target: Numbers | None, indices: Indices | None
    ) -> None:
        if indices is None:
            indices = range(width)
        listed = [indices] if isinstance(indices, int) else list(indices)
        wrong = [i for i in listed if not 0 <= i < width]
        if wrong or not listed:
            got = repr(wrong[0]) if wrong else "none"
            raise ConfigError(f"{where}.indices must be from 0 to {width - 1}, got {got}")
        self._rows = np.array(listed, dtype=np.intp)
        self.size = len(listed)
        self._target = vector(0.0 if target is None else target, self.size, f"{where}.target")

    def value(self, point: Point) -> Array:
        """Return r, [N, k]."""
        return self._whole(point)[:, self._rows] - self._target

    def slopes(self, point: Point) -> Slopes:
        """Return the Jacobians of r."""
        x, u = self._whole_slopes(point)
        return Slopes(x[:, self._rows], u[:, self._rows])

    @abstractmethod
    def _whole(self, point: Point) -> Array:
        """Return y, [N, width]."""

    @abstractmethod
    def _whole_slopes(self, point: Point) -> Slopes:
        """Return the Jacobians of y."""


class _Coordinates(Direct):
    """Coordinates of the state whose tangents are their own increments."""

    def __init__(
        self,
        named: NamedModel,
        where: str,
        coordinates: Sequence[int],
        tangents: Sequence[int],
        target: Numbers | None,
        indices: Indices | None,
    ):
        super().__init__(len(coordinates), where, target, indices)
        self._x, self._dx = np.array(coordinates, dtype=np.intp), np.array(tangents, dtype=np.intp)
        self._spec = named.spec

    def _whole(self, point: Point) -> Array:
        return point.state[:, self._x]

    def _whole_slopes(self, point: Point) -> Slopes:
        slopes = no_slopes(self._spec, len(point.state), len(self._x))
        slopes.x[:, np.arange(len(self._x)), self._dx] = 1.0
        return slopes


class JointPosition(_Coordinates):
    """Positions of hinges [rad] and slides [m].

    Args:
        joint: a joint, or several; None: all, none of them a ball or free joint.
        target: where they should be.
        indices: which of them.
    """

    def __init__(
        self,
        named: NamedModel,
        where: str,
        *,
        joint: Names | None = None,
        target: Numbers | None = None,
        indices: Indices | None = None,
    ):
        ids = scalar_joints(named, joint, f"{where}.joint")
        q, v = named.model.jnt_qposadr[ids], named.model.jnt_dofadr[ids]
        super().__init__(named, where, q, v, target, indices)


class JointVelocity(_Coordinates):
    """Velocities of joints, three of a ball and six of a free joint.

    Args:
        joint: a joint, or several; None: all.
        target: what they should be.
        indices: which of the velocities.
    """

    def __init__(
        self,
        named: NamedModel,
        where: str,
        *,
        joint: Names | None = None,
        target: Numbers | None = None,
        indices: Indices | None = None,
    ):
        dofs = joint_dofs(named, joint, f"{where}.joint")
        spec = named.spec
        super().__init__(named, where, spec.nq + dofs, spec.nv + dofs, target, indices)


class Activation(_Coordinates):
    """Activations of actuators.

    Args:
        actuator: an actuator with activation dynamics, or several; None: all of them.
        target: what they should be.
        indices: which of the activations.
    """

    def __init__(
        self,
        named: NamedModel,
        where: str,
        *,
        actuator: Names | None = None,
        target: Numbers | None = None,
        indices: Indices | None = None,
    ):
        model, spec = named.model, named.spec
        found: list[int] = []
        for i in named.ids("actuator", actuator, f"{where}.actuator"):
            start, count = int(model.actuator_actadr[i]), int(model.actuator_actnum[i])
            if not count and actuator is not None:
                raise ConfigError(
                    f"{where}.actuator: {model.actuator(i).name!r} has no activation dynamics"
                )
            found += range(start, start + count)
        if not found:
            raise ConfigError(f"{where}.actuator: the model has no activation")
        acts = np.array(found, dtype=np.intp)
        first_x, first_dx = spec.nq + spec.nv, 2 * spec.nv
        super().__init__(named, where, first_x + acts, first_dx + acts, target, indices)


class Control(Direct):
    """Controls u, as the policy gives them.

    Args:
        actuator: an actuator, or several; None: all.
        target: what they should be.
        indices: which of the controls.
    """

    def __init__(
        self,
        named: NamedModel,
        where: str,
        *,
        actuator: Names | None = None,
        target: Numbers | None = None,
        indices: Indices | None = None,
    ):
        model = named.model
        self._columns = np.array(
            [
                int(model.actuator_ctrladr[i]) + k
                for i in named.ids("actuator", actuator, f"{where}.actuator")
                for k in range(model.actuator_ctrlnum[i])
            ],
            dtype=np.intp,
        )
        if not len(self._columns):
            raise ConfigError(f"{where}: the model has no control")
        super().__init__(len(self._columns), where, target, indices)
        self._spec = named.spec

    def _whole(self, point: Point) -> Array:
        return point.ctrl[:, self._columns]

    def _whole_slopes(self, point: Point) -> Slopes:
        slopes = no_slopes(self._spec, len(point.state), len(self._columns))
        slopes.u[:, np.arange(len(self._columns)), self._columns] = 1.0
        return slopes


class Measured(Direct):
    """What a probe measures, less a target."""

    def __init__(
        self,
        named: NamedModel,
        where: str,
        probe: Probe,
        target: Numbers | None,
        indices: Indices | None,
    ):
        self._part = named.measured(probe)
        super().__init__(probe.size(named.model), where, target, indices)

    def _whole(self, point: Point) -> Array:
        return point.measured[:, self._part]

    def _whole_slopes(self, point: Point) -> Slopes:
        if point.slopes is None:
            raise ValueError("a point must be measured with its slopes before it is linearised")
        return Slopes(point.slopes.C[:, self._part], point.slopes.D[:, self._part])


class Sensor(Measured):
    """A sensor of the model, of any kind, as ``mj_forward`` leaves it.

    Args:
        sensor: its name.
        target: what it should show.
        indices: which of its numbers.
    """

    def __init__(
        self,
        named: NamedModel,
        where: str,
        *,
        sensor: str,
        target: Numbers | None = None,
        indices: Indices | None = None,
    ):
        at = named.id("sensor", sensor, f"{where}.sensor")
        super().__init__(named, where, Probe.sensor(named.model, at), target, indices)


class _Framed(Measured):
    """A vector in the world that belongs to a site or a body, some of its coordinates."""

    def __init__(
        self,
        named: NamedModel,
        where: str,
        kind: int,
        of: int,
        what: tuple[str, str],
        target: Numbers | None,
        axes: str | None,
    ):
        noun, name = what
        probe = Probe(kind, of, named.id(noun, name, f"{where}.{noun}"))
        super().__init__(named, where, probe, target, axis_indices(axes, where))


class _OfSite(_Framed):
    kind: int

    def __init__(
        self,
        named: NamedModel,
        where: str,
        *,
        site: str,
        target: Numbers | None = None,
        axes: str | None = None,
    ):
        of = int(_OBJECT.mjOBJ_SITE)
        super().__init__(named, where, self.kind, of, ("site", site), target, axes)


class SitePosition(_OfSite):
    """Position of a site in the world [m].

    Args:
        site: its name.
        target: where it should be.
        axes: which coordinates, such as "xz"; None: all three.
    """

    kind = int(_SENSOR.mjSENS_FRAMEPOS)


class SiteVelocity(_OfSite):
    """Velocity of a site in the world [m/s].

    Args:
        site: its name.
        target: what it should be.
        axes: which coordinates, such as "xz"; None: all three.
    """

    kind = int(_SENSOR.mjSENS_FRAMELINVEL)


class _OfBody(_Framed):
    kind: int
    of = int(_OBJECT.mjOBJ_XBODY)

    def __init__(
        self,
        named: NamedModel,
        where: str,
        *,
        body: str,
        target: Numbers | None = None,
        axes: str | None = None,
    ):
        super().__init__(named, where, self.kind, self.of, ("body", body), target, axes)


class BodyPosition(_OfBody):
    """Position of a body's frame in the world [m].

    Args:
        body: its name.
        target: where it should be.
        axes: which coordinates, such as "xz"; None: all three.
    """

    kind = int(_SENSOR.mjSENS_FRAMEPOS)


class BodyVelocity(_OfBody):
    """Velocity of the origin of a body's frame in the world [m/s].

    Args:
        body: its name.
        target: what it should be.
        axes: which coordinates, such as "xz"; None: all three.
    """

    kind = int(_SENSOR.mjSENS_FRAMELINVEL)


class CenterOfMass(_OfBody):
    """Center of mass of a body and all that hangs on it [m].

    Args:
        body: its name.
        target: where it should be.
        axes: which coordinates, such as "xz"; None: all three.
    """

    kind, of = int(_SENSOR.mjSENS_SUBTREECOM), 0


class ComVelocity(_OfBody):
    """Velocity of the center of mass of a body and all that hangs on it [m/s].

    Args:
        body: its name.
        target: what it should be.
        axes: which coordinates, such as "xz"; None: all three.
    """

    kind, of = int(_SENSOR.mjSENS_SUBTREELINVEL), 0


class BodyAxis(_Framed):
    """An axis of a body's frame, a unit vector in the world.

    Args:
        body: its name.
        axis: "x", "y" or "z".
        target: which way it should point; None: zero in all coordinates that ``axes`` names.
        axes: which coordinates, such as "xy"; None: all three.
    """

    def __init__(
        self,
        named: NamedModel,
        where: str,
        *,
        body: str,
        axis: str = "z",
        target: Numbers | None = None,
        axes: str | None = None,
    ):
        if axis not in tuple(_AXES):
            raise ConfigError(f"{where}.axis must be x, y or z, got {axis!r}")
        kind = int(_SENSOR.mjSENS_FRAMEXAXIS) + _AXES.index(axis)
        of = int(_OBJECT.mjOBJ_XBODY)
        super().__init__(named, where, kind, of, ("body", body), target, axes)


def no_slopes(spec: StateSpec, n: int, k: int) -> Slopes:
    """Return Jacobians of zeros."""
    return Slopes(np.zeros((n, k, spec.ndx)), np.zeros((n, k, spec.nu)))


def scalar_joints(named: NamedModel, names: Names | None, where: str) -> list[int]:
    """Return the ids of hinges and slides; refuse other joints."""
    ids = named.ids("joint", names, where)
    for i in ids:
        if int(named.model.jnt_type[i]) not in _SCALAR:
            raise ConfigError(
                f"{where}: {named.model.joint(i).name!r} is a ball or free joint; legal: hinges "
                "and slides; see the kind posture"
            )
    if not ids:
        raise ConfigError(f"{where}: the model has no joint")
    return ids


def joint_dofs(named: NamedModel, names: Names | None, where: str) -> NDArray[np.intp]:
    """Return the degrees of freedom of joints; None: of all."""
    ids, model = named.ids("joint", names, where), named.model
    of_joint = [np.flatnonzero(model.dof_jntid == i) for i in ids]
    if not of_joint:
        raise ConfigError(f"{where}: the model has no joint")
    return np.concatenate(of_joint)


def axis_indices(axes: str | None, where: str) -> Indices | None:
    """Return the indices of coordinates named by letters."""
    if axes is None:
        return None
    if not axes or set(axes) - set(_AXES) or len(set(axes)) < len(axes):
        raise ConfigError(f"{where}.axes must be some of the letters xyz, got {axes!r}")
    return [_AXES.index(letter) for letter in axes]
