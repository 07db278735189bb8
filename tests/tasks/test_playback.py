"""Recorded episodes, played again before a camera."""

import os
import subprocess
import sys

import numpy as np
import pytest
from gymnasium.envs.mujoco import MujocoEnv

from mbrl.errors import TaskError
from mbrl.tasks import Playback, make_task
from mbrl.types import RecordedEpisode
from tests.exhibited import (
    PAINTED,
    PaintedCheetahEnv,
    painted_state,
    register_painted,
    states_of,
)

REAL = """
import numpy as np
import mbrl
from mbrl.tasks import Playback
from mbrl.types import RecordedEpisode

task = mbrl.make_task("mbrl/HalfCheetahTorso-v0", width=64, height=48)
episode = RecordedEpisode(0, np.full((40, 6), 0.8))
try:
    frames = list(Playback(task, episode))
    print(len(frames), {(frame.shape, str(frame.dtype)) for frame in frames})
    print(min(frame.std() for frame in frames) > 1, np.array_equal(frames[0], frames[-1]))
except mbrl.MbrlError as error:
    print(error)
"""


@pytest.fixture(autouse=True)
def _registered():
    register_painted()


@pytest.fixture
def closed(monkeypatch):
    """Return the environments that were closed."""
    found, close = [], MujocoEnv.close
    monkeypatch.setattr(MujocoEnv, "close", lambda env: (found.append(env), close(env)))
    return found


def actions(steps):
    return np.random.default_rng(1).uniform(-1, 1, (steps, 6))


def recorded(steps, seed=5):
    return RecordedEpisode(seed, actions(steps))


@pytest.mark.parametrize(
    ("frame_skip", "stride", "fps"), [(1, 4, 25.0), (2, 2, 25.0), (5, 1, 20.0)]
)
def test_an_episode_is_shown_as_it_was_in_real_time(frame_skip, stride, fps):
    task = make_task(PAINTED, frame_skip=frame_skip)
    playback = Playback(task, recorded(22))
    expected = states_of(actions(22), 5, frame_skip=frame_skip)[::stride]
    assert playback.fps == pytest.approx(fps, rel=1e-12)
    for _ in range(2):  # every time from the beginning
        found = np.stack([painted_state(frame) for frame in playback])
        np.testing.assert_array_equal(found, expected)
        assert len(playback) == len(found)


def test_frames_come_one_by_one_and_each_is_asked_for(closed):
    asked = []

    class Enough(BaseException):
        pass

    def before():
        asked.append(1)
        if len(asked) == 3:
            raise Enough

    task = make_task(PAINTED)
    frames = iter(Playback(task, recorded(40), before=before))
    next(frames)
    assert len(asked) == 1
    next(frames)
    assert not closed
    with pytest.raises(Enough):
        next(frames)
    assert len(closed) == 1


def test_an_episode_that_ends_before_it_did_is_another():
    task = make_task(PAINTED, max_episode_steps=6)
    assert len(list(Playback(task, recorded(6)))) == 2
    with pytest.raises(TaskError, match=r"^tests/Painted.*does not repeat, it ends at step 6$"):
        list(Playback(task, recorded(7)))


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (None, "got NoneType"),
        (np.zeros((4, 4, 3)), r"got float64 \[4, 4, 3\]"),
        (np.zeros((4, 4), dtype=np.uint8), r"got uint8 \[4, 4\]"),
    ],
)
def test_what_is_no_picture_is_refused(monkeypatch, closed, picture, words):
    task = make_task(PAINTED)
    monkeypatch.setattr(PaintedCheetahEnv, "render", lambda env: picture)
    with pytest.raises(TaskError, match=rf"render must return \[H, W, 3\] uint8, {words}"):
        list(Playback(task, recorded(4)))
    assert closed


def test_a_drawing_that_fails_says_what_it_takes(monkeypatch):
    def fail(env):
        raise RuntimeError("no context")

    task = make_task(PAINTED)
    monkeypatch.setattr(PaintedCheetahEnv, "render", fail)
    with pytest.raises(TaskError, match=r"cannot be drawn: no context; .* EGL: .* libegl1, "):
        list(Playback(task, recorded(4)))


@pytest.mark.parametrize(
    ("given", "seen"),
    [
        ({}, "egl" if sys.platform == "linux" else None),
        ({"DISPLAY": ":0"}, None),
        ({"MUJOCO_GL": "glfw"}, "glfw"),
    ],
)
def test_the_choice_of_what_draws_is_left_as_it_was(monkeypatch, given, seen):
    for name in ("MUJOCO_GL", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    chosen, render = [], PaintedCheetahEnv.render

    def noted(env):
        chosen.append(os.environ.get("MUJOCO_GL"))
        return render(env)

    task = make_task(PAINTED)
    monkeypatch.setattr(PaintedCheetahEnv, "render", noted)
    before = dict(os.environ)
    list(Playback(task, recorded(4)))
    assert chosen[0] == seen  # when a viewer would be made
    assert dict(os.environ) == before


def drawn(**variables):
    """Run REAL in a process without a display; return its output and its errors."""
    kept = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "DISPLAY")}
    done = subprocess.run(
        [sys.executable, "-c", REAL],
        env={**kept, **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.splitlines(), done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="EGL")
def test_the_half_cheetah_is_drawn_without_a_display():
    # Needs EGL.
    assert drawn()[0] == ["11 {((48, 64, 3), 'uint8')}", "True False"]


@pytest.mark.slow
@pytest.mark.parametrize("variables", [{"MUJOCO_EGL_DEVICE_ID": "99"}, {"MUJOCO_GL": "glfw"}])
def test_without_graphics_there_is_one_line(variables):
    lines, errors = drawn(**variables)
    assert len(lines) == 1
    assert "mbrl/HalfCheetahTorso-v0 cannot be drawn: " in lines[0]
    assert "libegl1, libegl-mesa0 and libgl1-mesa-dri" in lines[0]
    assert errors == ""
