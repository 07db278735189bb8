"""Frames as a video, and as a strip."""

import contextlib
import gc
import resource
import sys

import imageio.v2
import imageio_ffmpeg
import numpy as np
import pytest

from mbrl.errors import ArgumentError, StorageError
from mbrl.monitoring import Filmstrip, write_video

COLOURS = [(250, 20, 20), (20, 250, 20), (20, 20, 250), (200, 200, 200), (10, 10, 10)]


pytestmark = pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")


@pytest.fixture
def _pipes():
    """imageio leaves pipes open: close them here, and not in the middle of some other test."""
    yield
    gc.collect()


def plain(colour, height=48, width=64):
    return np.full((height, width, 3), colour, dtype=np.uint8)


def noise(count):
    dice = np.random.default_rng(0)
    return [dice.integers(0, 256, (120, 160, 3), dtype=np.uint8) for _ in range(count)]


def read(path):
    """Return the frames of a video, decoded, and what its file says of them."""
    reader = imageio_ffmpeg.read_frames(path)
    meta = next(reader)
    width, height = meta["size"]
    return [np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader], meta


@contextlib.contextmanager
def files_end_at(size):
    """As if the disk were full where a file has so many bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.usefixtures("_pipes")
def test_a_video_has_the_frames_it_was_given(tmp_path):
    path = tmp_path / "a.mp4"
    write_video((plain(colour) for colour in COLOURS), path, fps=12.5)
    frames, meta = read(path)
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 5
    assert (meta["fps"], meta["codec"]) == (12.5, "h264")
    for frame, colour in zip(frames, COLOURS, strict=True):
        assert np.abs(frame.astype(int) - colour).max() < 12  # the format rounds colours


@pytest.mark.usefixtures("_pipes")
def test_an_odd_row_and_column_are_cut_off(tmp_path):
    path = tmp_path / "a.mp4"
    frame = plain((0, 0, 0), 51, 71)
    frame[-1], frame[:, -1] = 255, 255
    write_video([frame] * 3, path, fps=25)
    frames, _ = read(path)
    assert frames[0].shape == (50, 70, 3)
    assert frames[0].max() < 12


def test_without_frames_there_is_no_video(tmp_path):
    with pytest.raises(ArgumentError, match="frames: there are none"):
        write_video([], tmp_path / "a.mp4", fps=25)


def test_what_frames_raise_is_raised(tmp_path):
    def frames():
        yield plain(COLOURS[0])
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_video(frames(), tmp_path / "a.mp4", fps=25)


def test_a_place_that_is_none_is_named_in_one_line(tmp_path):
    with pytest.raises(StorageError, match=r"^the video cannot be written: .*No such|not exist"):
        write_video([plain(COLOURS[0])], tmp_path / "nowhere" / "a.mp4", fps=25)


@pytest.mark.usefixtures("_pipes")
@pytest.mark.skipif(sys.platform != "linux", reason="limits of files")
@pytest.mark.parametrize("count", [3, 150])  # the encoder ends at the end, or in the middle
def test_a_full_disk_does_not_go_unnoticed(tmp_path, count, capfd):
    with (
        files_end_at(3000),
        pytest.raises(StorageError, match=r"^the video cannot be written: .*") as caught,
    ):
        write_video(noise(count), tmp_path / "a.mp4", fps=25)
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_without_an_encoder_the_package_is_named(tmp_path, monkeypatch):
    monkeypatch.delitem(sys.modules, "imageio.plugins.ffmpeg", raising=False)
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.raises(ImportError, match=r"pip install imageio\[ffmpeg\]"):
        write_video([plain(COLOURS[0])], tmp_path / "a.mp4", fps=25)


# Strips


def numbered(count):
    """Frames with their number in every byte, in one array that is written again and again."""
    frame = np.zeros((6, 8, 3), dtype=np.uint8)
    for number in range(count):
        frame[:] = number
        yield frame


@pytest.mark.parametrize(
    ("count", "pictures", "shown"),
    [(10, 4, [0, 3, 6, 9]), (100, 3, [0, 50, 99]), (3, 7, [0, 1, 2]), (1, 7, [0])],
)
def test_a_strip_is_evenly_spaced(tmp_path, count, pictures, shown):
    strip = Filmstrip(count, pictures)
    passed = [int(frame[0, 0, 0]) for frame in strip.watched(numbered(count))]
    assert passed == list(range(count))
    strip.write(tmp_path / "a.png")
    picture = imageio.v2.imread(tmp_path / "a.png")
    assert picture.shape == (6, 8 * len(shown) + 4 * (len(shown) - 1), 3)
    for place, number in enumerate(shown):
        assert (picture[:, 12 * place : 12 * place + 8] == number).all()
        assert (picture[:, 12 * place + 8 : 12 * place + 12] == 255).all()


def test_a_strip_of_nothing_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match="frames: there are none"):
        Filmstrip(3).write(tmp_path / "a.png")
