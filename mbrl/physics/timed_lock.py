"""A lock that knows how long it was held."""

from __future__ import annotations

import time

from mbrl.physics.forks import ForkedLock


class TimedLock(ForkedLock):
    """A reentrant lock, as a context manager.

    Attributes:
        seconds: for how long it was held, all in all, until it was last given back.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seconds, self._depth, self._since = 0.0, 0, 0.0

    def __enter__(self) -> None:
        super().__enter__()
        if not self._depth:
            self._since = time.perf_counter()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        if not self._depth:
            self.seconds += time.perf_counter() - self._since
        super().__exit__()

    def renew(self) -> None:
        """See :meth:`ForkedLock.renew`."""
        before = self._lock
        super().renew()
        if self._lock is not before:
            self._depth = 0
