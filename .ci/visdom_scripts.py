#!/usr/bin/env python3
"""Fetch the scripts of visdom's page from npm's registry, and put them where visdom looks.

    .venv/bin/python .ci/visdom_scripts.py

They are no part of visdom's package. Its command, and ours, fetch them at the first start, from
hosts that a closed network may not reach; the registry that ``npm`` is configured for has the same
files. Without them tests of the dashboard in a browser are skipped. visdom's own list says which
files it wants (5 MB), whatever its version; ``npm`` checks what it gets.
"""

import functools
import json
import re
import subprocess
import sys
import tarfile
import tempfile
import types
import urllib.request
from pathlib import Path

import requests

UNPKG = "https://unpkg.com/"  # followed by name@version/path of what npm has, too
ELSEWHERE = (  # where else visdom looks, and what of npm it finds there
    (r"https://cdn\.plot\.ly/plotly-([\d.]+)\.min\.js", r"plotly.js-dist-min@\1/plotly.min.js"),
    (r"https?://d3js\.org/d3\.v3\.min\.js", "d3@3.5.17/d3.min.js"),
    (
        r"https?://d3js\.org/d3-selection-multi\.v1\.js",
        "d3-selection-multi@1.0.1/build/d3-selection-multi.js",
    ),
    (r"https://cdnjs\.cloudflare\.com/ajax/libs/mathjax/([\d.]+)/(.*)", r"mathjax@\1/\2"),
)


def source(url):
    """Return the package, name@version, and the path in it, '' for its main file, of a URL."""
    place = re.sub("[?#].*", "", url).removeprefix(UNPKG)
    for pattern, replacement in ELSEWHERE:
        place = re.sub(pattern, replacement, place)
    if "://" in place:
        raise SystemExit(f"error: visdom wants {url}, of which it is not known where npm has it")
    package, _, file = place.partition("/")
    return package, file


@functools.cache
def files_of(package):
    """Return {path: content} of a package, name@version."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["npm", "pack", "--silent", "--ignore-scripts", "--pack-destination", folder]
        try:
            subprocess.run([*command, package], check=True, stdout=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError) as error:
            raise SystemExit(f"error: npm cannot fetch {package}: {error}") from error
        (path,) = Path(folder).iterdir()
        with tarfile.open(path) as archive:
            members = [member for member in archive if member.isfile()]
            # Whatever the archive's one folder is called.
            return {m.name.partition("/")[2]: archive.extractfile(m).read() for m in members}


def content(url):
    """Return what is to be found at a URL."""
    package, file = source(url)
    files = files_of(package)
    file = file or json.loads(files["package.json"]).get("main", "index.js")
    if file not in files:
        raise SystemExit(f"error: visdom wants {url}, but {package} has no {file}")
    return files[file]


class Opener(urllib.request.OpenerDirector):
    """Opens npm's files in the place of those that are asked for."""

    def open(self, request):
        """Return something to read the content from."""
        return types.SimpleNamespace(read=lambda: content(request.full_url))


def main():
    """Let visdom fetch what it wants."""
    sys.modules["torch"] = None  # visdom would import it: seconds, for nothing
    import visdom
    from visdom.server import build

    build.request = types.SimpleNamespace(
        Request=urllib.request.Request,
        BaseHandler=urllib.request.BaseHandler,
        build_opener=lambda *handlers: Opener(),
        install_opener=lambda opener: None,
    )
    requests.get = lambda url: types.SimpleNamespace(content=content(url))
    build.download_scripts()
    print(f"The scripts of visdom's page are in {Path(visdom.__file__).parent / 'static'}")


if __name__ == "__main__":
    main()
