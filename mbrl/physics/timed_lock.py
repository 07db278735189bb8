"""A lock that knows how long it was held."""

from __future__ import annotations

import threading
import time


class TimedLock:
    """A reentrant lock, as a context manager.

    Attributes:
        seconds: for how long it was held, all in all, until it was last given back.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._lock, self._depth, self._since = threading.RLock(), 0, 0.0

    def __enter__(self) -> None:
        self._lock.acquire()
        if not self._depth:
            self._since = time.perf_counter()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            self.seconds += time.perf_counter() - self._since
        self._lock.release()
