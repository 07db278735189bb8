"""SIGINT and SIGTERM: asking a run to save itself and stop."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from mbrl.errors import MbrlError


class Interrupted(MbrlError):
    """A run was asked to stop by a signal, and has saved itself.

    Attributes:
        signum: the signal.
        run_dir: where to resume.
    """

    def __init__(self, signum: int, run_dir: Path):
        super().__init__(
            f"stopped by {signal.Signals(signum).name}; resume with --resume {run_dir}"
        )
        self.signum, self.run_dir = signum, run_dir


class Stop:
    """Whether a signal asked for the end.

    Attributes:
        signum: the signal, or None.
    """

    signum: int | None = None

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        """Note a signal; the run stops at its next safe moment. A second one stops at once."""
        if self.signum is not None:
            raise KeyboardInterrupt(signum)
        self.signum = signum


@contextlib.contextmanager
def routed(stop: Stop) -> Iterator[None]:
    """Route SIGINT and SIGTERM to ``stop``, where this thread may."""
    before = {}
    try:
        for signum in (signal.SIGINT, signal.SIGTERM):
            before[signum] = signal.signal(signum, stop)
    except ValueError:  # not the main thread: the caller handles signals
        pass
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
