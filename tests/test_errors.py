"""Errors: their family, and their wording."""

import pytest

from mbrl import errors
from mbrl.errors import MbrlError, TaskError, one_line, suggestion, users_code


def test_every_error_has_one_root():
    found = [e for e in vars(errors).values() if isinstance(e, type) and issubclass(e, Exception)]
    assert len(found) > 10
    assert all(issubclass(error, MbrlError) for error in found)


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ValueError("a\n  b\tc"), "a b c"),
        (ValueError(), "ValueError"),
        (ValueError("a\0\x1b[31mb"), r"a\x00\x1b[31mb"),
        (ValueError("\u00fc \u4e2d"), "\u00fc \u4e2d"),
    ],
)
def test_one_line(error, text):
    assert one_line(error) == text


@pytest.mark.parametrize("error", [KeyError("x"), SystemExit(3), MemoryError(), OSError("x\ny")])
def test_what_users_code_raises_is_named(error):
    text = f"^Toy-v0: step raised {type(error).__name__}: "
    with pytest.raises(TaskError, match=text) as caught, users_code("Toy-v0: step"):
        raise error
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is error


@pytest.mark.parametrize("error", [errors.DivergenceError("x", [1]), KeyboardInterrupt()])
def test_what_is_not_its_fault_passes(error):
    with pytest.raises(type(error)) as caught, users_code("Toy-v0: step"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    ("name", "found"), [("ILQR", "ilqr"), ("hopper", "Hopper-v5"), ("ilqg", "ilqr"), (3, None)]
)
def test_the_closest_name_is_found_in_capitals_and_without(name, found):
    text = suggestion(name, ["ilqr", "mppi", "Hopper-v5"])
    asked = f"; did you mean {found!r}?" if found else ""
    assert text == f"legal: Hopper-v5, ilqr, mppi{asked}"
