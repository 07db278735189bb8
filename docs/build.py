"""Write docs/api, a page for every public package, from `__all__`, signatures and docstrings.

python docs/build.py    # tests/test_docs_api.py fails as long as a page differs from the code
"""

import importlib
import inspect
import pkgutil
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import mbrl  # noqa: E402
from mbrl.registry import ALGORITHMS, DYNAMICS, NODES, PLANNERS, POLICIES, TASKS  # noqa: E402

REGISTRIES = (TASKS, NODES, POLICIES, DYNAMICS, PLANNERS, ALGORITHMS)
# Documented beside the packages: what people call, catch and configure.
MODULES = ("config", "errors", "finished_runs", "registry", "runner", "types")
TITLES = {"Args:": "Arguments:"}  # of the sections of a docstring, where they differ
MARKED = re.compile(r"``(?P<code>.+?)``|:(?P<role>\w+):`(?P<target>.+?)`|`[^`]+`", re.DOTALL)
NOTE = "<!-- Written by docs/build.py from the code: change the docstrings instead. -->"
Linker = Callable[[str, str], str]  # (label, target) -> Markdown


class Bare(str):
    """Text that a signature shows as it is."""

    __repr__ = str.__str__


def is_ours(thing: Any) -> bool:
    return callable(thing) and str(getattr(thing, "__module__", "")).startswith("mbrl")


def is_table(thing: Any) -> bool:
    """Whether it says which names a configuration may use for what."""
    return isinstance(thing, dict) and all(map(is_ours, thing.values()))


def signature(name: str, thing: Any) -> str:
    """Return how something is called, one parameter a line where that is long."""

    def shown(value: Any, quoted: bool = False) -> Any:
        if value is inspect.Parameter.empty:
            return value
        text = value if isinstance(value, str) and not quoted else repr(value)
        text = getattr(value, "__forward_arg__", text)
        return Bare("..." if text[:1] == "<" else re.sub(r"^mappingproxy\((.*)\)$", r"\1", text))

    is_class = inspect.isclass(thing)
    if is_class and not (is_ours(thing.__init__) or hasattr(thing, "_fields")):
        return f"class {name}"
    found = inspect.signature(thing)
    known = [
        p.replace(annotation=shown(p.annotation), default=shown(p.default, quoted=True))
        for p in found.parameters.values()
        if p.name not in ("self", "cls")
    ]
    returns = found.empty if is_class else shown(found.return_annotation)
    line = name + str(inspect.Signature(known, return_annotation=returns))
    if len(line) <= 92:
        return line
    items = [str(p) for p in known]
    keywords = [p.kind is p.KEYWORD_ONLY for p in known]
    if True in keywords and all(p.kind is not p.VAR_POSITIONAL for p in known):
        items.insert(keywords.index(True), "*")
    arrow = "" if returns is found.empty else f" -> {returns!r}"
    return f"{name}(\n" + "".join(f"    {item},\n" for item in items) + f"){arrow}"


def members(cls: type) -> Iterator[tuple[str, Any]]:
    """Yield the public methods and properties that a class itself defines and documents."""
    for name, value in vars(cls).items():
        thing = getattr(value, "__func__", getattr(value, "fget", getattr(value, "func", value)))
        doc = inspect.getdoc(thing) if inspect.isfunction(thing) and is_ours(thing) else None
        news = doc and not re.match(r"See :class:`\S+`\.$", doc)  # which is where it is said
        if news and (name[0] != "_" or name == "__call__"):
            yield name, thing


def remarks(cls: type) -> dict[str, str]:
    """Return the comments on the fields of a class."""
    found, above = {}, []
    for line in inspect.getsource(cls).splitlines():
        if field := re.match(r"    (\w+): [^#]*(?:# (.*))?$", line):
            found[field[1]] = " ".join([*above, field[2] or ""]).strip()
        comment = re.match(r"    # (.*)", line)
        above = [*above, comment[1]] if comment else []
    return {name: said for name, said in found.items() if said}


def definition(name: str, value: Any) -> str:
    """Return how a constant is written where it is defined."""
    pattern = rf"^{name}(?:: .+)? = (?:.*[\[({{]\n(?: .*\n)*\S.*|.*)$"
    for module in sorted(sys.modules):
        if module.startswith("mbrl.") and vars(sys.modules[module]).get(name) is value:
            text = inspect.getsource(sys.modules[module])
            if match := re.search(pattern, text, re.MULTILINE):
                return match[0]
    raise LookupError(f"{name}: not found where it is defined")


def plain(label: str, target: str) -> str:
    """Link to nothing."""
    return f"`{label}`"


def formula(text: str) -> str:
    """Return a formula with the macros that GitHub allows, which \\operatorname is none of."""
    return re.sub(r"\s*\n\s*", "\n", text.strip()).replace("\\operatorname", "\\mathrm")


def inline(text: str, link: Linker) -> str:
    """Return Markdown of reStructuredText inside a paragraph."""

    def replaced(match: re.Match[str]) -> str:
        code, role, target = match["code"], match["role"], match["target"] or ""
        if code is not None:
            return link(code, code) if re.fullmatch(r"[A-Z]\w+\.\w+", code) else f"`{code}`"
        if role is None:
            return match[0]
        if role == "math":
            return f"$`{formula(target)}`$"
        return link(target.rpartition(".")[2] if target[0] == "~" else target, target.lstrip("~"))

    parts, end = [], 0
    for match in MARKED.finditer(text):
        parts += [text[end : match.start()].replace("<", "&lt;"), replaced(match)]
        end = match.end()
    return "".join([*parts, text[end:].replace("<", "&lt;")])


def markdown(doc: str, link: Linker) -> str:
    """Return Markdown of a docstring: its sections, formulas and literal blocks."""
    parts: list[str] = []
    for part in re.split(r"\n\n(?=\S)", doc):  # a paragraph, with all that is indented below it
        head, _, body = part.partition("\n")
        if re.fullmatch(r"[A-Z]\w+:", head):
            body = textwrap.dedent(body)
            if head != "Returns:":
                body = re.sub(r"^(\*{0,2}\w+(?:, \w+)*): ", r"* ``\1``: ", body, flags=re.MULTILINE)
            parts.append(f"**{TITLES.get(head, head)[:-1]}**\n\n{inline(body, link)}")
        elif head.startswith(".. math::"):
            parts.append(f"```math\n{formula(part.removeprefix('.. math::'))}\n```")
        elif "::\n\n" in part:
            text, _, code = part.partition("::\n\n")
            parts.append(f"{inline(text, link)}:\n\n```\n{textwrap.dedent(code)}\n```")
        else:
            parts.append(inline(part, link))
    return "\n\n".join(parts)


class Page:
    """A package or module: what it exports, and what the tables among that name."""

    def __init__(self, name: str):
        self.name, self.module = name, importlib.import_module(name)
        found = vars(self.module)
        own = [n for n, v in found.items() if is_ours(v) and v.__module__ == name and n[0] != "_"]
        self.exports = {n: found[n] for n in getattr(self.module, "__all__", own)}
        self.anchors: dict[str, str] = {}

    def owns(self, thing: Any) -> bool:
        return is_ours(thing) and f"{thing.__module__}.".startswith(f"{self.name}.")

    def add(self, heading: str) -> None:
        """Note a heading, and the anchor that GitHub makes of it."""
        slug = re.sub(r"[^\w-]", "", heading.lower())
        taken = sum(anchor.partition("-")[0] == slug for anchor in self.anchors.values())
        self.anchors[heading] = f"{slug}-{taken}" if taken else slug


class Reference:
    """All pages, and what each of them is the home of: the innermost one that exports it."""

    def __init__(self) -> None:
        found = [item.name for item in pkgutil.walk_packages(mbrl.__path__, "mbrl.") if item.ispkg]
        packages = [n for n in found if hasattr(importlib.import_module(n), "__all__")]
        names = ["mbrl", *packages, *(f"mbrl.{module}" for module in MODULES)]
        self.pages = {name: Page(name) for name in sorted(names)}
        self.homes: dict[int, Page] = {}
        self.kinds: dict[int, str] = {}
        for registry in REGISTRIES:
            self.kinds |= {id(v): f"The {registry.kind} `{k}`." for k, v in registry.items()}
        for page in sorted(self.pages.values(), key=lambda page: len(page.name), reverse=True):
            tables = {n: v for n, v in page.exports.items() if is_table(v)}
            for table, entries in tables.items():
                for kind, thing in entries.items():
                    self.kinds.setdefault(id(thing), f"`{kind}` of `{table}`.")
                page.exports |= {v.__name__: v for v in entries.values() if page.owns(v)}
            for thing in filter(page.owns, page.exports.values()):
                if not inspect.ismethod(thing):
                    self.homes.setdefault(id(thing), page)
        for page in self.pages.values():
            page.add(page.name)
            for name, thing in page.exports.items():
                if self.is_home(page, thing) or not is_ours(thing):
                    page.add(name)
                    for member, _ in members(thing) if inspect.isclass(thing) else ():
                        page.add(f"{name}.{member}")

    def is_home(self, page: Page, thing: Any) -> bool:
        return self.homes.get(id(thing)) is page

    def link(self, page: Page, label: str, *headings: str) -> str:
        """Return a link to the first of these headings that there is; code where there is none."""
        for heading in headings:
            for other in (page, *self.pages.values()):
                if heading in other.anchors:
                    file = "" if other is page else f"{other.name}.md"
                    return f"[`{label}`]({file}#{other.anchors[heading]})"
        return f"`{label}`"

    def entry(self, page: Page, name: str, thing: Any) -> Iterator[str]:
        """Yield what there is to say of a class or function, its methods included."""

        def link(label: str, target: str) -> str:
            *before, short = target.split(".")
            own = [f"{cls.__name__}.{short}" for cls in getattr(thing, "__mro__", ())]
            last = before[-1:]
            return self.link(page, label, *own, ".".join([*last, short]), short, *last)

        file = Path(str(sys.modules[thing.__module__].__file__)).relative_to(ROOT)
        yield f"## `{name}`"
        yield f"```python\n{signature(name, thing)}\n```"
        bases = [b for b in getattr(thing, "__bases__", ()) if is_ours(b) and b.__name__[0] != "_"]
        extends = ", ".join(self.link(page, b.__name__, b.__name__) for b in bases)
        said = [self.kinds.get(id(thing), ""), f"Extends {extends}." if extends else ""]
        yield " ".join([*filter(None, said), f"Source: [{file}](../../{file})"])
        yield markdown(inspect.getdoc(thing) or "", link)
        if not inspect.isclass(thing):
            return
        if hasattr(thing, "_fields") or hasattr(thing, "__dataclass_fields__"):
            comments = remarks(thing).items()
            yield "\n".join(f"* `{field}`: {inline(text, link)}" for field, text in comments)
        for member, function in members(thing):
            yield f"### `{name}.{member}`"
            if isinstance(vars(thing)[member], property):
                yield "*property*"
            else:
                yield f"```python\n{signature(member, function)}\n```"
            yield markdown(inspect.getdoc(function) or "", link)

    def constant(self, page: Page, name: str, value: Any) -> Iterator[str]:
        """Yield how something that is no class and no function is written, and what is in it."""
        yield f"## `{name}`"
        yield f"```python\n{definition(name, value)}\n```"
        if is_table(value):
            names = {kind: thing.__name__ for kind, thing in value.items()}
            rows = [f"| `{kind}` | {self.link(page, n, n)} |" for kind, n in names.items()]
            yield "\n".join(["| name | |", "|---|---|", *rows])

    def text(self, page: Page) -> str:
        """Return a page."""
        parts = [f"# `{page.name}`", inline(inspect.getdoc(page.module) or "", plain)]
        elsewhere = []
        for name, thing in page.exports.items():
            if self.is_home(page, thing):
                parts += self.entry(page, name, thing)
            elif is_ours(thing):
                where, said = name, (inspect.getdoc(thing) or "").split("\n\n")[0]
                if inspect.ismethod(thing):  # of a registry
                    where = thing.__func__.__qualname__
                    said = f"Decorator: files its argument as the {thing.__self__.kind} of a name."
                said = " ".join(inline(said, plain).split())
                elsewhere.append(f"| {self.link(page, name, where)} | {said} |")
            else:
                parts += self.constant(page, name, thing)
        if elsewhere:
            parts[2:2] = ["\n".join(["| documented elsewhere | |", "|---|---|", *elsewhere])]
        return "\n\n".join(filter(None, [NOTE, *parts])) + "\n"


def pages() -> Mapping[str, str]:
    """Return the text of every page, by its name."""
    reference = Reference()
    return {f"{page.name}.md": reference.text(page) for page in reference.pages.values()}


def main() -> None:
    """Write the pages, and remove those of packages that are gone."""
    folder = ROOT / "docs" / "api"
    folder.mkdir(exist_ok=True)
    texts = pages()
    for name, text in texts.items():
        (folder / name).write_text(text)
    for file in folder.glob("*.md"):
        if file.name not in texts:
            file.unlink()


if __name__ == "__main__":
    main()
