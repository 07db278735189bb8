"""Ranges of options, checked by name; what is None passes.

Every function raises ArgumentError for the first value that is out of range. ``where`` is the
configuration key of the options, for messages; without one they are named alone.
"""

from __future__ import annotations

import numpy as np

from mbrl.errors import ArgumentError


def check_at_least(least: int, where: str = "", /, **values: float | None) -> None:
    """Refuse a number below ``least``, and NaN."""
    for name, value in values.items():
        if value is not None and not value >= least:
            raise ArgumentError(f"{_key(where, name)} must be at least {least}, got {value}")


def check_counts(where: str = "", /, **counts: int | None) -> None:
    """Refuse what is no integer, and a count below 1."""
    check_integers(where, **counts)
    check_at_least(1, where, **counts)


def check_integers(where: str = "", /, **values: int | None) -> None:
    """Refuse what is no integer."""
    for name, value in values.items():
        whole: bool = isinstance(value, int | np.integer) and not isinstance(value, bool)
        if value is not None and not whole:
            raise ArgumentError(f"{_key(where, name)} must be an integer, got {value!r}")


def check_positive(where: str = "", /, **values: float | None) -> None:
    """Refuse a number that is not positive."""
    for name, value in values.items():
        if value is not None and not value > 0:
            raise ArgumentError(f"{_key(where, name)} must be positive, got {value}")


def check_not_negative(where: str = "", /, **values: float | None) -> None:
    """Refuse a number below 0, and NaN."""
    for name, value in values.items():
        if value is not None and not value >= 0:
            raise ArgumentError(f"{_key(where, name)} must not be negative, got {value}")


def check_shares(where: str = "", /, **values: float | None) -> None:
    """Refuse a number outside [0, 1]."""
    for name, value in values.items():
        if value is not None and not 0 <= value <= 1:
            raise ArgumentError(f"{_key(where, name)} must lie in [0, 1], got {value}")


def _key(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name
