"""Names of model parameters: ``field``, ``field[object]`` and ``field[object,component]``."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import NamedTuple

import mujoco
import numpy as np

from mbrl.errors import ArgumentError, suggestion
from mbrl.types import Array

_NAME = re.compile(r"\s*([\w.]+)\s*(?:\[(.*)\])?\s*")
_OBJECTS = {
    "body": mujoco.mjtObj.mjOBJ_BODY,
    "jnt": mujoco.mjtObj.mjOBJ_JOINT,
    "dof": mujoco.mjtObj.mjOBJ_JOINT,
    "geom": mujoco.mjtObj.mjOBJ_GEOM,
    "site": mujoco.mjtObj.mjOBJ_SITE,
    "pair": mujoco.mjtObj.mjOBJ_PAIR,
    "tendon": mujoco.mjtObj.mjOBJ_TENDON,
    "actuator": mujoco.mjtObj.mjOBJ_ACTUATOR,
    "eq": mujoco.mjtObj.mjOBJ_EQUALITY,
}
# Numbers that the next step depends on and that may be chosen one by one. Left out: rotations and
# axes, whose numbers are bound to a norm; bounds of controls and activations, which Jacobians are
# taken within; what MuJoCo derives; options of its solver; all that is only seen.
_FIELDS = {
    "body": "mass inertia pos ipos gravcomp",
    "jnt": "pos stiffness stiffnesspoly range margin solref solimp actfrcrange",
    "dof": "armature damping dampingpoly frictionloss solref solimp",
    "geom": "friction size pos margin gap solmix solref solimp fluid adhesion surfacevel",
    "site": "pos",
    "pair": "friction margin gap solref solreffriction solimp adhesion",
    "tendon": "stiffness stiffnesspoly damping dampingpoly armature frictionloss lengthspring "
    "range margin solref_lim solimp_lim solref_fri solimp_fri actfrcrange",
    "actuator": "gear gainprm biasprm dynprm forcerange armature damping dampingpoly cranklength",
    "eq": "data solref solimp",
}
FIELDS = frozenset(
    [f"{prefix}_{rest}" for prefix, names in _FIELDS.items() for rest in names.split()]
    + ["qpos_spring", "opt.gravity", "opt.wind", "opt.density", "opt.viscosity", "opt.impratio"]
)
_NOT_NEGATIVE = frozenset(
    {
        *("body_mass", "body_inertia", "geom_friction", "geom_size", "pair_friction"),
        *("dof_armature", "dof_damping", "dof_frictionloss", "jnt_stiffness"),
        *("tendon_armature", "tendon_damping", "tendon_frictionloss", "tendon_stiffness"),
        *("opt.density", "opt.viscosity", "opt.impratio"),
    }
)


class Entry(NamedTuple):
    """One number of a model."""

    name: str
    field: str
    at: int  # index into the flattened field


def entries(model: mujoco.MjModel, name: str) -> list[Entry]:
    """Return the numbers that a name stands for, at least one.

    Args:
        model: the compiled model.
        name: a field of MjModel, alone or followed by an object (its name or index) and a component
            in brackets; ``*`` stands for all.

    Raises:
        ArgumentError: if there is no such field, object or component, or the field is none of
            :data:`FIELDS`.
    """
    match = _NAME.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        raise ArgumentError(
            f"names: expected 'field', 'field[object]' or 'field[object,component]', got {name!r}"
        )
    field, inside = match.groups()
    _check_field(model, field)
    found = _Field(model, field).entries(inside)
    if not found:
        raise ArgumentError(f"names: {name!r}: the model has none")
    return found


def own_values(model: mujoco.MjModel, field: str) -> Array:
    """Return a copy of a model's own values of a field, flattened."""
    source = getattr(model.opt, field[4:]) if field.startswith("opt.") else getattr(model, field)
    return np.array(source, dtype=np.float64).ravel()


def lowest(field: str) -> float:
    """Return the least value that makes physical sense."""
    return 0.0 if field in _NOT_NEGATIVE else -np.inf


def needs_constants(field: str) -> bool:
    """Whether constants that MuJoCo derives (``mj_setConst``) depend on a field."""
    return field in mujoco.MjModel._setconst_inputs or field.startswith("opt.")


def _check_field(model: mujoco.MjModel, field: str) -> None:
    if field in FIELDS:
        return
    holder, attribute = (model.opt, field[4:]) if field.startswith("opt.") else (model, field)
    value = getattr(holder, attribute, None)
    if value is None or callable(value) or attribute.startswith("_"):
        raise ArgumentError(f"names: unknown model field {field!r}; {suggestion(field, FIELDS)}")
    if np.asarray(value).dtype.kind != "f":
        reason = "it holds no real numbers"
    elif field not in mujoco.batch.MODEL_FIELDS:
        reason = "all simulations of a model share it"
    elif field.endswith(("quat", "_axis")):
        reason = "the numbers of a rotation or an axis are not independent of each other"
    else:
        reason = "MuJoCo derives it from others, or it is none of the physics alone"
    raise ArgumentError(
        f"names: field {field!r} cannot be a parameter: {reason}; {suggestion(field, FIELDS)}"
    )


class _Field:
    """A field of one model: its shape, and the rows that belong to named objects."""

    def __init__(self, model: mujoco.MjModel, field: str):
        self._field = field
        values = (
            getattr(model.opt, field[4:]) if field.startswith("opt.") else getattr(model, field)
        )
        self._shape = np.shape(values)
        self._rows = _named_rows(model, field)

    def entries(self, inside: str | None) -> list[Entry]:
        """The numbers meant by what stands in brackets, if brackets there are."""
        keys = self._keys(inside)
        if len(keys) > len(self._shape):
            raise ArgumentError(
                f"names: '{self._field}[{inside}]' has {len(keys)} indices, but {self._described()}"
            )
        chosen = [self._indices(axis, keys) for axis in range(len(self._shape))]
        return [
            Entry(
                self._name(at), self._field, int(np.ravel_multi_index(at, self._shape)) if at else 0
            )
            for at in itertools.product(*chosen)
        ]

    def _keys(self, inside: str | None) -> list[str]:
        if inside is None:
            return []
        # An object's name may itself hold a comma.
        return [inside] if inside in self._rows else [k.strip() for k in inside.rsplit(",", 1)]

    def _indices(self, axis: int, keys: list[str]) -> Sequence[int]:
        size = self._shape[axis]
        key = keys[axis] if axis < len(keys) else "*"
        if key == "*":
            return range(size)
        if axis == 0 and key in self._rows:
            return self._rows[key]
        if key.isdecimal() and int(key) < size:
            return [int(key)]
        if key.isdecimal() or axis or not self._rows:
            raise ArgumentError(
                f"names: {self._field} has no index {key!r}: {self._described()}; '*' means all"
            )
        raise ArgumentError(
            f"names: {self._field} has no object {key!r}; {suggestion(key, self._rows)}"
        )

    def _name(self, at: tuple[int, ...]) -> str:
        """The most telling name of one number, which stands for it alone."""
        if not at:
            return self._field
        owner = next((n for n, rows in self._rows.items() if list(rows) == [at[0]]), str(at[0]))
        return f"{self._field}[{','.join([owner, *map(str, at[1:])])}]"

    def _described(self) -> str:
        return f"its shape is {list(self._shape)}"


def _named_rows(model: mujoco.MjModel, field: str) -> dict[str, Sequence[int]]:
    """Rows of a field by the name of the object that they belong to."""
    prefix = field.partition("_")[0]
    if prefix not in _OBJECTS:
        return {}
    rows: dict[str, Sequence[int]] = {}
    joints = prefix in ("jnt", "dof")
    for index in range(model.njnt if joints else len(getattr(model, field))):
        if name := mujoco.mj_id2name(model, _OBJECTS[prefix], index):
            dofs = prefix == "dof"  # a ball joint has three, a free joint six
            rows[name] = np.flatnonzero(model.dof_jntid == index).tolist() if dofs else [index]
    return rows
