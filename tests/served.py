"""A real visdom server for tests, and what it has been told."""

import contextlib
import json
import logging
import socket
import time
from pathlib import Path
from typing import Any

import pytest

from mbrl.monitoring import VisdomOptions
from mbrl.monitoring.visdom_process import VisdomProcess


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def answers(port: int, host: str = "127.0.0.1") -> bool:
    with socket.socket() as probe:
        probe.settimeout(2.0)
        return probe.connect_ex((host, port)) == 0


def eventually(condition: Any, seconds: float = 40.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


@contextlib.contextmanager
def server(store: Path) -> Any:
    """Start a server; give its options and its process."""
    pytest.importorskip("visdom")
    options = VisdomOptions(enabled=True, port=free_port(), download=False)
    process = VisdomProcess.started(options, store)
    assert process is not None
    try:
        eventually(lambda: answers(options.port))
        yield options, process
    finally:
        process.end()


def windows(options: VisdomOptions, env: str) -> dict[str, Any]:
    """Return the windows of an environment, as visdom's own client reads them, by title."""
    import visdom

    logging.getLogger("visdom").setLevel(logging.CRITICAL)
    reader = visdom.Visdom(
        server=f"http://{options.host}",
        port=options.port,
        env=env,
        use_incoming_socket=False,
        raise_exceptions=True,
    )
    found = json.loads(reader.get_window_data(env=env))
    return {window["title"]: window for window in found.values()}
