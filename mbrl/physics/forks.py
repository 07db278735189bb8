"""What a forked child begins anew: of its parent's threads it has but the one that forked."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Protocol


class Renewable(Protocol):
    """Something that other threads may be in the middle of."""

    def renew(self) -> None:
        """Forget the other threads: they are gone, and what they held is held for ever."""


_ALL: weakref.WeakSet[Renewable] = weakref.WeakSet()


def renew_in_children(renewable: Renewable) -> None:
    """Have something renewed in every child that is forked as long as it is there."""
    _ALL.add(renewable)


class ForkedLock:
    """A reentrant lock that a forked child finds free, unless it has it itself."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        renew_in_children(self)

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()

    def renew(self) -> None:
        """Replace the lock if a thread has it that is gone."""
        if self._lock.acquire(blocking=False):
            self._lock.release()
        else:
            self._lock = threading.RLock()


def _renew_all() -> None:
    for renewable in list(_ALL):
        renewable.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_all)
