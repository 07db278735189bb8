"""Options that have no effect beside others."""

from __future__ import annotations

from collections.abc import Mapping

from mbrl.errors import ArgumentError
from mbrl.options import schema


def refuse_idle(algorithm: type, idle: Mapping[str, object], why: str, legal: str) -> None:
    """Refuse options that are not what they are by default, and have no effect.

    Args:
        algorithm: whose options they are.
        idle: the values of options that have none.
        why: they have none.
        legal: what would give them one.

    Raises:
        ArgumentError: at the first of them.
    """
    defaults = schema(algorithm)
    for name, value in idle.items():
        default = defaults[name][1]
        if value != default:
            raise ArgumentError(
                f"algorithm.{name} has no effect: {why}; leave it at {default!r}, "
                f"or choose {legal}; got {value!r}"
            )
