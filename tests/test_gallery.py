"""What runs show of their updates, and that it never hurts them."""

import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import imageio.v2
import imageio_ffmpeg
import numpy as np
import pytest

from mbrl import gallery
from mbrl.config import from_mapping
from mbrl.errors import ConfigError
from mbrl.finished_runs import resumed_config
from mbrl.monitoring import MonitorOptions, PlotOptions
from mbrl.run_folder import RunFolder
from mbrl.runner import run
from mbrl.signals import Interrupted
from tests.exhibited import LEARNED, PAINTED, PaintedCheetahEnv, register_painted, states_of
from tests.tiny import resume, same_runs, tiny_config

OFF = {"plots": {"every": 0}, "video": {"every": 0}}
ALL = {"plots": {"every": 1}, "video": {"every": 1}}


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Spare the disk; tests/test_checkpoint.py looks after what is synchronised when."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


@pytest.fixture
def config(tmp_path):
    """Return a function that makes a configuration whose runs need no graphics."""
    register_painted()

    def make(monitor=None, **changes):
        monitor = {} if monitor is None else {"monitor": monitor}
        output = {"task": PAINTED, "output_dir": str(tmp_path / "outputs")}
        return from_mapping({**LEARNED, **output, **monitor, **changes}, "shown")

    return make


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Return the folder of a run that shows nothing."""
    register_painted()
    output = {"task": PAINTED, "output_dir": str(tmp_path_factory.mktemp("reference"))}
    return run(from_mapping({**LEARNED, **output, "monitor": OFF}, "shown")).run_dir


def shown(path):
    """Return the files that a run has left to be looked at."""
    folders = (path / "plots", path / "videos")
    return sorted(str(file.relative_to(path)) for folder in folders for file in folder.glob("*"))


def warnings_of(path, capfd):
    """Return the warnings of a run, which its log and standard error agree on."""
    logged = [line for line in (path / "log.txt").read_text().splitlines() if "no more" in line]
    said = [line for line in capfd.readouterr().err.splitlines() if not line.startswith("update ")]
    assert said == [f"warning: {line[20:]}" for line in logged]  # but for the time
    return [line[20:] for line in logged]


def plots(*updates):
    return [f"plots/open_loop_{update:04}.png" for update in updates]


def videos(*updates):
    return [f"videos/update_{u:04}.{suffix}" for u in updates for suffix in ("mp4", "png")]


# What is left


def test_plots_are_the_default(config, reference, capfd):
    path = run(config()).run_dir
    assert resumed_config(path).monitor == MonitorOptions(plots=PlotOptions(every=1))
    assert shown(path) == plots(1, 2, 3)
    assert same_runs(path, reference)
    assert warnings_of(path, capfd) == []


def test_nothing_is_left_where_nothing_is_asked_for(reference):
    assert shown(reference) == []


def test_videos_are_of_the_episode_that_is_shown(config, reference, monkeypatch, capfd):
    exhibits, record = [], gallery.Gallery._record

    def noted(self, update, found):
        exhibits.append(found)
        record(self, update, found)

    monkeypatch.setattr(gallery.Gallery, "_record", noted)
    path = run(config({"plots": {"every": 2}, "video": {"every": 3}})).run_dir
    assert shown(path) == [*plots(2), *videos(3)]
    assert same_runs(path, reference)
    assert warnings_of(path, capfd) == []
    (episode,) = [found.episode for found in exhibits]
    # Of 20 steps of 0.01 s every fourth is drawn, the first included: 25 pictures a second.
    states = states_of(episode.actions, episode.seed)[::4]
    frames, seconds = imageio_ffmpeg.count_frames_and_secs(str(path / "videos/update_0003.mp4"))
    assert (frames, round(25 * seconds)) == (6, 6)
    strip = imageio.v2.imread(path / "videos/update_0003.png")
    assert strip.shape == (12, 6 * 12 + 5 * 4, 3)
    for place, state in enumerate(states):
        picture = np.ascontiguousarray(strip[:, 16 * place : 16 * place + 12])
        assert picture.tobytes()[: 18 * 8] == state.tobytes()


def test_algorithms_with_nothing_to_show_leave_nothing(tmp_path, capfd):
    path = run(tiny_config(tmp_path)).run_dir
    assert shown(path) == []
    assert warnings_of(path, capfd) == []


REAL = """
import sys
from mbrl.config import from_mapping
from mbrl.runner import run
from tests.exhibited import LEARNED
from tests.tiny import same_runs

task_args = {**LEARNED["task_args"], "width": 64, "height": 48}
small = {"task_args": task_args, "output_dir": sys.argv[1]}
folders = [
    run(from_mapping({**LEARNED, **small, "monitor": {"video": {"every": every}}})).run_dir
    for every in (1, 0)
]
print(same_runs(*folders), len(list(folders[0].glob("videos/*.mp4"))))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="EGL")
def test_drawing_by_mujoco_changes_nothing(tmp_path):
    # Needs EGL. A process of its own: graphics are not given back.
    kept = {k: v for k, v in os.environ.items() if k not in ("MUJOCO_GL", "DISPLAY")}
    done = subprocess.run(
        [sys.executable, "-c", REAL, str(tmp_path)],
        cwd=Path(__file__).parents[1],
        env=kept,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "True 3", done.stderr


# Failures


def test_a_plot_that_fails_is_the_last_and_hurts_nothing(config, reference, monkeypatch, capfd):
    calls = []

    def fail(*arguments):
        calls.append(1)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(gallery, "draw_open_loop", fail)
    path = run(config(ALL)).run_dir
    assert warnings_of(path, capfd) == [
        "no more plots in this run: [Errno 28] No space left on device"
    ]
    assert len(calls) == 1
    assert shown(path) == videos(1, 2, 3)
    assert same_runs(path, reference)


def test_without_graphics_there_are_no_videos(config, reference, monkeypatch, capfd):
    calls = []

    def fail(env):
        calls.append(1)
        raise RuntimeError("no context")

    monkeypatch.setattr(PaintedCheetahEnv, "render", fail)
    path = run(config(ALL)).run_dir
    (warning,) = warnings_of(path, capfd)
    assert warning.startswith(f"no more videos in this run: {PAINTED} cannot be drawn: no context;")
    assert "libegl1" in warning
    assert len(calls) == 1
    assert shown(path) == plots(1, 2, 3)
    assert same_runs(path, reference)


def test_without_an_encoder_there_are_no_videos(config, reference, monkeypatch, capfd):
    monkeypatch.delitem(sys.modules, "imageio.plugins.ffmpeg", raising=False)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    path = run(config({**OFF, "video": {"every": 1}})).run_dir
    (warning,) = warnings_of(path, capfd)
    assert "pip install imageio[ffmpeg]" in warning
    assert shown(path) == []
    assert same_runs(path, reference)


def test_a_log_that_cannot_be_written_is_no_failure_either(config, reference, monkeypatch, capfd):
    log = RunFolder.log

    def refuse(self, line):
        if "no more" in line:
            raise OSError("full")
        log(self, line)

    def fail(*arguments):
        raise ZeroDivisionError

    monkeypatch.setattr(RunFolder, "log", refuse)
    monkeypatch.setattr(gallery, "draw_open_loop", fail)
    path = run(config()).run_dir
    assert "warning: no more plots in this run: ZeroDivisionError\n" in capfd.readouterr().err
    assert same_runs(path, reference)


@pytest.mark.parametrize("at", [1, 2])
def test_a_signal_ends_a_video_and_the_run_goes_on_later(config, reference, monkeypatch, at):
    calls, render = [], PaintedCheetahEnv.render

    def interrupt(env):
        calls.append(1)
        if len(calls) == 6 * (at - 1) + 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return render(env)

    monkeypatch.setattr(PaintedCheetahEnv, "render", interrupt)
    with pytest.raises(Interrupted) as caught:
        run(config({**OFF, "video": {"every": 1}}))
    path = caught.value.run_dir
    assert shown(path) == videos(*range(1, at))  # and nothing half written
    resume(path)
    assert shown(path) == videos(*(update for update in (1, 2, 3) if update != at))
    assert same_runs(path, reference)


# Configuration


@pytest.mark.parametrize(
    ("monitor", "words"),
    [
        ({"plot": {"every": 1}}, "unknown key 'monitor.plot'; .* did you mean 'plots'"),
        ({"video": {"evry": 1}}, "unknown key 'monitor.video.evry'; .* did you mean 'every'"),
        ({"video": {"every": -1}}, "monitor.video.every must not be negative, got -1"),
        ({"plots": {"every": 1.5}}, "monitor.plots.every must be an integer, got 1.5"),
        ({"plots": 1}, "monitor.plots must be a mapping, got 1"),
        (3, "monitor must be a mapping, got 3"),
    ],
)
def test_mistakes_are_named(config, monitor, words):
    with pytest.raises(ConfigError, match=f"^{words}"):
        config(monitor)


def test_a_run_may_be_resumed_with_something_else_to_show(config, reference, monkeypatch):
    with monkeypatch.context() as patch:
        stop = functools.partial(os.kill, os.getpid(), signal.SIGTERM)
        patch.setattr(gallery, "draw_open_loop", lambda given, path, title: stop())
        with pytest.raises(Interrupted) as caught:
            run(config())
    path = caught.value.run_dir
    before = resumed_config(path).as_dict()
    changed = from_mapping({**before, "monitor": {**OFF, "video": {"every": 2}}})
    run(changed, resume=path)
    assert shown(path) == videos(2)
    assert resumed_config(path) == changed
    assert same_runs(path, reference)
