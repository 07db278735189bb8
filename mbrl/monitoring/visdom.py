"""A run on a visdom dashboard, without waiting for it."""

from __future__ import annotations

import os
import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from mbrl.errors import one_line
from mbrl.monitoring.board import Board, Window
from mbrl.monitoring.options import VisdomOptions
from mbrl.monitoring.stream import Picture, Row, Sink
from mbrl.monitoring.visdom_process import VisdomProcess
from mbrl.types import Array, Diagnostics

_MOST_WAITING = 1000  # of what the server has not been told yet; the oldest gives way
_SECONDS_BETWEEN_TAKES = 0.1  # from the queue
_SECONDS_BETWEEN = 2.0  # refreshments of the dashboard,
_IDLE_SHARE = 150  # or so many times the processor time of the last one, which training pays for
_PATIENCE = 30.0  # seconds for a server that is being started, and for the scripts of its page
_FIRST_ROW = 10.0  # seconds that the first windows wait for it, so that curves are among them
_FLUSH = 5.0  # seconds for the last refreshment of a run


class Client(Protocol):
    """A connection to a server."""

    def has_page(self) -> bool:
        """Whether the server has the scripts of its page."""

    def show(self, window: Window) -> None:
        """Put a window in the place of that of the same title."""

    def save(self) -> None:
        """Let the server write everything to its disk."""


class Visdom(Sink):
    """Shows a run in an environment of a visdom server, by a thread of its own.

    Training never waits: what it says is put on a queue of limited length, and at the end the
    thread has five seconds for what is left. Without a server, or when it dies, that is said once.

    Args:
        options: where the server is, and whether to start one.
        env: name of the environment.
        warn: says a line about a failure.
        say: says where to look.
        store: where a server that is started keeps what it was told.
        past: columns of the rows of an earlier part of the run.
        connect: makes the connection; None: that to visdom.
    """

    wants_diagnostics = wants_pictures = True

    def __init__(
        self,
        options: VisdomOptions,
        env: str,
        *,
        warn: Callable[[str], None],
        say: Callable[[str], None],
        store: Path,
        past: Mapping[str, Array] | None = None,
        connect: Callable[[VisdomOptions, str], Client] | None = None,
    ):
        self._options, self._env, self._warn, self._say = options, env, warn, say
        self._connect = connect or _connected
        if not options.is_loopback:
            warn(
                f"monitor.visdom.host: what is shown of this run is sent to {options.host} in the "
                "clear, and whoever reaches a visdom server sees it and may change it"
            )
        self._board = Board(past)
        self._waiting: deque[Callable[[], None]] = deque(maxlen=_MOST_WAITING)
        self._ending, self._over = threading.Event(), threading.Event()
        self._lock = threading.Lock()  # of what is said at the end
        self._is_connected = self._is_announced = False
        self._store = store
        self._process = VisdomProcess.started(options, store) if options.start else None
        self._thread = threading.Thread(target=self._run, name="visdom", daemon=True)
        self._thread.start()

    def write(self, row: Row) -> None:
        """Take the row of an update."""
        self._waiting.append(lambda: self._board.write(row))

    def diagnose(self, update: int, found: Diagnostics) -> None:
        """Take what was seen inside an update."""
        self._waiting.append(lambda: self._board.diagnose(update, found))

    def show(self, picture: Picture) -> None:
        """Take a picture."""
        self._waiting.append(lambda: self._board.show(picture))

    def tell(self, name: str, text: str) -> None:
        """Take a text."""
        self._waiting.append(lambda: self._board.tell(name, text))

    def close(self) -> None:
        """Show what is left, within five seconds, and end a server that was started."""
        self._ending.set()
        self._thread.join(_FLUSH)
        if self._thread.is_alive():
            self._end(f"it took more than {_FLUSH:g} s to show the rest")
        if self._process is not None:
            self._process.end()
            if self._is_announced:
                # Where the environment is not activated, the program is still beside its Python.
                beside = Path(sys.executable).with_name("visdom")
                command = "visdom" if shutil.which("visdom") else str(beside)
                again = f"{command} -bind_local -env_path {self._store}{os.sep}"
                self._say(f"the dashboard has ended with the run; `{again}` shows it again")

    def _run(self) -> None:
        try:
            client = self._patiently_connected()
            connected, pause = time.monotonic(), 0.0
            while not self._over.is_set():
                ending, waited = self._ends_within(pause), time.monotonic() - connected
                if not (ending or waited > _FIRST_ROW or self._board.has_rows):
                    pause = _SECONDS_BETWEEN_TAKES
                    self._take()
                    continue
                self._announce(client, ending or waited > _PATIENCE)
                began = time.thread_time()
                self._refresh(client)
                if ending:
                    client.save()
                    return
                pause = max(_SECONDS_BETWEEN, _IDLE_SHARE * (time.thread_time() - began))
        except Exception as error:
            self._end(one_line(error))

    def _patiently_connected(self) -> Client:
        """Connect; keep the queue short while a server that was started is not there yet."""
        patience = _PATIENCE if self._options.start else 0.0
        began = time.monotonic()
        while True:
            try:
                client = self._connect(self._options, self._env)
            except Exception:
                if time.monotonic() - began >= patience or self._over.is_set():
                    raise
            else:
                self._is_connected = True
                return client
            self._take()
            time.sleep(_SECONDS_BETWEEN_TAKES)

    def _announce(self, client: Client, now: bool) -> None:
        """Say where to look, once there is something to see."""
        if self._is_announced:
            return
        # Scripts that were to be fetched take a while; who opens the page before has to reload it.
        has_page = not (self._options.start and self._options.download) or client.has_page()
        if has_page or now:
            self._is_announced = True
            self._say(f"visdom: {self._options.url}/env/{self._env}")
        if not has_page and now:
            self._warn(
                f"the page at {self._options.url} is empty: its scripts, which are fetched from "
                "the internet once, have not come; see docs/monitoring.md"
            )

    def _ends_within(self, pause: float) -> bool:
        """Wait for the end of the run; keep the queue short meanwhile."""
        until = time.monotonic() + pause
        while not self._ending.wait(
            max(0.0, min(_SECONDS_BETWEEN_TAKES, until - time.monotonic()))
        ):
            if time.monotonic() >= until:
                return False
            self._take()
        return True

    def _take(self) -> None:
        while self._waiting:
            self._waiting.popleft()()

    def _refresh(self, client: Client) -> None:
        self._take()
        for window in self._board.changed():
            if self._over.is_set():
                return
            client.show(window)

    def _end(self, reason: str) -> None:
        """Say, if it is the first time, why nothing more is shown."""
        with self._lock:
            if self._over.is_set():
                return
            self._over.set()
        what = "no more of this run is shown" if self._is_connected else "this run is not shown"
        self._warn(f"{what} at {self._options.url}: {reason}")


def environment_name(parts: Sequence[str]) -> str:
    """Return a name for an environment, of the run's own: what a URL takes, and no ``+``.

    That sign stands between the environments that visdom is to compare.
    """
    joined = "_".join(parts)
    return "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else "-" for c in joined)


def _connected(options: VisdomOptions, env: str) -> Client:
    # Here, so that visdom is imported by nobody who does not use it, and not by the main thread.
    from mbrl.monitoring.visdom_client import VisdomClient

    return VisdomClient(options, env)
