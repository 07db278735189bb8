"""What a step of an environment depends on beside [qpos, qvel, act]: attributes and user inputs."""

from __future__ import annotations

from typing import Any, NamedTuple

import mujoco
import numpy as np
from numpy.typing import NDArray

from mbrl.errors import TaskError, users_code
from mbrl.tasks.attributes import (
    RandomState,
    Snapshot,
    changed,
    packed,
    restore,
    snapshot,
    unpacked,
)
from mbrl.tasks.user_inputs import acting_inputs, read_inputs, write_inputs
from mbrl.types import Array

_RESETS = 16  # resets that are compared to find out what a reset draws
_MODELS = 3  # of which the model is compared, too
_DECLARED = "context"


class Saved(NamedTuple):
    """Attributes and user inputs of an environment at one moment."""

    attributes: Snapshot
    inputs: Array

    @classmethod
    def of(cls, env: Any) -> Saved:
        """Save an environment's."""
        return cls(snapshot(env), read_inputs(env.model, env.data))

    def restore(self, env: Any) -> None:
        """Put them back."""
        restore(env, self.attributes)
        write_inputs(env.model, env.data, self.inputs)

    def changed(self, after: Saved) -> list[str]:
        """Return the names of what differs."""
        names = [
            "the random generator" if isinstance(self.attributes.get(key), RandomState) else key
            for key in changed(self.attributes, after.attributes)
        ]
        return names if np.array_equal(self.inputs, after.inputs) else [*names, "user inputs"]


class HiddenState:
    r"""Attributes and user inputs of an environment, as a vector per episode.

    A reset may draw more than a state: a goal kept in an attribute, the pose of a mocap body. Such
    numbers make up the context c of an episode, so that a step from a set state is a function of
    (x, u; t, c); all other attributes are put back to what they are after a reset. An environment
    with an attribute ``context`` says itself what its context is.

    Args:
        env: the bare environment; it is reset several times.
        name: its id, for messages.
        draws: whether its resets can draw more than a state that its step depends on.

    Attributes:
        size: length of c.
        drawn: names of the attributes that c holds.
        other: attributes and user inputs after another reset.
        is_declared: whether the environment says itself what c is.
        acts: whether its resets set user inputs that physics depends on.

    Raises:
        TaskError: if a reset draws what is no number, or changes the model.
    """

    def __init__(self, env: Any, name: str, *, draws: bool = True):
        self._name = name
        resets, models = [], set()
        for seed in range(_RESETS if draws else 1):
            with users_code(f"{name}: reset"):
                env.reset(seed=seed)
            resets.append(Saved.of(env))
            if seed < _MODELS:
                models.add(_model_bytes(env.model))
        if len(models) > 1:
            raise TaskError(
                f"{name}: its reset changes the model, so that episodes differ in their physics; "
                "keep goals in attributes or mocap bodies"
            )
        self._base, self.other = resets[-1], resets[0]
        self._fresh = read_inputs(env.model, mujoco.MjData(env.model))
        self._acting = acting_inputs(env.model)
        self.acts = any(self._act(one.inputs) for one in resets)
        attributes = self._base.attributes
        self.drawn: list[str] = []
        self._drawn_inputs: NDArray[np.intp] = np.empty(0, dtype=np.intp)
        if packed(attributes.get(_DECLARED)) is not None:
            self.drawn = [_DECLARED]
        else:
            differing = {key for one in resets for key in changed(attributes, one.attributes)}
            self.drawn = sorted(
                key for key in differing if not isinstance(attributes.get(key), RandomState)
            )
            inputs = np.array([one.inputs for one in resets])
            self._drawn_inputs = np.flatnonzero((inputs != inputs[-1]).any(0))
        self.is_declared = self.drawn == [_DECLARED]
        self._draws = draws
        self.size = len(self.read(env))

    def read(self, env: Any) -> Array:
        """Return c of the environment as it stands, (n).

        Raises:
            TaskError: if an attribute is no number, or not of the shape that it had.
        """
        parts = [np.zeros(0)]
        for key in self.drawn:
            value, like = packed(getattr(env, key, None)), packed(self._base.attributes.get(key))
            if value is None or like is None or value.shape != like.shape:
                raise TaskError(
                    f"{self._name}: its reset draws the attribute {key!r}, now "
                    f"{_brief(getattr(env, key, 'missing'))}; what a reset draws must be numbers "
                    "or arrays of one shape"
                )
            parts.append(value)
        if self._draws and not self.is_declared:
            self._check_drawn(env)
        return np.concatenate([*parts, read_inputs(env.model, env.data)[self._drawn_inputs]])

    @property
    def draws_inputs(self) -> bool:
        """Whether a reset draws user inputs of MjData."""
        return bool(len(self._drawn_inputs))

    def acts_now(self, env: Any) -> bool:
        """Whether the user inputs of an environment that physics depends on are not the model's."""
        return self._act(read_inputs(env.model, env.data))

    def reset(self, env: Any) -> None:
        """Put attributes and user inputs back to what they are after some reset."""
        self._base.restore(env)

    def write(self, env: Any, context: Array) -> None:
        """Put attributes and user inputs back, those of ``context`` (n) included."""
        self.enter(env, context, self._base)

    def enter(self, env: Any, context: Array, saved: Saved) -> None:
        """Put back what was saved, and a context (n)."""
        restore(env, saved.attributes)
        inputs, start = saved.inputs, 0
        for key in self.drawn:
            like = self._base.attributes[key]
            end = start + len(packed(like))  # type: ignore[arg-type]  # what read() accepted
            setattr(env, key, unpacked(like, context[start:end]))
            start = end
        if len(inputs):
            inputs = inputs.copy()
            inputs[self._drawn_inputs] = context[start:]
            write_inputs(env.model, env.data, inputs)

    def _act(self, inputs: Array) -> bool:
        return not np.array_equal(inputs[self._acting], self._fresh[self._acting])

    def _check_drawn(self, env: Any) -> None:
        """Refuse what a reset draws so rarely that it was not seen to."""
        attributes, now = self._base.attributes, snapshot(env)
        known = {key for key, value in attributes.items() if not isinstance(value, RandomState)}
        rare = [k for k in changed(attributes, now) if k in known.difference(self.drawn)]
        if rare:
            raise TaskError(
                f"{self._name}: its reset draws {', '.join(rare)} now and then; an attribute "
                "`context` must hold what a reset draws"
            )


def _brief(value: Any) -> str:
    """Return a value in one short line."""
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _model_bytes(model: mujoco.MjModel) -> bytes:
    buffer: NDArray[np.uint8] = np.empty(mujoco.mj_sizeModel(model), dtype=np.uint8)
    mujoco.mj_saveModel(model, None, buffer)
    return buffer.tobytes()
