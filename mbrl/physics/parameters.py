"""Chosen numbers of a model, such as masses and frictions, as one vector."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import mujoco
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mbrl.errors import ArgumentError, ModelError, NotFiniteError, one_line
from mbrl.physics.arguments import real_array
from mbrl.physics.parameter_names import Entry, entries, lowest, needs_constants, own_values
from mbrl.physics.simulator import Simulator
from mbrl.types import Array

# A change that every field bears and that none overlooks.
_PROBE = 2.0**-20


class Target(NamedTuple):
    """The numbers of one field that parameters set: field.flat[at] = values[column] * ratio."""

    field: str
    at: NDArray[np.intp]  # (k,)
    column: NDArray[np.intp]  # (k,)
    ratio: Array  # (k,)


class ModelParameters:
    r"""Numbers of a model as a vector :math:`p \in \mathbb{R}^P`: :math:`x' = F(x, u; p)`.

    A name is a field of ``MjModel``, of all objects or of one, in all components or in one::

        "dof_damping"                every degree of freedom: as many parameters
        "body_mass[pole]"            of one object, by its name or its index
        "geom_friction[floor,0]"     one component: sliding friction
        "jnt_range[*,1]"             * stands for all
        "opt.gravity[2]"             a field of MjOption

    A tuple of names is **one** parameter: it is the value of the first number, and the others keep
    their ratio to it. That is how to say what physics ties together:

    * ``("body_mass[pole]", "body_inertia[pole]")``: a body's density. ``"body_mass[pole]"`` alone
      leaves the inertia about the centre of mass as it is, which no real body does when material is
      added to it.
    * ``("geom_friction[floor,0]", "geom_friction[foot,0]")``: friction of a contact. MuJoCo takes
      the larger of both geoms' (of the one with the higher priority, where these differ), so that
      the smaller alone has no effect, and either alone has a kink where they are equal.
    * ``("actuator_gainprm[servo,0]", "actuator_biasprm[servo,1]")``: the gain of a position servo.

    Constants that MuJoCo derives (inverse weights, subtree masses, bounding volumes ...) follow, as
    after ``mj_setConst``.

    Args:
        model: the model or its simulator; only read.
        names: names, and tuples of names.
        lower: lower bounds, a number or [P]; None: 0 for masses, frictions and the like, which
            cannot be negative, else none. Differences stay within the bounds.
        upper: upper bounds; None: none.

    Attributes:
        model: a copy of the model.
        names: the name of each parameter, P of them; of a tuple, its names joined by " & ".
        size: P.
        values: the model's own values, [P], in MuJoCo's units.
        lower: lower bounds, [P].
        upper: upper bounds, [P].
        targets: what the parameters set.

    Raises:
        ArgumentError: on an unknown field, object or index, a field that cannot be a parameter, a
            number named twice, a tuple without a ratio, or bounds that exclude the model's values.
        ModelError: if MuJoCo compiled the model for the very value of a number (body/simple).
    """

    def __init__(
        self,
        model: mujoco.MjModel | Simulator,
        names: Sequence[str | Sequence[str]],
        *,
        lower: ArrayLike | None = None,
        upper: ArrayLike | None = None,
    ):
        if not isinstance(model, mujoco.MjModel | Simulator):
            raise ArgumentError(
                f"model must be a mujoco.MjModel or a Simulator, got {type(model).__name__}"
            )
        self.model = copy.copy(model.model if isinstance(model, Simulator) else model)
        groups = _groups(self.model, names)
        self.names = tuple(" & ".join(written) for written, _ in groups)
        self.size = len(groups)
        first = [members[0] for _, members in groups]
        self.values = np.array([own_values(self.model, e.field)[e.at] for e in first])
        self.targets = _targets(self.model, [members for _, members in groups])
        floor = np.array([lowest(entry.field) for entry in first])
        self.lower = floor if lower is None else self._bound("lower", lower)
        self.upper = np.full(self.size, np.inf) if upper is None else self._bound("upper", upper)
        self._check_bounds()
        # Parameters that constants derive from: they are derived again when one of these changes.
        derive = {
            t for target in self.targets if needs_constants(target.field) for t in target.column
        }
        self.deriving = np.array(sorted(derive), dtype=np.intp)
        self._check_compiled()

    def checked(self, values: object, rows: int) -> Array:
        """Return ``values``, [P] or [rows, P], as [rows, P] within the bounds.

        Raises:
            ArgumentError: on a wrong shape, a number that is not finite or out of bounds.
        """
        array = real_array(values, "parameters")
        if array.shape not in ((self.size,), (rows, self.size)):
            raise ArgumentError(
                f"parameters must have shape [{self.size}] or [{rows}, {self.size}], "
                f"got {list(array.shape)}"
            )
        array = np.broadcast_to(array, (rows, self.size))
        if not np.isfinite(array).all():
            at = np.flatnonzero(~np.isfinite(array).all(axis=1))
            raise NotFiniteError(
                f"parameters must be finite, got NaN or infinity in rows {at[:8].tolist()}", at
            )
        if (outside := (array < self.lower) | (array > self.upper)).any():
            row, j = (int(i) for i in np.argwhere(outside)[0])
            raise ArgumentError(
                f"parameters: {self.names[j]} must lie between {self.lower[j]:g} and "
                f"{self.upper[j]:g}, got {array[row, j]:g} in row {row}"
            )
        return array

    def scale(self, values: Array) -> Array:
        """Return magnitudes [n, P] of values [n, P], powers of two, to size differences by.

        Where a value is zero, the model's own value stands in for it, and 1 where that is zero too.
        """
        own = np.where(self.values == 0.0, 1.0, np.abs(self.values))
        _, exponent = np.frexp(np.where(values == 0.0, own, np.abs(values)))
        return np.ldexp(1.0, exponent)

    def model_with(self, values: ArrayLike) -> mujoco.MjModel:
        """Return a copy of the model that has the given values [P], derived constants included.

        Raises:
            ArgumentError: on a wrong shape, a number that is not finite or out of bounds.
            ModelError: if MuJoCo refuses the values.
        """
        (checked,) = self.checked(values, 1)
        model = copy.copy(self.model)
        for target in self.targets:
            written = checked[target.column] * target.ratio
            if not target.field.startswith("opt."):
                getattr(model, target.field).flat[target.at] = written
            else:
                option = target.field[4:]
                changed = own_values(model, target.field)
                changed[target.at] = written
                shape = np.shape(getattr(model.opt, option))
                setattr(model.opt, option, changed.reshape(shape) if shape else changed[0])
        try:
            mujoco.mj_setConst(model, mujoco.MjData(model))
        except (mujoco.FatalError, ValueError) as error:
            raise ModelError(f"MuJoCo refuses the parameters: {one_line(error)}") from error
        return model

    def fits(self, model: mujoco.MjModel) -> bool:
        """Whether the parameters exist in ``model`` under the same names."""
        return model.names == self.model.names and all(
            len(own_values(model, field)) == len(own_values(self.model, field))
            for field, *_ in self.targets
        )

    def _bound(self, name: str, value: ArrayLike) -> Array:
        array = real_array(value, name)
        if array.shape not in ((), (self.size,)) or np.isnan(array).any():
            raise ArgumentError(
                f"{name} must be a number or {self.size} numbers, got shape {list(array.shape)}"
                + (" with NaN" if np.isnan(array).any() else "")
            )
        return np.array(np.broadcast_to(array, self.size))

    def _check_bounds(self) -> None:
        legal = (
            (self.lower <= self.values) & (self.values <= self.upper) & (self.lower < self.upper)
        )
        for j in np.flatnonzero(~legal):
            raise ArgumentError(
                f"lower and upper must differ and include the model's own value: {self.names[j]} "
                f"is {self.values[j]:g}, the bounds are {self.lower[j]:g} and {self.upper[j]:g}"
            )

    def _check_compiled(self) -> None:
        """Refuse numbers that MuJoCo compiled away, which it says when they change."""
        for j in self.deriving:
            moved = self.values.copy()
            step = _PROBE * self.scale(self.values[None])[0, j]
            moved[j] += -step if moved[j] + step > self.upper[j] else step
            try:
                self.model_with(np.clip(moved, self.lower, self.upper))
            except ModelError as error:
                raise ModelError(f"{self.names[j]} cannot be a parameter: {error}") from error


def _groups(
    model: mujoco.MjModel, names: Sequence[str | Sequence[str]]
) -> list[tuple[list[str], list[Entry]]]:
    """What is written for each parameter, and the numbers that it sets."""
    if isinstance(names, str) or not isinstance(names, Sequence) or not names:
        raise ArgumentError(f"names must be a list of names and tuples of names, got {names!r}")
    groups = []
    for item in names:
        if isinstance(item, Sequence) and not isinstance(item, str):
            written = list(item)
            if not written:
                raise ArgumentError("names: a tuple of names is empty")
            groups.append((written, [entry for name in written for entry in entries(model, name)]))
        else:
            groups += [([entry.name], [entry]) for entry in entries(model, item)]
    counts = Counter((entry.field, entry.at) for _, members in groups for entry in members)
    for entry in (entry for _, members in groups for entry in members):
        if counts[entry.field, entry.at] > 1:
            raise ArgumentError(f"names: {entry.name} is named more than once")
    return groups


def _targets(model: mujoco.MjModel, groups: Sequence[Sequence[Entry]]) -> list[Target]:
    """Group the numbers by field, as they are written."""
    rows: dict[str, list[tuple[int, int, float]]] = {}
    for column, members in enumerate(groups):
        own = [float(own_values(model, entry.field)[entry.at]) for entry in members]
        for entry, value in zip(members, own, strict=True):
            if own[0] == 0.0 and value != 0.0:
                raise ArgumentError(
                    f"names: {entry.name} is {value:g} and has no ratio to {members[0].name}, "
                    "which is 0; name another first"
                )
            ratio = value / own[0] if own[0] != 0.0 else 1.0
            rows.setdefault(entry.field, []).append((entry.at, column, ratio))
    return [
        Target(
            field,
            np.array([at for at, *_ in written], dtype=np.intp),
            np.array([column for _, column, _ in written], dtype=np.intp),
            np.array([ratio for *_, ratio in written]),
        )
        for field, written in rows.items()
    ]
