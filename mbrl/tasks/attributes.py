"""Saving and restoring the Python attributes of an environment."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Mapping
from typing import Any, NamedTuple

import gymnasium
import mujoco
import numpy as np
import torch
from gymnasium.envs.mujoco.mujoco_rendering import MujocoRenderer
from numpy.typing import NDArray

from mbrl.types import Array

# Gymnasium's own machinery, which no step depends on.
_MACHINERY = (
    "_ezpickle_args",
    "_ezpickle_kwargs",
    "_np_random_seed",
    "metadata",
    "observation_structure",
    "render_mode",
    "spec",
)
_ATOMS = (bool, int, float, str, bytes, np.generic, type(None))
_HARMLESS = (mujoco.MjModel, mujoco.MjData, MujocoRenderer, gymnasium.Space)
_CONTAINERS = (list, tuple, set, dict)


class RandomState(NamedTuple):
    """Where a random generator stands."""

    state: Any


Snapshot = Mapping[str, Any]


def snapshot(env: Any) -> Snapshot:
    """Return copies of the attributes that are plain data, arrays or random generators.

    Other objects (the model, a renderer, an open file) are left out, and views of the simulation's
    memory: they are not saved.
    """
    saved: dict[str, Any] = {}
    for key, value in vars(env).items():
        if key in _MACHINERY:
            continue
        if isinstance(value, np.random.Generator):
            saved[key] = RandomState(copy.deepcopy(value.bit_generator.state))
        elif _is_plain(value):
            saved[key] = _copied(value)
    return saved


def restore(env: Any, saved: Snapshot) -> None:
    """Put attributes back; plain ones that came since are removed."""
    own = vars(env)
    for key in [k for k, v in own.items() if k not in saved and k not in _MACHINERY]:
        if _is_plain(own[key]):
            delattr(env, key)
    for key, value in saved.items():
        if isinstance(value, RandomState):
            own[key].bit_generator.state = value.state
        else:
            own[key] = _copied(value)


def unsaved(env: Any) -> list[str]:
    """Return the names, with types, of attributes that :func:`snapshot` cannot save."""
    return [
        f"{key} ({type(value).__name__})"
        for key, value in vars(env).items()
        if key not in _MACHINERY
        and not isinstance(value, (*_HARMLESS, np.random.Generator, np.ndarray))
        and not _is_plain(value)
    ]


def changed(before: Snapshot, after: Snapshot) -> list[str]:
    """Return the names of attributes that differ between two snapshots."""
    keys = dict.fromkeys([*before, *after])
    return [k for k in keys if k not in before or k not in after or _differ(before[k], after[k])]


def packed(value: Any) -> Array | None:
    """Return a number, an array or a list of numbers as a flat array; None for anything else."""
    if isinstance(value, str | bytes | dict | set | RandomState) or value is None:
        return None
    if isinstance(value, torch.Tensor):
        value = value.numpy(force=True)
    try:
        array = np.asarray(value)
    except ValueError:  # a ragged list
        return None
    return array.astype(np.float64).ravel() if array.dtype.kind in "biuf" else None


def unpacked(like: Any, values: Array) -> Any:
    """Return numbers (n) in the form of ``like``, which :func:`packed` gave n numbers of."""
    if isinstance(like, torch.Tensor):
        return torch.from_numpy(values.copy()).reshape(like.shape).to(like)
    array: NDArray[Any] = np.asarray(like)
    found = values.reshape(array.shape).astype(array.dtype)
    if isinstance(like, np.ndarray):
        return found
    if isinstance(like, list | tuple):
        return type(like)(found.tolist())
    return type(like)(found.item())


def _is_plain(value: Any) -> bool:
    if isinstance(value, (*_ATOMS, torch.Tensor)):
        return True
    if isinstance(value, np.ndarray):
        return value.dtype != object and not _is_borrowed(value)
    if type(value) in _CONTAINERS:
        items = [*value.keys(), *value.values()] if isinstance(value, dict) else value
        return all(map(_is_plain, items))
    return False


def _is_borrowed(array: NDArray[Any]) -> bool:
    """Whether an array is a view of the simulation's memory, such as ``data.qpos``."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    # What MuJoCo lends; an array made of a tensor, say, rests on that tensor.
    return type(array.base).__name__ == "PyCapsule"


def _copied(value: Any) -> Any:
    if isinstance(value, _ATOMS):
        return value
    if isinstance(value, torch.Tensor):
        return value.detach().clone()
    return value.copy() if isinstance(value, np.ndarray) else copy.deepcopy(value)


def _differ(one: Any, other: Any) -> bool:
    """Whether two plain values differ in any bit."""
    return _bits(one) != _bits(other)


def _bits(value: Any) -> bytes:
    buffer = io.BytesIO()
    _ByValue(buffer).dump(_copied(value))
    return buffer.getvalue()


class _ByValue(pickle.Pickler):
    """Pickles a tensor as what is in it: PyTorch writes the address of its memory as well."""

    def reducer_override(self, value: Any) -> Any:
        """Return how a tensor is made up; leave everything else to pickle."""
        if not isinstance(value, torch.Tensor):
            return NotImplemented
        bits = value.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes()
        return tuple, ((str(value.dtype), tuple(value.shape), bits),)
