"""Explicit tables of names: data chooses among registered builders, it never names code."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

from mbrl.errors import ConfigError, UnknownNameError, suggestion

T = TypeVar("T")


class Registry(Mapping[str, Any]):
    """A dict from names to classes or functions, with errors that help.

    Args:
        kind: what the entries are, in the singular, as used in error messages ("policy").
    """

    def __init__(self, kind: str):
        self.kind = kind
        self._entries: dict[str, Any] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Return a decorator that files its argument under ``name``.

        Raises:
            ConfigError: if the name is empty or belongs to something else already.
        """
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{self.kind} name must be a non-empty string, got {name!r}")

        def decorate(entry: T) -> T:
            known = self._entries.get(name)
            # The same definition may come twice: a module reloaded, or imported under two names.
            if known is not None and _identity(known) != _identity(entry):
                raise ConfigError(
                    f"{self.kind} {name!r} is registered already, by {_identity(known)}"
                )
            self._entries[name] = entry
            return entry

        return decorate

    def get(self, name: object, where: str = "") -> Any:  # type: ignore[override]
        """Look a name up.

        Args:
            name: the name.
            where: the configuration key it was read from, for the message.

        Raises:
            UnknownNameError: if there is no such entry; names the closest one.
        """
        if isinstance(name, str) and name in self._entries:
            return self._entries[name]
        prefix = f"{where}: " if where else ""
        raise UnknownNameError(f"{prefix}unknown {self.kind} {name!r}; {suggestion(name, self)}")

    def __getitem__(self, name: str) -> Any:
        return self._entries[name]

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._entries

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)


def _identity(entry: Any) -> str:
    module = getattr(entry, "__module__", "?")
    return f"{module}.{getattr(entry, '__qualname__', repr(entry))}"


TASKS = Registry("task")
NODES = Registry("node kind")
POLICIES = Registry("policy")
DYNAMICS = Registry("dynamics model")
PLANNERS = Registry("planner")
ALGORITHMS = Registry("algorithm")
