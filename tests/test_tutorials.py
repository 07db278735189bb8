"""What the tutorials say is typed, and prints what they show."""

import pytest

from tests.markdown import ROOT, Newcomer, Page, matches, registrations_undone

TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_a_newcomer_gets_there(path, tmp_path, monkeypatch):
    with registrations_undone(tmp_path):
        Newcomer(tmp_path, monkeypatch).follow(Page(path))


@pytest.mark.parametrize("path", TUTORIALS, ids=lambda path: path.stem)
def test_every_output_is_shown_after_what_prints_it(path):
    page = Page(path)
    for before, block in zip(page.blocks, page.blocks[1:], strict=False):
        if not block.language:
            assert before.language in ("python", "bash")
            assert before.file is None


SHOWN = "...\nloss -0.500 after 3 steps\n..."


@pytest.mark.parametrize(
    ("printed", "right"),
    [
        ("a\nb\nloss -0.501 after 3 steps\nc\n", True),
        ("loss -0.5 after 3 steps\n", True),
        ("loss -0.52 after 3 steps\n", False),
        ("loss 0.5 after 3 steps\n", False),
        ("loss -0.5 after 4 steps\n", False),
        ("a loss -0.5 after 3 steps\n", False),
        ("", False),
    ],
)
def test_what_is_shown_is_held_against_what_is_printed(printed, right):
    assert matches(SHOWN + "\n", printed) == right


def test_dots_stand_for_the_rest_of_a_line():
    assert matches("eval=1000.0 run_dir=outputs/x/...\n", "eval=1000.0 run_dir=outputs/x/y\n")
    assert not matches("eval=1000.0 run_dir=outputs/x/...\n", "eval=900.0 run_dir=outputs/x/y\n")
