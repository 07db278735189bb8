"""Markdown files whose blocks are run: the README and the tutorials.

A block of code whose first line is a comment with a file's name, `# smooth.yaml`, is that file;
other blocks of Python are run as they stand. A line of a block of bash is a command. A block
without a language that follows one of these is what it prints.
"""

import contextlib
import glob
import io
import os
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import pytest

from mbrl import registry
from mbrl.cli import main

ROOT = Path(__file__).resolve().parents[1]
REGISTRIES = [v for v in vars(registry).values() if isinstance(v, registry.Registry)]
NAMED = re.compile(r"# ([\w/]+\.(?:py|yaml))$", re.MULTILINE)
# What stands for something else in what is shown: for anything, or for a number that is close.
STANDS = re.compile(r"\.\.\.|-?\d+\.\d+")
NUMBER = r"(-?\d+(?:\.\d+)?(?:e[-+]?\d+)?)"
TOLERANCE = 0.02  # of a number with a decimal point, relative


class Block(NamedTuple):
    """A fenced block."""

    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The name of the file that it is; None: it is none."""
        name = NAMED.match(self.text) if self.language in ("python", "yaml") else None
        return name[1] if name else None


class Page:
    """A Markdown file."""

    def __init__(self, path: Path):
        self.path = path
        self.text = path.read_text()
        found = re.findall(r"^```(\w*)\n(.*?)^```$", self.text, flags=re.MULTILINE | re.DOTALL)
        self.blocks = [Block(*each) for each in found]

    def of(self, language: str) -> list[str]:
        """Return the blocks in a language, as they stand."""
        return [block.text for block in self.blocks if block.language == language]

    def shown(self, text: str) -> str | None:
        """Return what a block is said to print; None: nothing is said."""
        texts = [block.text for block in self.blocks]
        following = self.blocks[texts.index(text) + 1 :]
        return following[0].text if following and not following[0].language else None


def matches(shown: str, printed: str) -> bool:
    """Whether the last lines that were printed are those shown.

    `...` stands for any text, on a line of its own for any lines; numbers with a decimal point may
    differ by two per cent.
    """
    numbers = [float(word) for word in STANDS.findall(shown) if word != "..."]
    pattern = ""
    for line in shown.splitlines():
        if line == "...":
            pattern += r"(?:.*\n)*?"
            continue
        literals = [re.escape(part) for part in STANDS.split(line.rstrip())]
        words = ["(?:.*)" if word == "..." else NUMBER for word in STANDS.findall(line)]
        pattern += "".join(a + b for a, b in zip(literals, [*words, r" *\n"], strict=True))
    found = re.search(rf"^{pattern}\Z", printed, flags=re.MULTILINE)
    return found is not None and [float(x) for x in found.groups()] == pytest.approx(
        numbers, rel=TOLERANCE, abs=0.0
    )


def commands(text: str) -> Iterator[list[str]]:
    """Yield the commands of a block of bash, in words, without comments."""
    for line in text.replace("\\\n", " ").splitlines():
        if words := shlex.split(line, comments=True):
            yield words


class Newcomer:
    """Somebody who types what a page says, in a folder that looks like the repository."""

    def __init__(self, folder: Path, monkeypatch: Any):
        self.folder = folder
        for name in ("assets", "benchmarks", "configs", "main.py"):
            (folder / name).symlink_to(ROOT / name)
        monkeypatch.chdir(folder)
        monkeypatch.syspath_prepend(folder)
        monkeypatch.setattr(os, "fsync", lambda handle: None)

    def follow(self, page: Page) -> None:
        """Do all that the page says, and hold what it shows against what is printed."""
        wrong = []
        for block in page.blocks:
            printed = self.do(block)
            shown = page.shown(block.text) if block.language in ("python", "bash") else None
            if shown is not None and not matches(shown, printed):
                wrong.append(f"{page.path.name} shows\n{shown}\nand this is printed:\n{printed}")
        if wrong:
            pytest.fail("\n".join(wrong), pytrace=False)

    def do(self, block: Block) -> str:
        """Type a block; return what is printed."""
        if block.file is not None:
            (self.folder / block.file).write_text(block.text)
        elif block.language == "python":
            return printed_by(lambda: exec(compile(block.text, "page", "exec"), {}))
        elif block.language == "bash":
            return "".join(self.run(words) for words in commands(block.text))
        return ""

    def run(self, words: list[str]) -> str:
        """Run a command; return what it prints, or the line that it fails with."""
        words = [found for word in words for found in sorted(glob.glob(word)) or [word]]
        program, *arguments = words[1:] if words[0] == "python" else words
        if program in ("main.py", "./run.sh"):
            return self.main(arguments)
        assert words[0] == "python", words
        assert (self.folder / program).is_file(), words

        def script() -> None:
            before, sys.argv = sys.argv, [program, *arguments]
            try:
                runpy.run_path(program, run_name="__main__")
            finally:
                sys.argv = before

        return printed_by(script)

    def main(self, arguments: list[str]) -> str:
        """Run the command line in this process, which need not import everything again."""
        errors = io.StringIO()
        codes = []
        with contextlib.redirect_stderr(errors):
            printed = printed_by(lambda: codes.append(main(arguments)))
        if codes == [0]:
            return printed
        assert codes == [2], errors.getvalue()
        return errors.getvalue()


def printed_by(job: Any) -> str:
    """Return what a job writes to standard output."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        job()
    return printed.getvalue()


@contextlib.contextmanager
def registrations_undone(folder: Path) -> Iterator[None]:
    """Forget what was registered meanwhile, and the modules of a folder."""
    environments = set(gymnasium.registry)
    entries = [dict(known._entries) for known in REGISTRIES]
    yield
    for name in set(gymnasium.registry) - environments:
        del gymnasium.registry[name]
    for known, before in zip(REGISTRIES, entries, strict=True):
        known._entries.clear()
        known._entries.update(before)
    for name, module in sys.modules.copy().items():  # a thread may import meanwhile
        if str(getattr(module, "__file__", None) or "").startswith(str(folder)):
            del sys.modules[name]
