"""Checking plain data against the signature of what it configures.

The keyword-only parameters of a class or function *are* its configuration schema: their names,
annotations and defaults. Nothing is declared twice, and a key is documented where it is defined.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import re
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Union

from mbrl.errors import ArgumentError, ConfigError, DivergenceError, suggestion

_SEQUENCES = (Sequence, list, tuple)
_MAPPINGS = (Mapping, dict)
_NAMES = {  # in messages: one, several
    int: ("an integer", "integers"),
    float: ("a finite number", "finite numbers"),
    str: ("a string", "strings"),
    bool: ("true or false", "booleans"),
}


@dataclasses.dataclass(frozen=True, eq=False)  # equal by identity: annotations must be hashable
class Choice:
    """What ``Annotated[Mapping[str, Any], Choice(table)]`` says: ``{kind: name, **options}``.

    The options are those of the entry of that name.

    Attributes:
        table: what there is to choose from.
    """

    table: Mapping[str, Callable[..., Any]]


class _Mismatch(Exception):
    """A value is not what an annotation says; the caller knows more, and may try another."""


def completed(target: Callable[..., Any], options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return ``options`` checked against ``target``'s keyword-only parameters, defaults filled in.

    Args:
        target: a class or function; a dataclass counts all its fields.
        options: what the user gave.
        where: the configuration key of ``options``, for messages ("algorithm").

    Raises:
        ConfigError: naming the key, its value and what is legal.
    """
    if not isinstance(options, Mapping):
        raise ConfigError(f"{where or 'a configuration'} must be a mapping, got {options!r}")
    parameters = schema(target)
    for key in options:
        if key not in parameters:
            raise ConfigError(f"unknown key {_path(where, key)!r}; {suggestion(key, parameters)}")
    result = {}
    for name, (annotation, default) in parameters.items():
        if name in options:
            result[name] = _converted(options[name], annotation, _path(where, name))
        elif default is inspect.Parameter.empty:
            raise ConfigError(f"missing key {_path(where, name)!r}")
        elif typing.get_origin(annotation) is Annotated:
            result[name] = _converted(default, annotation, _path(where, name))
        else:
            result[name] = default
    return result


@contextlib.contextmanager
def at_key(where: str, target: Callable[..., Any]) -> Iterator[None]:
    """Let errors of building ``target`` name the configuration key that its options came from.

    "lr must be positive" becomes "algorithm.optimizer.lr must be positive".

    Args:
        where: the key of the options.
        target: what is built; a message that begins with one of its parameters continues the key.
    """
    try:
        yield
    except DivergenceError:  # says which rows
        raise
    except (ArgumentError, ConfigError) as error:
        text = str(error)
        if text.startswith(where):
            raise
        first = re.match(r"\w*", text)
        joint = "." if first is not None and first[0] in schema(target) else ": "
        raise type(error)(f"{where}{joint}{text}") from error


def chosen(
    table: Mapping[str, Callable[..., Any]], options: Mapping[str, Any], where: str
) -> dict[str, Any]:
    """Return ``{kind: name, **options}``, complete with the defaults of ``table[name]``.

    Raises:
        ConfigError: naming the key, its value and what is legal.
    """
    rest = dict(options)
    kind = rest.pop("kind", None)
    if not isinstance(kind, str) or kind not in table:
        raise ConfigError(f"{where}.kind: unknown value {kind!r}; {suggestion(kind, table)}")
    return {"kind": kind, **completed(table[kind], rest, where)}


def schema(target: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Return {name: (annotation, default)} of ``target``'s keyword-only parameters."""
    function = target.__init__ if inspect.isclass(target) else target
    hints = typing.get_type_hints(function, include_extras=True)
    every = dataclasses.is_dataclass(target)
    return {
        p.name: (hints.get(p.name, Any), _default(target, p) if every else p.default)
        for p in inspect.signature(target).parameters.values()
        if p.kind is p.KEYWORD_ONLY or every
    }


def _default(target: Any, parameter: inspect.Parameter) -> Any:
    for field in dataclasses.fields(target):
        if field.name == parameter.name and field.default_factory is not dataclasses.MISSING:
            return field.default_factory()
    return parameter.default


def _path(where: str, key: object) -> str:
    return f"{where}.{key}" if where else str(key)


def _converted(value: Any, annotation: Any, where: str) -> Any:
    """Return ``value`` as ``annotation`` wants it (a float for an int, a tuple for a list)."""
    try:
        return _match(value, annotation, where)
    except _Mismatch:
        legal = _literals(annotation)
        if isinstance(value, str) and legal:
            message = f"{where}: unknown value {value!r}; {suggestion(value, legal)}"
        else:
            message = f"{where} must be {_described(annotation)}, got {value!r}"
        raise ConfigError(message) from None


def _match(value: Any, annotation: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return value
    if origin in (Union, types.UnionType):
        return _match_any(value, arguments, where)
    if origin is Literal:
        # 1, 1.0 and True are equal, and are not the same value.
        return _require(any(value == x and type(value) is type(x) for x in arguments), value)
    if origin is Annotated:
        _require(isinstance(value, Mapping), value)
        return chosen(arguments[1].table, value, where)
    if annotation in (None, type(None)):
        return _require(value is None, value)
    if annotation is float:
        _require(isinstance(value, int | float) and not isinstance(value, bool), value)
        _require(abs(value) <= sys.float_info.max, value)  # false of NaN, too
        return float(value)
    if annotation is int:
        return _require(isinstance(value, int) and not isinstance(value, bool), value)
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        if isinstance(value, annotation):
            return value
        _require(isinstance(value, Mapping), value)
        options = completed(annotation, value, where)
        with at_key(where, annotation):
            return annotation(**options)
    if origin in _SEQUENCES or annotation in _SEQUENCES:
        return _match_sequence(value, arguments, where, fixed=origin is tuple)
    if origin in _MAPPINGS or annotation in _MAPPINGS:
        _require(isinstance(value, Mapping), value)
        inner = arguments[1] if arguments else Any
        return {key: _match(item, inner, f"{where}.{key}") for key, item in value.items()}
    return _require(isinstance(value, annotation), value)


def _match_any(value: Any, annotations: tuple[Any, ...], where: str) -> Any:
    for annotation in annotations:
        try:
            return _match(value, annotation, where)
        except _Mismatch:
            continue
    raise _Mismatch


def _match_sequence(value: Any, arguments: tuple[Any, ...], where: str, *, fixed: bool) -> Any:
    """``tuple[A, B]`` holds one A and one B; ``tuple[A, ...]`` and ``Sequence[A]`` any number."""
    _require(isinstance(value, list | tuple), value)
    if not fixed or arguments[-1] is Ellipsis:
        arguments = (arguments[0] if arguments else Any,) * len(value)
    _require(len(value) == len(arguments), value)
    return tuple(_match(item, a, where) for item, a in zip(value, arguments, strict=True))


def _require(condition: bool, value: Any) -> Any:
    if not condition:
        raise _Mismatch
    return value


def _literals(annotation: Any) -> tuple[Any, ...]:
    """Return the values that an annotation lists: those of a Literal, alone or in a union."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return arguments
    if origin in (Union, types.UnionType):
        return tuple(value for inner in arguments for value in _literals(inner))
    return ()


def _described(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(_described(a) for a in arguments)
    if origin is Literal:
        return " or ".join(map(str, arguments))
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"a list of {' and '.join(map(_described, arguments))}"
    if origin in _SEQUENCES or annotation in _SEQUENCES:
        return f"a list{_of_several(arguments[:1])}"
    if origin in _MAPPINGS or annotation in _MAPPINGS:
        return f"a mapping{_of_several(arguments[1:])}"
    if annotation in (None, type(None)):
        return "null"
    if origin is Annotated:
        return "a mapping with a kind"
    if dataclasses.is_dataclass(annotation):
        return "a mapping"
    return _NAMES.get(annotation, (getattr(annotation, "__name__", str(annotation)),))[0]


def _of_several(inner: tuple[Any, ...]) -> str:
    return f" of {_NAMES[inner[0]][1]}" if inner and inner[0] in _NAMES else ""
