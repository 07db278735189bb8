"""What is asked of arguments before the engine sees them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import mujoco
import numpy as np

from mbrl.errors import ArgumentError, ModelError, NotFiniteError, suggestion
from mbrl.types import Array


def real_array(value: object, name: str) -> Array:
    """Return ``value`` as an array of float64.

    Raises:
        ArgumentError: if it does not hold real numbers.
    """
    try:
        array = np.asarray(value)
        if array.dtype.kind in "biuf":
            return array.astype(np.float64, copy=False)
        found = f"dtype {array.dtype}"
    except (TypeError, ValueError, RuntimeError) as error:  # ragged; a tensor that needs a gradient
        found = " ".join(str(error).split())
    raise ArgumentError(f"{name} must be an array of real numbers, got {found}")


def finite(value: Array, name: str) -> Array:
    """Return an array [[T,] B, n] that holds neither NaN nor infinity.

    Raises:
        NotFiniteError: naming the rows that do.
    """
    if not np.isfinite(value).all():
        wrong = ~np.isfinite(value).all(axis=-1)  # ([T,] B)
        rows = np.flatnonzero(wrong.reshape(-1, wrong.shape[-1]).any(axis=0))
        raise NotFiniteError(
            f"{name} must be finite, got NaN or infinity in rows {rows[:8].tolist()}", rows
        )
    return value


def loaded(model: mujoco.MjModel | str | os.PathLike[str]) -> mujoco.MjModel:
    """Return a model, compiled if it is given as a path."""
    if isinstance(model, mujoco.MjModel):
        return model
    if not isinstance(model, str | os.PathLike):
        raise ArgumentError(
            f"model must be a mujoco.MjModel or a path to MJCF, got {type(model).__name__}"
        )
    if str(model).lstrip().startswith("<"):
        raise ModelError(
            "model is the text of MJCF, not a path to it; legal: a path, or "
            "mujoco.MjModel.from_xml_string(text)"
        )
    path = Path(model)
    if not path.is_file():
        raise ModelError(f"model: no such MJCF file: {path}")
    try:
        return mujoco.MjModel.from_xml_path(str(path))
    except ValueError as error:
        raise ModelError(
            f"model: {path} does not compile: {' '.join(str(error).split())}"
        ) from error


def shaped(value: Array, name: str, shape: tuple[int, ...]) -> None:
    """Refuse an array of another shape."""
    if value.shape != shape:
        raise ArgumentError(f"{name} must have shape {list(shape)}, got {list(value.shape)}")


def check_fields(fields: Sequence[str]) -> None:
    """Refuse what is no field of MjData."""
    for name in fields:
        if name not in mujoco.batch.DATA_FIELDS:
            raise ArgumentError(
                f"unknown MjData field {name!r}; {suggestion(name, mujoco.batch.DATA_FIELDS)}"
            )
