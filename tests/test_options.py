"""Checking plain data against signatures."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from mbrl.errors import ArgumentError, ConfigError, DivergenceError, GraphError
from mbrl.options import Choice, at_key, completed, schema


@dataclass(frozen=True)
class Inner:
    size: int = 3
    rate: float = 0.5


@dataclass(frozen=True)
class Outer:
    needed: str
    inner: Inner = field(default_factory=Inner)
    names: list = field(default_factory=list)


class Target:
    def __init__(self, setting, flags=None, *, width: int, name: str = "x", **rest):
        pass


def value_of(annotation, value):
    """Convert one value by one annotation."""

    def target(*, option):
        pass

    target.__annotations__ = {"option": annotation}
    return completed(target, {"option": value}, "top")["option"]


@pytest.mark.parametrize(
    ("annotation", "given", "expected"),
    [
        (int, 3, 3),
        (int, -(10**30), -(10**30)),
        (float, 3, 3.0),
        (float, 1e-30, 1e-30),
        (str, "", ""),
        (bool, False, False),
        (Any, [1, {"a": None}], [1, {"a": None}]),
        (None, None, None),
        (int | None, None, None),
        (int | None, 3, 3),
        (int | float, 3, 3),
        (int | str, "nx", "nx"),
        (Literal["adam", "sgd"], "sgd", "sgd"),
        (Literal["adam"] | float, 3, 3.0),
        (Literal["adam"] | None, None, None),
        (Literal[1, 2], 2, 2),
        (Sequence[int], [1, 2], (1, 2)),
        (Sequence[int], (), ()),
        (Sequence[float], [1, 2.5], (1.0, 2.5)),
        (Sequence, [1, "a"], (1, "a")),
        (list[str], ["a"], ("a",)),
        (list, ["a"], ("a",)),
        (tuple[int, str], [1, "a"], (1, "a")),
        (tuple[int, ...], [1, 2, 3], (1, 2, 3)),
        (Sequence[Sequence[int]], [[1], []], ((1,), ())),
        (Sequence[int] | None, None, None),
        (Mapping[str, Any], {"a": 1}, {"a": 1}),
        (Mapping[str, float], {"a": 1}, {"a": 1.0}),
        (dict, {"a": [1]}, {"a": [1]}),
        (Inner, {"size": 4}, Inner(size=4)),
        (Inner, {"rate": 1}, Inner(rate=1.0)),
        (Inner, Inner(size=9), Inner(size=9)),
        (Inner | None, {"size": 4}, Inner(size=4)),
        (Inner | None, None, None),
        (Sequence[Inner], [{"size": 1}], (Inner(size=1),)),
    ],
)
def test_what_fits_is_converted(annotation, given, expected):
    result = value_of(annotation, given)
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("annotation", "given", "message"),
    [
        (int, 3.0, "top.option must be an integer, got 3.0"),
        (int, True, "top.option must be an integer, got True"),
        (int, "3", "top.option must be an integer, got '3'"),
        (float, "3", "top.option must be a finite number, got '3'"),
        (float, True, "top.option must be a finite number, got True"),
        (float, float("inf"), "top.option must be a finite number, got inf"),
        (float, float("nan"), "top.option must be a finite number, got nan"),
        (float, 10**400, "top.option must be a finite number, got 1000"),
        (float, None, "top.option must be a finite number, got None"),
        (str, 3, "top.option must be a string, got 3"),
        (bool, 1, "top.option must be true or false, got 1"),
        (bool, "yes", "top.option must be true or false, got 'yes'"),
        (int | None, "x", "top.option must be an integer or null, got 'x'"),
        (Literal["adam", "sgd"], "sdg", "top.option: unknown value 'sdg'; legal: adam, sgd; did"),
        (Literal["adam", "sgd"], ["sgd"], "top.option must be adam or sgd, got ['sgd']"),
        (Literal["adam"] | None, "adma", "top.option: unknown value 'adma'; legal: adam; did you"),
        (Literal["adam"] | float, True, "top.option must be adam or a finite number, got True"),
        (Literal[1, 2], True, "top.option must be 1 or 2, got True"),
        (Sequence[int], [1, "a"], "top.option must be a list of integers, got [1, 'a']"),
        (Sequence[int], 3, "top.option must be a list of integers, got 3"),
        (Sequence[str], "abc", "top.option must be a list of strings, got 'abc'"),
        (Sequence, "abc", "top.option must be a list, got 'abc'"),
        (tuple[int, str], [1], "top.option must be a list of an integer and a string, got [1]"),
        (tuple[int, str], ["a", 1], "top.option must be a list of an integer and a string, got"),
        (tuple[int, ...], [1.5], "top.option must be a list of integers, got [1.5]"),
        (Mapping[str, float], {"a": "x"}, "top.option must be a mapping of finite numbers, got"),
        (dict, [1], "top.option must be a mapping, got [1]"),
        (Inner, 3, "top.option must be a mapping, got 3"),
        (Inner, {"size": 1.5}, "top.option.size must be an integer, got 1.5"),
        (Inner, {"sise": 1}, "unknown key 'top.option.sise'; legal: rate, size; did you mean 's"),
        (Sequence[Inner], [{"rte": 1}], "unknown key 'top.option.rte'; legal: rate, size; did"),
        (Inner | None, "x", "top.option must be a mapping or null, got 'x'"),
    ],
)
def test_what_does_not_fit_is_named(annotation, given, message):
    with pytest.raises(ConfigError) as caught:
        value_of(annotation, given)
    assert str(caught.value).startswith(message)


def test_the_schema_is_the_keyword_only_parameters():
    assert list(schema(Target)) == ["width", "name"]
    assert completed(Target, {"width": 2}, "a.b") == {"width": 2, "name": "x"}


def test_of_a_dataclass_every_field_counts():
    result = completed(Outer, {"needed": "a"}, "")
    assert result == {"needed": "a", "inner": Inner(), "names": []}


def test_defaults_are_not_shared():
    first = completed(Outer, {"needed": "a"}, "")
    first["names"].append(1)
    assert completed(Outer, {"needed": "a"}, "")["names"] == []


def test_missing_keys_are_named():
    with pytest.raises(ConfigError, match=r"^missing key 'a\.b\.width'$"):
        completed(Target, {}, "a.b")
    with pytest.raises(ConfigError, match=r"^missing key 'needed'$"):
        completed(Outer, {}, "")


def test_unknown_keys_get_the_closest_match():
    with pytest.raises(ConfigError) as caught:
        completed(Target, {"widht": 2}, "a.b")
    assert str(caught.value) == (
        "unknown key 'a.b.widht'; legal: name, width; did you mean 'width'?"
    )


@pytest.mark.parametrize("key", ["setting", "flags", "rest", 3, None])
def test_only_keyword_only_parameters_are_keys(key):
    with pytest.raises(ConfigError, match="unknown key"):
        completed(Target, {"width": 2, key: 1}, "a.b")


def test_options_are_a_mapping():
    with pytest.raises(ConfigError, match=r"^a\.b must be a mapping, got \[1\]$"):
        completed(Target, [1], "a.b")


def test_a_type_error_inside_a_dataclass_is_not_taken_for_a_mismatch():
    @dataclass
    class Broken:
        size: int = 3

        def __post_init__(self):
            raise TypeError("a bug")

    for annotation in (Broken, Broken | None):
        with pytest.raises(TypeError, match="a bug"):
            value_of(annotation, {"size": 3})


@dataclass(frozen=True)
class Picky:
    rate: float = 0.5

    def __post_init__(self):
        if self.rate < 0:
            raise ArgumentError(f"rate must not be negative, got {self.rate}")


def test_errors_of_a_nested_mapping_name_its_key():
    def target(*, inner: Picky | None = None):
        pass

    assert completed(target, {"inner": {"rate": 1}}, "top")["inner"] == Picky(1.0)
    with pytest.raises(ArgumentError, match=r"^top\.inner\.rate must not be negative, got -1\.0$"):
        completed(target, {"inner": {"rate": -1}}, "top")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ArgumentError("rate is 3"), "a.b.rate is 3"),
        (ArgumentError("rate.of.change is 3"), "a.b.rate.of.change is 3"),
        (ArgumentError("rate: unknown"), "a.b.rate: unknown"),
        (GraphError("nothing fits"), "a.b: nothing fits"),
        (ConfigError("a.b.c is missing"), "a.b.c is missing"),
        (DivergenceError("rate is NaN", [1]), "rate is NaN"),
        (ZeroDivisionError("a bug"), "a bug"),
    ],
)
def test_errors_of_building_name_the_key(error, text):
    with pytest.raises(type(error)) as caught, at_key("a.b", Picky):
        raise error
    assert type(caught.value) is type(error)
    assert str(caught.value) == text


def small(*, size: int = 1):
    pass


def large(*, size: int = 100, name: str = "x"):
    pass


SIZED = Annotated[Mapping[str, Any], Choice({"small": small, "large": large})]


def with_choice(*, given: SIZED = {"kind": "large"}):  # noqa: B006
    pass


def test_a_choice_is_completed_with_the_defaults_of_what_was_chosen():
    assert value_of(SIZED, {"kind": "small"}) == {"kind": "small", "size": 1}
    assert value_of(SIZED | None, {"kind": "large", "size": 2}) == {
        "kind": "large",
        "size": 2,
        "name": "x",
    }
    assert completed(with_choice, {}, "top") == {
        "given": {"kind": "large", "size": 100, "name": "x"}
    }


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"kind": "smal"}, r"top\.option\.kind: unknown value 'smal'; .* mean 'small'\?"),
        ({"size": 1}, r"top\.option\.kind: unknown value None; legal: large, small"),
        ({"kind": "small", "name": "y"}, r"unknown key 'top\.option\.name'; legal: size"),
        ({"kind": "small", "size": "y"}, r"top\.option\.size must be an integer, got 'y'"),
        (3, r"top\.option must be a mapping with a kind, got 3"),
        ("small", r"top\.option must be a mapping with a kind, got 'small'"),
    ],
)
def test_mistakes_in_a_choice_are_named(value, message):
    with pytest.raises(ConfigError, match=message):
        value_of(SIZED, value)
