"""Windows of a dashboard as visdom wants them."""

from __future__ import annotations

import html
import logging
from typing import Any

import imageio.v2
import requests
import visdom

from mbrl.monitoring.board import Image, Lines, Window
from mbrl.monitoring.options import VisdomOptions

_SECONDS = (3.0, 10.0)  # to connect, to be answered
_LARGEST = 8_000_000  # bytes of a video that is shown
_WIDTH, _HEIGHT = 380, 280  # of a window, in pixels
_VIDEO = 520  # that of a video: environments draw 480 by 480, if they are not told otherwise

logging.getLogger("visdom").setLevel(logging.CRITICAL)  # it would write to the console


class VisdomClient:
    """Windows in one environment of a server.

    Args:
        options: where the server is.
        env: name of the environment, which is made if need be.

    Raises:
        ConnectionError: if no server answers; so do all methods.
    """

    def __init__(self, options: VisdomOptions, env: str):
        self._env = env
        self._visdom = _Connection(
            server=f"http://{options.host}",
            port=options.port,
            env=env,
            trusting=not options.is_loopback,
        )

    def show(self, window: Window) -> None:
        """Put a window in the place of that of the same title."""
        if isinstance(window, Lines):
            self._lines(window)
        elif isinstance(window, Image):
            self._image(window)
        else:
            self._visdom.text(
                f"<pre>{html.escape(window.text)}</pre>", win=window.title, opts=_opts(window)
            )

    def save(self) -> None:
        """Let the server write the environment to its disk."""
        self._visdom.save([self._env])

    def _lines(self, window: Lines) -> None:
        opts = _opts(window, xlabel=window.x_label, legend=list(window.legend))
        opts["showlegend"] = len(window.legend) > 1
        single = window.y.shape[1] == 1
        self._visdom.line(
            window.y[:, 0] if single else window.y, window.x, win=window.title, opts=opts
        )

    def _image(self, window: Image) -> None:
        opts = _opts(window, caption=window.caption)
        if window.path.suffix == ".mp4":
            if window.path.stat().st_size <= _LARGEST:
                opts |= {"autoplay": True, "loop": True, "width": _VIDEO, "height": _VIDEO + 20}
                self._visdom.video(videofile=str(window.path), win=window.title, opts=opts)
            return
        pixels = imageio.v2.imread(window.path)[..., :3]
        height, width = pixels.shape[:2]
        opts |= {"width": 2 * _WIDTH, "height": 2 * _WIDTH * height // width + 40}
        self._visdom.image(pixels.transpose(2, 0, 1), win=window.title, opts=opts)


class _Connection(visdom.Visdom):
    """visdom's client, but it does not wait for ever, and an error of the server is one."""

    def __init__(self, *, trusting: bool, **options: Any):
        self._requests = requests.Session()
        self._requests.trust_env = trusting  # no proxy stands between us and ourselves
        super().__init__(raise_exceptions=True, use_incoming_socket=False, **options)

    def _handle_post(self, url: str, data: Any = None) -> str:
        response = self._requests.post(url, data=data, timeout=_SECONDS)
        response.raise_for_status()
        return response.text


def _opts(window: Window, **more: Any) -> dict[str, Any]:
    return {"title": window.title, "width": _WIDTH, "height": _HEIGHT, **more}
