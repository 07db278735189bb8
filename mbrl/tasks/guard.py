"""Exceptions of a user's environment, as one line that names it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from mbrl.errors import MbrlError, TaskError


@contextlib.contextmanager
def guarded(name: str, what: str) -> Iterator[None]:
    """Turn whatever an environment raises into a ``TaskError``.

    Args:
        name: the environment's id.
        what: what was called ("step").
    """
    try:
        yield
    except MbrlError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())
        raise TaskError(
            f"{name}: its {what} raised {type(error).__name__}{': ' if reason else ''}{reason}"
        ) from error
