"""Every link in the README and in docs/ leads somewhere, and every file that they name is there."""

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
CODE = re.compile(r"`[^`\n]+`")
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
PLACE = re.compile(r"(?<![\w/.-])((?:assets|benchmarks|configs|docs|mbrl|tests)/[\w/.*-]+\.[a-z]+)")


def prose(page):
    return FENCED.sub("", page.read_text())


def links(page):
    """Return the targets of a page's links, those whose text is code included."""
    return LINK.findall(CODE.sub("code", prose(page)))


def anchors(page):
    """Return the anchors of a page's headings, as GitHub makes them."""
    seen = Counter()
    found = set()
    for heading in re.findall(r"^#+ (.*)$", prose(page), flags=re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).strip().replace(" ", "-")
        found.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return found


def names(path):
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_links_lead_somewhere(page):
    broken = []
    for target in links(page):
        if re.match(r"https?://", target):
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        inside = there.exists() and ROOT in [there, *there.parents]
        if not inside or (anchor and (there.suffix != ".md" or anchor not in anchors(there))):
            broken.append(target)
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=names)
def test_files_that_are_named_exist(page):
    named = set(PLACE.findall(page.read_text()))
    assert sorted(place for place in named if not list(ROOT.glob(place))) == []


def test_every_page_is_reached_from_the_readme():
    reached, waiting = set(), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        if page not in reached and page.suffix == ".md":
            reached.add(page)
            found = (target.partition("#")[0] for target in links(page) if "://" not in target)
            waiting += [(page.parent / file).resolve() for file in found if file]
    assert {names(page) for page in PAGES} - {names(page) for page in reached} == set()


def test_anchors_are_those_of_github():
    page = ROOT / "docs" / "api" / "mbrl.landscape.md"
    assert {"surface", "surface-1", "policylossgradients"} <= anchors(page)
    assert "one-run-in-many-processes" in anchors(ROOT / "docs" / "scaling.md")
