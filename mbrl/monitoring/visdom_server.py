"""The program of a visdom server: ``python -P visdom_server.py PORT FOLDER [--download]``.

It listens on 127.0.0.1 alone and ends with its standard input, that is, with whoever started it.
The scripts of its page are no part of visdom's package; with --download they are fetched once, as
visdom's own command does, but while the server runs already.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from pathlib import Path


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


def _fetch_scripts() -> None:
    import visdom
    from visdom.server.build import download_scripts

    static = Path(visdom.__file__).parent / "static"
    complete = static / "version.built"
    if not complete.exists():
        download_scripts()
        # It goes on where it gets no answer, and would take what it has for all there is.
        wanted = re.findall(
            r"""static_url\(["'](\w.*?)["']\)""", (static / "index.html").read_text()
        )
        if not all((static / name).exists() for name in wanted):
            complete.unlink(missing_ok=True)


def main(arguments: list[str]) -> None:
    """Serve until standard input ends."""
    port, folder, *options = arguments
    threading.Thread(target=_end_with_input, daemon=True).start()
    # visdom imports torch if it can, which a server has no use for: seconds, and much memory.
    sys.modules["torch"] = None  # type: ignore[assignment]
    from visdom.server.run_server import start_server

    if options:
        threading.Thread(target=_fetch_scripts, daemon=True).start()
    # The separator is what visdom's own default ends with, too: it appends names to it.
    start_server(port=int(port), env_path=folder + os.sep, base_url="", bind_local=True)


if __name__ == "__main__":
    main(sys.argv[1:])
