"""Windows of a dashboard as visdom wants them."""

from __future__ import annotations

import base64
import html
import logging
from pathlib import Path
from typing import Any

import imageio.v3
import requests
import visdom

from mbrl.monitoring.board import Image, Lines, Window
from mbrl.monitoring.options import VisdomOptions

_SECONDS = (3.0, 10.0)  # to connect, to be answered
_LARGEST = 8_000_000  # bytes of a video that is shown
# Of a window, in pixels: three fit side by side into a page of 1200, and 291 is what a row of them
# takes, as visdom counts in steps of 15 with 24 for gap and title.
_WIDTH, _HEIGHT, _GAP = 380, 291, 10
_MOST_COLUMNS = 3  # of a picture
_CAPTION = 20
# What is shown fills its window, whatever size that is given.
_FILL = "position: absolute; inset: 0; display: flex; flex-direction: column; align-items: center"
_FIT = "flex: 1; min-height: 0; width: 100%; object-fit: contain"

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

    def has_page(self) -> bool:
        """Whether the server has the scripts of its page, which somebody has to fetch once."""
        return self._visdom.has_file("version.built")  # the last of them

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
        # Its window has the title already; above the curves there is room for the plot's buttons.
        opts["layoutopts"] = {"plotly": {"title": {"text": ""}}}
        opts |= {"marginleft": 55, "marginright": 15, "margintop": 32, "marginbottom": 40}
        single = window.y.shape[1] == 1
        self._visdom.line(
            window.y[:, 0] if single else window.y, window.x, win=window.title, opts=opts
        )

    def _image(self, window: Image) -> None:
        is_video = window.path.suffix == ".mp4"
        size = {} if is_video else _size_of(window.path)
        self._visdom.text(
            _video(window) if is_video else _picture(window),
            win=window.title,
            opts=_opts(window, **size),
        )


class _Connection(visdom.Visdom):
    """visdom's client, but it does not wait for ever, and an error of the server is one."""

    def __init__(self, *, trusting: bool, **options: Any):
        self._requests = requests.Session()
        self._requests.trust_env = trusting  # no proxy stands between us and ourselves
        self._static = f"{options['server']}:{options['port']}/static"
        super().__init__(raise_exceptions=True, use_incoming_socket=False, **options)

    def has_file(self, name: str) -> bool:
        """Whether the server has a file for its page."""
        return self._requests.get(f"{self._static}/{name}", timeout=_SECONDS).ok

    def _handle_post(self, url: str, data: Any = None) -> str:
        response = self._requests.post(url, data=data, timeout=_SECONDS)
        response.raise_for_status()
        return response.text


def _opts(window: Window, **more: Any) -> dict[str, Any]:
    return {"title": window.title, "width": _WIDTH, "height": _HEIGHT, **more}


def _size_of(path: Path) -> dict[str, int]:
    """Return width and height of the window of a picture: as many columns as its shape fills."""
    height, width = imageio.v3.improps(path).shape[:2]
    columns = min(_MOST_COLUMNS, max(1, round(width / height * _HEIGHT / _WIDTH)))
    shown = columns * _WIDTH + (columns - 1) * _GAP
    return {"width": shown, "height": shown * height // width + _CAPTION}


def _picture(window: Image) -> str:
    # visdom's own window for pictures scales them without smoothing, so that letters get lost.
    return _filling(f'<img style="{_FIT}" src="{_data(window.path, "image")}">', window.caption)


def _video(window: Image) -> str:
    if window.path.stat().st_size > _LARGEST:
        return _filling(f"{html.escape(str(window.path))} is too large", window.caption)
    # Browsers start by themselves only what is muted, even if it has no sound.
    options = "controls autoplay loop muted playsinline"
    source = f'<source type="video/mp4" src="{_data(window.path, "video")}">'
    return _filling(f'<video {options} style="{_FIT}">{source}</video>', window.caption)


def _filling(content: str, caption: str) -> str:
    return f'<div style="{_FILL}">{content}<small>{html.escape(caption)}</small></div>'


def _data(path: Path, kind: str) -> str:
    return f"data:{kind}/{path.suffix[1:]};base64,{base64.b64encode(path.read_bytes()).decode()}"
