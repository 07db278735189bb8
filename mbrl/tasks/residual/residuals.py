"""The kinds of residuals that YAML may name, and those made of others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mbrl.errors import ConfigError
from mbrl.options import chosen
from mbrl.tasks.residual import direct, postures
from mbrl.tasks.residual.direct import Direct, Indices, Numbers
from mbrl.tasks.residual.named_model import NamedModel, Point, Residual, Slopes
from mbrl.types import Array


class _Combination(Direct):
    """A linear combination of residuals of one width."""

    def __init__(
        self,
        named: NamedModel,
        where: str,
        of: Sequence[Mapping[str, Any]],
        coefficients: Array,
        target: Numbers | None,
        indices: Indices | None,
    ):
        self._parts = [residual_of(named, one, f"{where}.of[{i}]") for i, one in enumerate(of)]
        self._coefficients = coefficients
        widths = [part.size for part in self._parts]
        if len(set(widths)) > 1:
            raise ConfigError(f"{where}.of must have residuals of one width, got {widths}")
        self.uses_time = any(part.uses_time for part in self._parts)
        super().__init__(widths[0], where, target, indices)

    def _whole(self, point: Point) -> Array:
        return np.tensordot(self._coefficients, [p.value(point) for p in self._parts], 1)

    def _whole_slopes(self, point: Point) -> Slopes:
        parts = [part.slopes(point) for part in self._parts]
        by_x, by_u = (
            np.tensordot(self._coefficients, each, 1) for each in zip(*parts, strict=True)
        )
        return Slopes(by_x, by_u)


class Difference(_Combination):
    """The first residual less the second.

    Args:
        of: two residuals of one width.
        target: what their difference should be.
        indices: which of its entries.
    """

    def __init__(
        self,
        named: NamedModel,
        where: str,
        *,
        of: Sequence[Mapping[str, Any]],
        target: Numbers | None = None,
        indices: Indices | None = None,
    ):
        if len(of) != 2:
            raise ConfigError(f"{where}.of must be a list of 2 residuals, got {len(of)}")
        super().__init__(named, where, of, np.array([1.0, -1.0]), target, indices)


class Mean(_Combination):
    """The mean of residuals.

    Args:
        of: residuals of one width.
        target: what their mean should be.
        indices: which of its entries.
    """

    def __init__(
        self,
        named: NamedModel,
        where: str,
        *,
        of: Sequence[Mapping[str, Any]],
        target: Numbers | None = None,
        indices: Indices | None = None,
    ):
        if not of:
            raise ConfigError(f"{where}.of must be a list of residuals, got none")
        super().__init__(named, where, of, np.full(len(of), 1.0 / len(of)), target, indices)


RESIDUALS: dict[str, type[Residual]] = {
    "activation": direct.Activation,
    "angle": postures.Angle,
    "body_axis": direct.BodyAxis,
    "body_position": direct.BodyPosition,
    "body_velocity": direct.BodyVelocity,
    "center_of_mass": direct.CenterOfMass,
    "com_velocity": direct.ComVelocity,
    "control": direct.Control,
    "difference": Difference,
    "joint_position": direct.JointPosition,
    "joint_velocity": direct.JointVelocity,
    "mean": Mean,
    "posture": postures.Posture,
    "sensor": direct.Sensor,
    "site_position": direct.SitePosition,
    "site_velocity": direct.SiteVelocity,
    "track": postures.Track,
}


def residual_of(named: NamedModel, declared: Mapping[str, Any], where: str) -> Residual:
    """Return the residual that YAML declares, ``{kind: name, **options}``.

    Args:
        named: the model.
        declared: what stands there.
        where: its key, for messages.

    Raises:
        ConfigError: naming the key, its value and what is legal.
    """
    if not isinstance(declared, Mapping):
        raise ConfigError(f"{where} must be a mapping, got {declared!r}")
    options = chosen(RESIDUALS, declared, where)
    kind: Any = RESIDUALS[options.pop("kind")]
    made: Residual = kind(named, where, **options)
    return made
