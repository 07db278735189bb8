"""Torch functions of an environment, called with the keywords that they declare."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from mbrl.errors import users_code

KEYWORDS = ("t", "context")


def declared(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return which of ``t`` and ``context`` a function takes."""
    parameters = inspect.signature(function).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return KEYWORDS
    return tuple(name for name in KEYWORDS if name in parameters)


class Formula:
    """A function of tensors [B, ...] that may declare the keywords ``t`` and ``context``.

    Args:
        function: the function.
        name: of the environment it belongs to, for messages.
        enter: lets the environment stand as with the context of one row [n], for a function that
            may read its attributes instead of declaring ``context``: it is called row by row.

    Attributes:
        name: of environment and function, for messages.
    """

    def __init__(
        self,
        function: Callable[..., Tensor],
        name: str,
        enter: Callable[[Tensor], AbstractContextManager[None]] | None = None,
    ):
        self._function, self._enter = function, enter
        self.name = f"{name}: {getattr(function, '__name__', 'formula')}"
        self._keywords = declared(function)

    @property
    def uses_time(self) -> bool:
        """Whether it declares ``t``."""
        return "t" in self._keywords

    def __call__(self, *values: Tensor, t: int, context: Tensor) -> Tensor:
        """Call the function on tensors [B, ...] and a context [B, n].

        Raises:
            TaskError: if it raises.
        """
        # Physics is computed in double precision, and a difference of positions over a short time
        # loses too much in single.
        values = tuple(value.to(torch.float64) for value in values)
        with users_code(self.name):
            return self._call(values, t, context)

    def _call(self, values: tuple[Tensor, ...], t: int, context: Tensor) -> Tensor:
        given = {"t": t, "context": context}
        keywords = {name: given[name] for name in self._keywords}
        if self._enter is None or not len(values[0]):
            return self._function(*values, **keywords)
        rows = []
        for i in range(len(values[0])):
            row = slice(i, i + 1)
            if "context" in keywords:
                keywords["context"] = context[row]
            with self._enter(context[i]):
                rows.append(self._function(*(value[row] for value in values), **keywords))
        return torch.cat(rows)
