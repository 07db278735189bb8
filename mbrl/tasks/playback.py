"""Recorded episodes, played again before a camera."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from gymnasium.envs.mujoco import MujocoEnv
from numpy.typing import NDArray

from mbrl.errors import TaskError, one_line, users_code
from mbrl.physics import quiet
from mbrl.tasks.task import Task
from mbrl.types import RecordedEpisode

_FPS = 25.0  # about; of every so many steps one is drawn
_NOTHING = contextlib.nullcontext()
_HEADLESS = ("egl", "osmesa")  # what draws without a display
_ADVICE = (
    "without a display it takes EGL: on Debian and Ubuntu, the packages libegl1, libegl-mesa0 and "
    "libgl1-mesa-dri"
)


class Playback:
    """The frames of an episode, [H, W, 3] uint8 each, in real time; of each iteration anew.

    Frames are those of the environment's own ``render``; what its constructor takes as ``width``,
    ``height`` or camera, the arguments of the task say.

    Args:
        task: what the episode was recorded in.
        episode: the episode.
        before: called before every frame; what it raises ends the iteration.

    Attributes:
        fps: frames per second of the episode, about 25.
    """

    def __init__(
        self, task: Task, episode: RecordedEpisode, *, before: Callable[[], None] = lambda: None
    ):
        self._task, self._episode, self._before = task, episode, before
        dt = 1 / _FPS if task.simulator is None else task.simulator.dt
        self._stride = max(1, round(1 / (_FPS * dt)))
        self.fps = 1 / (self._stride * dt)

    def __len__(self) -> int:
        """How many frames there are."""
        return len(self._episode.actions) // self._stride + 1

    def __iter__(self) -> Iterator[NDArray[np.uint8]]:
        """Play it.

        Raises:
            TaskError: if nothing can be drawn here, saying what that takes; or if the environment
                raises, or ends before the episode did.
        """
        name = self._task.name
        with quiet():
            env = self._task.make_env(render_mode="rgb_array")
        with contextlib.closing(env):
            with users_code(f"{name}: reset"):
                env.reset(seed=self._episode.seed)
            yield self._frame(env, _viewer(env))
            over = False
            for t, action in enumerate(self._episode.actions, start=1):
                if over:
                    raise TaskError(f"{name}: an episode does not repeat, it ends at step {t - 1}")
                taken = self._task.env_action(action)
                with quiet(), users_code(f"{name}: step {t} of an episode played again"):
                    _, _, terminated, truncated, _ = env.step(taken)
                over = terminated or truncated
                if t % self._stride == 0:
                    yield self._frame(env)

    def _frame(
        self, env: Any, around: contextlib.AbstractContextManager[None] = _NOTHING
    ) -> NDArray[np.uint8]:
        self._before()
        name = self._task.name
        try:
            with around:
                frame = env.render()
        except Exception as error:
            reason = one_line(error).rstrip(".")
            raise TaskError(f"{name} cannot be drawn: {reason}; {_ADVICE}") from error
        if not isinstance(frame, np.ndarray) or frame.dtype != np.uint8 or frame.shape[2:] != (3,):
            raise TaskError(f"{name}: render must return [H, W, 3] uint8, got {_described(frame)}")
        return np.ascontiguousarray(frame)


@contextlib.contextmanager
def _viewer(env: Any) -> Iterator[None]:
    """Let Gymnasium make an environment's viewer in silence, off the screen where there is none.

    Raises:
        Exception: of many kinds, where that is not possible.
    """
    given = os.environ.get("MUJOCO_GL")
    screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    backend = given if given or screen or sys.platform != "linux" else "egl"
    if backend in _HEADLESS and type(env.unwrapped).render is MujocoEnv.render:
        # Where this fails, that viewer, half made, would leave a traceback behind.
        importlib.import_module(f"mujoco.{backend}").GLContext(8, 8).free()
    try:
        if backend:
            os.environ["MUJOCO_GL"] = backend
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if not given:
            os.environ.pop("MUJOCO_GL", None)


def _described(frame: object) -> str:
    if isinstance(frame, np.ndarray):
        return f"{frame.dtype} {list(frame.shape)}"
    return type(frame).__name__
