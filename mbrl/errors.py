"""Every error the package raises, and how they are worded: on one line, with a closest match."""

from __future__ import annotations

import contextlib
import difflib
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_MOST_NAMES = 30  # past this only the closest names are listed
# Packages that errors are raised through on their way from, or to, a user's code.
_NOT_USERS = {"mbrl", "torch", "numpy", "mujoco", "gymnasium", *sys.stdlib_module_names}


class MbrlError(Exception):
    """Root of every error raised by this package."""


class ArgumentError(MbrlError, ValueError):
    """An argument has the wrong shape, dtype, range or value."""


class ConfigError(MbrlError, ValueError):
    """A configuration names something that does not exist or does not fit."""


class GraphError(ConfigError):
    """A computation graph is wired wrongly, or one of its nodes fails."""


class UnknownNameError(ConfigError, KeyError):
    """A name is not in the registry, or not among the legal ones."""

    def __str__(self) -> str:
        # KeyError would print the repr of the message, in quotes.
        return str(self.args[0])


class ModelError(MbrlError, ValueError):
    """A MuJoCo model has a feature that a method cannot honour."""


class TaskError(MbrlError, ValueError):
    """An environment cannot serve as a task."""


class DivergenceError(MbrlError, FloatingPointError):
    """The physics left the finite world, or MuJoCo could not make sense of a row.

    Attributes:
        rows: indices of the offending rows of the batch, ascending.
        run_dir: folder of the run that ended so; None: it was none.
    """

    run_dir: Path | None = None

    def __init__(self, message: str, rows: Iterable[Any] = ()):
        super().__init__(message)
        self.rows = tuple(int(row) for row in rows)

    def shifted(self, first: int) -> DivergenceError:
        """Return the error with ``first`` added to its rows: those of a part of a larger batch."""
        return DivergenceError(str(self), [first + row for row in self.rows])


class NotFiniteError(DivergenceError, ArgumentError):
    """A state or control that is NaN or infinite was handed to the physics."""


class SecondDerivativeError(MbrlError, RuntimeError):
    """A second derivative was asked of an op that has only first ones."""


class ForwardModeError(MbrlError, RuntimeError):
    """A derivative in forward mode was asked of an op that has only reverse mode."""


class CheckpointError(MbrlError, OSError):
    """A checkpoint is missing, damaged or of another run."""


class StorageError(MbrlError, OSError):
    """A file of a run cannot be written: a full disk, a folder without permission."""


class RankError(MbrlError, RuntimeError):
    """A process that shares the work is gone, or cannot be reached."""


def one_line(error: object) -> str:
    """Return an exception's message, or its type's name if it has none, on one printable line."""
    text = " ".join(str(error).split()) or type(error).__name__
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def raised_at(error: BaseException) -> str:
    """Return the last place in a user's own code that an error came through; "": there is none."""
    if isinstance(error, SyntaxError) and Path(str(error.filename)).is_file():
        return f"{error.filename}:{error.lineno}"
    places = [
        f"{frame.f_code.co_filename}:{line}"
        for frame, line in traceback.walk_tb(error.__traceback__)
        if frame.f_globals.get("__name__", "").partition(".")[0] not in _NOT_USERS
    ]
    return places[-1] if places else ""


@contextlib.contextmanager
def users_code(what: str) -> Iterator[None]:
    """Turn what a user's environment raises into one line that names it.

    Args:
        what: the environment and what was asked of it ("Settle-v0: step").

    Raises:
        TaskError: for anything but the package's own errors, which pass.
    """
    try:
        yield
    except MbrlError:
        raise
    except (Exception, SystemExit) as error:
        raise TaskError(f"{what} raised {type(error).__name__}: {one_line(error)}") from error


def suggestion(name: object, legal: Iterable[str]) -> str:
    """Return ``legal: a, b, c; did you mean 'a'?`` for an error message.

    Args:
        name: what the user wrote.
        legal: the names that would have been accepted.
    """
    names = sorted(str(item) for item in legal)
    lowered = {item.lower(): item for item in names}
    close = difflib.get_close_matches(str(name).lower(), lowered, n=3, cutoff=0.5)
    close = [lowered[item] for item in close]
    shown = names if len(names) <= _MOST_NAMES else close or names[:_MOST_NAMES]
    text = f"legal: {', '.join(shown) or '(nothing)'}{' ...' if len(shown) < len(names) else ''}"
    return f"{text}; did you mean {close[0]!r}?" if close else text
