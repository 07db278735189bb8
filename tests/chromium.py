"""Headless Chromium for tests: pages, what is drawn on them, what they ask the network for.

It is driven over the DevTools protocol through a pipe, so that no port is open to anybody.
"""

import base64
import contextlib
import io
import json
import os
import select
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL.Image

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--remote-debugging-pipe", "--hide-scrollbars",
)  # fmt: skip
SECONDS = 240.0  # for an answer
COLORS = 256  # of a screenshot
_SOME = 65536  # bytes


def found() -> str | None:
    """Return the path of Chromium's command; None if there is none."""
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)


@contextlib.contextmanager
def chromium(profile: Path, *flags: str) -> Iterator["Chromium"]:
    """Start a browser, with an empty folder as its profile; it ends with the context."""
    ours_in, its_out = os.pipe()
    its_in, ours_out = os.pipe()
    # The protocol's pipes are its third and fourth file, where only a shell can put them.
    process = subprocess.Popen(
        [
            "bash", "-c", f'exec "$@" 3<&{its_in} 4>&{its_out}', "chromium", str(found()),
            *FLAGS, f"--user-data-dir={profile}", *flags, "about:blank",
        ],
        pass_fds=(its_in, its_out),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
    os.close(its_in)
    os.close(its_out)
    try:
        yield Chromium(ours_in, ours_out)
    finally:
        os.close(ours_in)
        os.close(ours_out)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


class Chromium:
    """A browser at the other end of two pipes."""

    def __init__(self, answers: int, calls: int):
        self._answers, self._calls = answers, calls
        self._rest, self._count = b"", 0
        self.events: list[dict[str, Any]] = []  # that nobody has looked at yet

    def page(
        self, url: str, *, width: int = 1280, height: int = 800, offline: bool = False
    ) -> "Page":
        """Open a page, perhaps one that has no network."""
        target = self.call("Target.createTarget", url="about:blank")
        attached = self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        return Page(self, attached["sessionId"], url, (width, height), offline)

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; return its result."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if session is not None:
            message["sessionId"] = session
        os.write(self._calls, json.dumps(message).encode() + b"\0")
        deadline = time.monotonic() + SECONDS
        while True:
            answer = self._next(deadline)
            if answer.get("id") == self._count:
                assert "error" not in answer, f"{method}: {answer['error']}"
                return answer["result"]
            self.events.append(answer)

    def _next(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], deadline - time.monotonic())
            assert ready, "Chromium does not answer"
            more = os.read(self._answers, _SOME)
            assert more, "Chromium has ended"
            self._rest += more
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)


class Page:
    """A page that is shown, and what has happened on it.

    Attributes:
        requests: the URLs that it has asked for, itself among them, but for those that are data.
        complaints: what its console says went wrong.
    """

    def __init__(
        self, browser: Chromium, session: str, url: str, size: tuple[int, int], offline: bool
    ):
        self._browser, self._session = browser, session
        self.requests: list[str] = []
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")
        # As with a mouse: what appears under it, such as the buttons of a plot, is not there yet.
        mouse = [{"name": "hover", "value": "hover"}, {"name": "any-hover", "value": "hover"}]
        self._call("Emulation.setEmulatedMedia", features=mouse)
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=size[0], height=size[1], deviceScaleFactor=1, mobile=False,
        )  # fmt: skip
        if offline:
            none = {"latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
            self._call("Network.emulateNetworkConditions", offline=True, **none)
        self._call("Page.navigate", url=url)
        self.until("document.readyState == 'complete'")

    def evaluate(self, expression: str) -> Any:
        """Return the value of a JavaScript expression, or of its promise, as plain data."""
        found = self._call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        self._look_at_events()
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, expression: str, seconds: float = SECONDS) -> Any:
        """Wait until a JavaScript expression is true; return its value."""
        deadline = time.monotonic() + seconds
        while not (value := self.evaluate(expression)):
            assert time.monotonic() < deadline, f"it did not come true: {expression}"
            time.sleep(0.1)
        return value

    def screenshot(self, path: Path) -> None:
        """Write a PNG of the page, of few colours, which makes it small."""
        data = self._call("Page.captureScreenshot", format="png")["data"]
        picture = PIL.Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
        path.parent.mkdir(parents=True, exist_ok=True)
        picture.quantize(COLORS, dither=PIL.Image.Dither.NONE).save(path, optimize=True)

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)

    def _look_at_events(self) -> None:
        events, self._browser.events = self._browser.events, []
        for event in events:
            about = event["params"]
            if event["method"] == "Network.requestWillBeSent":
                if not (url := about["request"]["url"]).startswith("data:"):
                    self.requests.append(url)
            elif event["method"] == "Runtime.exceptionThrown":
                self.complaints.append(about["exceptionDetails"]["exception"]["description"])
            elif event["method"] == "Log.entryAdded" and about["entry"]["level"] == "error":
                self.complaints.append(f"{about['entry']['text']} {about['entry'].get('url', '')}")
            elif event["method"] == "Runtime.consoleAPICalled" and about["type"] == "error":
                self.complaints.append(json.dumps(about["args"]))
