"""Pieces of HTML; whatever is not markup by its name is escaped."""

from __future__ import annotations

import base64
import html
import math
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

_LARGEST = {".mp4": 8_000_000}  # bytes of a file that becomes part of the page
_LARGEST_PICTURE = 3_000_000
_LARGEST_PAGE = 60_000_000  # bytes of all of them
_TYPES = {"svg": "image/svg+xml", "png": "image/png", "jpg": "image/jpeg", "mp4": "video/mp4"}
# Nothing is to be fetched from anywhere; the browser sees to it.
_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'"
_STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2em auto; max-width: 84em; padding: 0 1em;
       color: #1d2430; background: #fff; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin: 2em 0 .6em; }
table { border-collapse: collapse; font-size: .85em; } .wide { overflow-x: auto; }
th, td { padding: .3em .5em; border-bottom: 1px solid #dfe3e8; text-align: left;
         white-space: nowrap; }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
img, video { max-width: 100%; height: auto; }
figure { display: inline-block; margin: 0 .8em .8em 0; }
.svg { width: 23em; } .svg + figcaption { display: none; }
figcaption, p.caption { color: #5b6675; font-size: .85em; }
pre { background: #f5f6f8; padding: 1em; overflow-x: auto; font-size: .85em; }
"""


class Embedding:
    """Puts files into a page as long as they are small, and links to them otherwise.

    Args:
        folder: where the page will be.
    """

    def __init__(self, folder: Path):
        self.folder, self._left = folder, _LARGEST_PAGE

    def data(self, path: Path) -> bytes | None:
        """Return the content of a file that is to become part of the page, or None."""
        size = path.stat().st_size
        if size > min(self._left, _LARGEST.get(path.suffix, _LARGEST_PICTURE)):
            return None
        self._left -= size
        return path.read_bytes()

    def picture(self, path: Path, title: str) -> str:
        """Return a picture, or a link to it."""
        content = self.data(path)
        if content is None:
            return caption(f"{title}: ", link(path, self.folder))
        return image_of(content, path.suffix[1:], title)


def document(title: str, body: str) -> str:
    """Return a whole page."""
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n<h1>{html.escape(title)}</h1>\n{body}</body>\n</html>\n"
    )


def section(title: str, *parts: str) -> str:
    """Return pieces of HTML under a heading."""
    return f"<section>\n<h2>{html.escape(title)}</h2>\n{''.join(parts)}</section>\n"


def table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table; numbers with four digits, and nothing for None and NaN."""
    cells = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    lines = [f"<tr>{cells}</tr>\n"]
    lines += [f"<tr>{''.join(map(_cell, row))}</tr>\n" for row in rows]
    return f'<div class="wide"><table>\n{"".join(lines)}</table></div>\n'


def image_of(content: bytes, kind: str, title: str) -> str:
    """Return a picture; kind: svg, png or jpg."""
    return (
        f'<figure><img class="{kind}" alt="{html.escape(title)}" src="{_uri(content, kind)}">'
        f"<figcaption>{html.escape(title)}</figcaption></figure>\n"
    )


def video_of(path: Path, embedding: Embedding) -> str:
    """Return a video, or a link to it."""
    content = embedding.data(path)
    if content is None:
        return caption("video: ", link(path, embedding.folder))
    return (
        f'<figure><video controls loop muted src="{_uri(content, "mp4")}"></video>'
        f"<figcaption>{html.escape(path.name)}</figcaption></figure>\n"
    )


def link(path: Path, folder: Path) -> str:
    """Return a link to a file from a page in a folder."""
    target = quote(os.path.relpath(path.resolve(), folder.resolve()).replace(os.sep, "/"))
    return f'<a href="{html.escape(target)}">{html.escape(path.name)}</a> '


def caption(text: str, *parts: str) -> str:
    """Return a line of text, followed by pieces of HTML."""
    return f'<p class="caption">{html.escape(text)}{"".join(parts)}</p>\n'


def details(title: str, text: str) -> str:
    """Return a text as it is, which unfolds."""
    return (
        f"<details><summary>{html.escape(title)}</summary>"
        f"<pre>{html.escape(text)}</pre></details>\n"
    )


def _uri(content: bytes, kind: str) -> str:
    return f"data:{_TYPES[kind]};base64,{base64.b64encode(content).decode()}"


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "<td></td>"
    if isinstance(value, float):
        text = f"{value:.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.4g}"
        return f'<td class="number">{text}</td>'
    if isinstance(value, int):
        return f'<td class="number">{value}</td>'
    return f"<td>{html.escape(str(value))}</td>"
