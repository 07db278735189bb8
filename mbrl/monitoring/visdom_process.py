"""A visdom server of a run's own."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from mbrl.monitoring.options import VisdomOptions

_SCRIPT = Path(__file__).with_name("visdom_server.py")
_GRACE = 2.0  # seconds to end in


class VisdomProcess:
    """A server on the loopback interface, which ends with this process however that ends.

    Args:
        process: the server; it ends where its standard input does.

    Attributes:
        pid: of the process.
    """

    def __init__(self, process: subprocess.Popen[bytes]):
        self._process, self.pid = process, process.pid

    @classmethod
    def started(cls, options: VisdomOptions, store: Path) -> VisdomProcess | None:
        """Start one, or return None if something answers at that port already.

        Args:
            options: the port.
            store: where it keeps what it was told, and its log.
        """
        with socket.socket() as probe:
            probe.settimeout(1.0)
            if probe.connect_ex(("127.0.0.1", options.port)) == 0:
                return None
        store.mkdir(parents=True, exist_ok=True)
        with (store / "server.log").open("ab") as log:
            return cls(
                subprocess.Popen(
                    # -P: modules beside the script are not to be taken for libraries.
                    [sys.executable, "-P", str(_SCRIPT), str(options.port), str(store.resolve())]
                    + ["--download"] * options.download,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,  # Ctrl-C is the run's
                )
            )

    def end(self) -> None:
        """End it."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
