"""Progress on the console: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time

from tqdm import tqdm

from mbrl.monitoring.stream import Row, Sink

_SECONDS_BETWEEN_LINES = 5.0
_SECONDS_BETWEEN_NOTES = 30.0  # on an update that takes so long
_SHOWN = ("return_mean", "fit_loss", "validation_open_loop_error")


class Console(Sink):
    """Shows how far a run is, on standard error.

    Args:
        total: number of updates in all.
        done: number made already.
        shown: columns of the rows to show.
    """

    def __init__(self, total: int, done: int = 0, shown: tuple[str, ...] = _SHOWN):
        self._total, self._shown = total, shown
        self._last = float("-inf")
        self._done, self._noted = done, time.monotonic()
        terminal = sys.stderr.isatty()
        self._bar = tqdm(total=total, initial=done, unit="update") if terminal else None

    def write(self, row: Row) -> None:
        """Show a row."""
        self._done, self._noted = int(row["update"]), time.monotonic()
        values = {name: f"{row[name]:.4g}" for name in self._shown if name in row}
        if self._bar is not None:
            self._bar.set_postfix(values, refresh=False)
            self._bar.update()
        elif row["update"] == self._total or time.monotonic() - self._last > _SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            text = " ".join(f"{name}={value}" for name, value in values.items())
            print(
                f"update {int(row['update'])}/{self._total} {text} wall_s={row['wall_s']:.1f}",
                file=sys.stderr,
                flush=True,
            )

    def note(self, doing: str) -> None:
        """Show what the update in progress is at."""
        if self._bar is not None:
            self._bar.set_description_str(doing)
        elif time.monotonic() - self._noted > _SECONDS_BETWEEN_NOTES:
            self._noted = time.monotonic()
            print(f"update {self._done + 1}/{self._total}: {doing}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave the cursor on a line of its own."""
        if self._bar is not None:
            self._bar.close()
