"""Checking plain data against the signature of what it configures.

The keyword-only parameters of a class or function *are* its configuration schema: their names,
annotations and defaults. Nothing is declared twice, and a key is documented where it is defined.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Union

from mbrl.errors import ConfigError, suggestion


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
        raise ConfigError(f"{where} must be a mapping, got {options!r}")
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
        else:
            result[name] = default
    return result


def schema(target: Callable[..., Any]) -> dict[str, tuple[Any, Any]]:
    """Return {name: (annotation, default)} of ``target``'s keyword-only parameters."""
    function = target.__init__ if inspect.isclass(target) else target
    hints = typing.get_type_hints(function)
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
    """Return ``value`` as ``annotation`` wants it (an int for a float, a tuple for a list)."""
    try:
        return _match(value, annotation, where)
    except TypeError:
        raise ConfigError(f"{where} must be {_described(annotation)}, got {value!r}") from None


def _match(value: Any, annotation: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if annotation is Any:
        return value
    if origin in (Union, types.UnionType):
        return _match_any(value, arguments, where)
    if origin is Literal:
        return _match_literal(value, arguments, where)
    if annotation in (None, type(None)):
        return _require(value is None, value)
    if annotation is float:
        _require(isinstance(value, int | float) and not isinstance(value, bool), value)
        _require(math.isfinite(value), value)
        return float(value)
    if annotation is int:
        return _require(isinstance(value, int) and not isinstance(value, bool), value)
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        if isinstance(value, annotation):
            return value
        _require(isinstance(value, Mapping), value)
        return annotation(**completed(annotation, value, where))
    if origin in (Sequence, list, tuple):
        _require(isinstance(value, list | tuple), value)
        inner = arguments[0] if arguments else Any
        return tuple(_match(item, inner, where) for item in value)
    if origin in (Mapping, dict) or annotation in (Mapping, dict):
        return dict(_require(isinstance(value, Mapping), value))
    return _require(isinstance(value, annotation), value)


def _match_any(value: Any, annotations: tuple[Any, ...], where: str) -> Any:
    for annotation in annotations:
        try:
            return _match(value, annotation, where)
        except TypeError:
            continue
    raise TypeError


def _match_literal(value: Any, legal: tuple[Any, ...], where: str) -> Any:
    if value not in legal:
        raise ConfigError(f"{where}: unknown value {value!r}; {suggestion(value, legal)}")
    return value


def _require(condition: bool, value: Any) -> Any:
    if not condition:
        raise TypeError
    return value


def _described(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(_described(a) for a in arguments)
    if origin in (Sequence, list, tuple):
        return f"a list of {_described(arguments[0])}" if arguments else "a list"
    if origin in (Mapping, dict):
        return "a mapping"
    if annotation in (None, type(None)):
        return "null"
    names = {int: "an integer", float: "a finite number", str: "a string", bool: "true or false"}
    if dataclasses.is_dataclass(annotation):
        return "a mapping"
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))
