"""Frames as a video, and as a strip of some of them."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any, TypeAlias

import imageio.v2
import numpy as np
from numpy.typing import NDArray

from mbrl.errors import ArgumentError, StorageError

Frame: TypeAlias = NDArray[np.uint8]  # (H, W, 3)

_GAP, _WHITE = 4, 255  # pixels between the pictures of a strip, and their colour


def write_video(frames: Iterable[Frame], path: Path, *, fps: float) -> None:
    """Write an mp4 (H.264), frame by frame: they need not fit into memory together.

    Args:
        frames: [H, W, 3] each, all of one size; an odd last row or column is cut off, which the
            format has no place for.
        path: where to.
        fps: frames per second.

    Raises:
        ArgumentError: if there is no frame.
        StorageError: if it cannot be written.
        ImportError: if imageio has no ffmpeg, saying what to install.
    """
    count = 0
    # A block of one pixel: it would stretch the picture to multiples of 16.
    options = {"fps": fps, "macro_block_size": 1, "ffmpeg_log_level": "quiet"}
    try:
        writer: Any = imageio.v2.get_writer(path, format="FFMPEG", mode="I", **options)
        with writer:
            for frame in frames:
                height, width = (size - size % 2 for size in frame.shape[:2])
                writer.append_data(frame[:height, :width])
                count += 1
    except OSError as error:
        reason = str(error).partition("\n")[0]  # the rest is what the encoder was told
        raise StorageError(f"the video cannot be written: {reason}") from error
    if not count:
        raise ArgumentError("frames: there are none")
    if _written(path) != count:  # a full disk ends the encoder without a word
        raise StorageError("the video cannot be written: the encoder stopped early")


class Filmstrip:
    """Some frames of a stream side by side, evenly spaced, the first and the last among them.

    Args:
        count: frames of the stream.
        pictures: how many of them to show, at most.
    """

    def __init__(self, count: int, pictures: int = 7):
        self._wanted = set(np.linspace(0, count - 1, min(pictures, count)).round().astype(int))
        self._shown: list[Frame] = []

    def watched(self, frames: Iterable[Frame]) -> Generator[Frame, None, None]:
        """Hand on frames, and keep copies of those to show."""
        for index, frame in enumerate(frames):
            if index in self._wanted:
                self._shown.append(frame.copy())
            yield frame

    def write(self, path: Path) -> None:
        """Write the picture; the suffix says the format.

        Raises:
            ArgumentError: if no frame has come.
        """
        if not self._shown:
            raise ArgumentError("frames: there are none")
        gap = np.full((len(self._shown[0]), _GAP, 3), _WHITE, dtype=np.uint8)
        parts = [part for frame in self._shown for part in (gap, frame)]
        imageio.v2.imwrite(path, np.concatenate(parts[1:], axis=1))


def _written(path: Path) -> int:
    """Return how many frames a video has; 0 if it is none."""
    import imageio_ffmpeg  # the writer has, and has said what to install where that fails

    try:
        frames, _ = imageio_ffmpeg.count_frames_and_secs(str(path))
        return int(frames)
    except RuntimeError:
        return 0
