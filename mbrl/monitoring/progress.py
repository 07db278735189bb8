"""How far a job without metrics is: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

_SECONDS_BETWEEN_LINES = 5.0


class Progress:
    """Shows how much of a job is done, on standard error.

    Args:
        total: how much there is to do.
        unit: what is counted, in the singular.
    """

    def __init__(self, total: int, unit: str):
        self._total, self._unit, self._done = total, unit, 0
        self._began = self._last = time.monotonic()
        self._bar = tqdm(total=total, unit=unit) if sys.stderr.isatty() else None

    def advance(self, count: int) -> None:
        """Show that so much more is done."""
        self._done += count
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(count)
        elif self._done == self._total or now - self._last > _SECONDS_BETWEEN_LINES:
            self._last = now
            print(
                f"{self._unit} {self._done}/{self._total} wall_s={now - self._began:.1f}",
                file=sys.stderr,
                flush=True,
            )

    def close(self) -> None:
        """Leave the cursor on a line of its own."""
        if self._bar is not None:
            self._bar.close()
