"""The pages of docs/api say what the code says."""

import importlib.util
import re
from pathlib import Path

import pytest

import mbrl

ROOT = Path(__file__).parent.parent
API = ROOT / "docs" / "api"
SPEC = importlib.util.spec_from_file_location("docs_build", ROOT / "docs" / "build.py")
BUILD = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(BUILD)


@pytest.fixture(scope="module")
def written():
    return BUILD.pages()


def test_pages_are_in_step_with_the_code(written):
    there = {file.name: file.read_text() for file in API.glob("*")}
    stale = sorted(n for n in written.keys() | there.keys() if written.get(n) != there.get(n))
    assert not stale, "run python docs/build.py"


def test_every_public_name_is_documented(written):
    facade = written["mbrl.md"]
    assert all(f"| [`{name}`](mbrl." in facade for name in mbrl.__all__)
    for package in ("physics", "ops", "nn", "data", "tasks", "graph", "planning", "algorithms"):
        names = importlib.import_module(f"mbrl.{package}").__all__
        page = written[f"mbrl.{package}.md"]
        said = set(re.findall(r"^(?:## `|\| \[`)(\w+)`", page, flags=re.MULTILINE))
        assert set(names) <= said


def test_nothing_of_the_docstrings_markup_is_left(written):
    for page in written.values():
        prose = re.sub(r"^```.*?^```$", "", page, flags=re.MULTILINE | re.DOTALL)
        assert not re.search(r":[a-z]+:`|\.\. math|``|::$", prose, flags=re.MULTILINE)
        assert "operatorname" not in page  # GitHub refuses it


DOC = """Solve :math:`f(x) = 0`; see :class:`~mbrl.ops.Exact` and :meth:`solve`.

.. math:: x \\leftarrow x - f(x) / f'(x), \\qquad
          f(x) < 1

Written as::

    solve(f,
          x)

Args:
    f: the function, [B, n]; ``None``
        is refused.
    *constants: further ones.

Returns:
    x: the root.
"""
PAGE = """Solve $`f(x) = 0`$; see `Exact` and `solve`.

```math
x \\leftarrow x - f(x) / f'(x), \\qquad
f(x) < 1
```

Written as:

```
solve(f,
      x)
```

**Arguments**

* `f`: the function, [B, n]; `None`
    is refused.
* `*constants`: further ones.

**Returns**

x: the root."""


def test_a_docstring_becomes_markdown():
    assert BUILD.markdown(DOC.strip(), BUILD.plain) == PAGE


def test_a_long_signature_has_a_line_for_every_parameter():
    def short(a: "int", /, *rest: "str", key: "str" = "x") -> "None": ...

    def long(
        state: "list[float]",
        action_of_a_long_name: "list[float]",
        *,
        method: "str" = "auto",
        eps=None,
    ) -> "list[float]": ...

    assert BUILD.signature("short", short) == "short(a: int, /, *rest: str, key: str = 'x') -> None"
    assert BUILD.signature("long", long).splitlines() == [
        "long(",
        "    state: list[float],",
        "    action_of_a_long_name: list[float],",
        "    *,",
        "    method: str = 'auto',",
        "    eps=None,",
        ") -> list[float]",
    ]
