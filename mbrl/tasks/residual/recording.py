"""Recorded motions: reading them, and resampling them to control steps."""

from __future__ import annotations

import math
import zipfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from mbrl.errors import ConfigError, one_line
from mbrl.physics import StateSpec
from mbrl.tasks.residual.named_model import found_file
from mbrl.types import Array


class Recording(NamedTuple):
    """A motion in frames."""

    time: Array  # (F,) seconds, increasing
    qpos: Array  # (F, nq)
    qvel: Array | None  # (F, nv)


def load_recording(path: str, spec: StateSpec, where: str) -> Recording:
    """Read a recording.

    Args:
        path: an ``.npz`` with arrays time [F], qpos [F, nq] and perhaps qvel [F, nv]; or a
            ``.csv`` with a header that begins with "time", and after the time nq numbers in a row,
            or nq + nv.
        spec: the state space.
        where: configuration key, for messages.

    Raises:
        ConfigError: if it is missing or malformed.
    """
    file = found_file(path)
    if not file.is_file():
        raise ConfigError(f"{where}: no such file: {path}")
    try:
        read = _read_npz if file.suffix == ".npz" else _read_csv
        found = read(file, spec)
    except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(f"{where}: {path} is no recording: {one_line(error)}") from error
    for name, value, width in (
        ("time", found.time, None),
        ("qpos", found.qpos, spec.nq),
        ("qvel", found.qvel, spec.nv),
    ):
        if value is None:
            continue
        wanted = (len(found.time),) if width is None else (len(found.time), width)
        if found.time.ndim != 1 or value.shape != wanted or value.dtype != np.float64:
            raise ConfigError(
                f"{where}: {name} of {path} must be numbers of shape {list(wanted)}, "
                f"got {value.dtype} {list(value.shape)}"
            )
        if not np.isfinite(value).all():
            raise ConfigError(f"{where}: {name} of {path} must be finite")
    if not len(found.time) or (np.diff(found.time) <= 0).any():
        raise ConfigError(f"{where}: time of {path} must increase from frame to frame")
    norms = np.linalg.norm(found.qpos[:, spec.quaternion_x], axis=-1)
    if (np.abs(norms - 1) > 1e-3).any():
        raise ConfigError(f"{where}: quaternions in qpos of {path} must have length 1")
    return found


def resampled(recording: Recording, spec: StateSpec, dt: float) -> Array:
    """Return the states (K+1, nx) at the times k dt after the first frame, the last one at the end.

    Frames are interpolated linearly, rotations along their geodesic.
    """
    time = recording.time - recording.time[0]
    steps = math.ceil(time[-1] / dt - 1e-9)
    wanted = np.minimum(np.arange(steps + 1) * dt, time[-1])
    qvel = np.zeros((len(time), spec.nv)) if recording.qvel is None else recording.qvel
    frames = spec.join(recording.qpos, qvel)
    if len(time) == 1:
        return frames
    before = np.clip(np.searchsorted(time, wanted, side="right") - 1, 0, len(time) - 2)
    share = (wanted - time[before]) / (time[before + 1] - time[before])
    way = spec.difference(frames[before], frames[before + 1])
    return spec.retract(frames[before], share[:, None] * way)


def _read_npz(file: Path, spec: StateSpec) -> Recording:
    with np.load(file, allow_pickle=False) as arrays:
        missing = [name for name in ("time", "qpos") if name not in arrays.files]
        if missing:
            raise ValueError(f"it has no array {missing[0]!r}, only {', '.join(arrays.files)}")
        qvel = _numbers(arrays["qvel"]) if "qvel" in arrays.files else None
        return Recording(_numbers(arrays["time"]), _numbers(arrays["qpos"]), qvel)


def _numbers(array: Array) -> Array:
    return array.astype(np.float64) if array.dtype.kind in "biuf" else array


def _read_csv(file: Path, spec: StateSpec) -> Recording:
    header, *lines = file.read_text(encoding="utf-8").splitlines() or [""]
    names = [name.strip() for name in header.split(",")]
    if names[0] != "time":
        raise ValueError(f"its header must begin with 'time', got {names[0]!r}")
    legal = 1 + spec.nq, 1 + spec.nq + spec.nv
    if len(names) not in legal:
        raise ValueError(f"it must have {legal[0]} or {legal[1]} columns, got {len(names)}")
    rows = []
    for number, line in enumerate(lines, start=2):
        if not line.strip():
            continue
        cells = line.split(",")
        if len(cells) != len(names):
            raise ValueError(f"line {number} has {len(cells)} columns, not {len(names)}")
        rows.append([float(cell) for cell in cells])
    table = np.array(rows, dtype=np.float64).reshape(len(rows), len(names))
    qvel = table[:, 1 + spec.nq :] if len(names) == legal[1] else None
    return Recording(table[:, 0], table[:, 1 : 1 + spec.nq], qvel)
