"""Linearisation of all saved points of an unroll in few pooled calls."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

import numpy as np

from mbrl.errors import DivergenceError
from mbrl.types import Array, Linearization

if TYPE_CHECKING:
    from mbrl.ops.first_order import SteppedMap

# Jacobians alive at once. Backward walks the steps in reverse, so a long unroll is linearised in
# chunks of this size and never holds more than one of them.
_CHUNK_BYTES = 32 * 2**20
_COMPACT_EVERY = 4096
# State [B, nx], control [B, nu] and constants [B, n].
Arguments = tuple[Array, Array, Array | None]


class SavedPoint:
    """The arguments of one call of an op, kept for its backward."""

    __slots__ = ("__weakref__", "arguments", "jacobians", "twin", "visited")

    def __init__(self) -> None:
        self.arguments: Arguments | None = None  # once recorded
        self.jacobians: Linearization | None = None
        self.twin: SavedPoint | None = None  # the same call made before, which holds the Jacobians
        self.visited = False

    def matches(self, *arguments: Array | None) -> bool:
        """Whether this point was recorded with exactly these arrays."""
        return self.arguments is not None and _equal(self.arguments, arguments)


class LinearizationSweep:
    """Linearises points on demand, taking along the points that backward will ask for next.

    Autograd asks for the Jacobians of an unroll step by step, last to first. The first question is
    answered by one engine call over as many of the saved steps before it as the memory budget
    admits: the engine's threads see T x B points instead of B. Points are held weakly, so a graph
    that is dropped is never linearised; a point is taken along at most once.

    Two calls in a row with the same arguments, as a dynamics node and a reward node make of one
    environment's step, share one evaluation and one linearisation.

    Args:
        source: the map to evaluate and linearise.
    """

    def __init__(self, source: SteppedMap):
        self._source = source
        self._points: list[weakref.ref[SavedPoint]] = []  # not yet visited, oldest first
        self._chunk: list[weakref.ref[SavedPoint]] = []  # those that hold Jacobians now
        self._last: tuple[weakref.ref[SavedPoint], Arguments, Array] | None = None
        self._bytes_per_output = 8 * (source.spec.ndx + source.extras)

    def __reduce__(self) -> tuple[object, ...]:
        """A copy serves graphs of its own: it starts without saved points."""
        return LinearizationSweep, (self._source,)

    def evaluate(
        self, point: SavedPoint, state: Array, ctrl: Array, constants: Array | None
    ) -> Array:
        """Return the map's values [B, ny] and remember the call."""
        arguments = state, ctrl, constants
        if self._last is not None and _equal(self._last[1], arguments):
            point.twin, result = self._last[0](), self._last[2].copy()
            if point.twin is not None:
                point.arguments = arguments
                return result
        else:
            result = self._source.evaluate(*arguments)
        if self._source.extras:
            # Copies: a caller may go on writing into its arrays, and a twin would not notice.
            arguments = state.copy(), ctrl.copy(), None if constants is None else constants.copy()
            self._last = weakref.ref(point), arguments, result.copy()
        self.record(point, *arguments)
        return result

    def record(self, point: SavedPoint, state: Array, ctrl: Array, constants: Array | None) -> None:
        """Remember a call of the op, in order of time."""
        point.arguments = state, ctrl, constants
        self._points.append(weakref.ref(point))
        if len(self._points) % _COMPACT_EVERY == 0:
            self._points = [ref for ref in self._points if ref() is not None]

    def jacobians(self, point: SavedPoint) -> Linearization:
        """Return A [B, dy, ndx] and B [B, dy, nu] at a recorded point.

        Raises:
            DivergenceError: naming rows of this point's batch.
        """
        point = point.twin or point
        if point.jacobians is None:
            for ref in self._chunk:
                if (old := ref()) is not None:
                    old.jacobians = None
            self._fill(self._chosen(point))
            self._chunk = [ref for ref in self._chunk if ref() is not None]
            if point.jacobians is None:
                point.jacobians = self._source.linearize(*_arguments(point))
                self._chunk.append(weakref.ref(point))
        return point.jacobians

    def _chosen(self, point: SavedPoint) -> list[SavedPoint]:
        """Return ``point`` and unvisited points recorded before it, newest first."""
        alive = [p for ref in self._points if (p := ref()) is not None and not p.visited]
        chosen = [point]
        if point in alive:
            # Controls may be wider than the model's, see ParametricDynamics.
            columns = self._source.spec.ndx + _arguments(point)[1].shape[1]
            room = _CHUNK_BYTES // (self._bytes_per_output * columns) - _rows(point)
            for earlier in reversed(alive[: alive.index(point)]):
                room -= _rows(earlier)
                if room < 0:
                    break
                chosen.append(earlier)
        taken = set(map(id, chosen))
        self._points = [weakref.ref(p) for p in alive if id(p) not in taken]
        return chosen

    def _fill(self, points: list[SavedPoint]) -> None:
        for p in points:
            p.visited = True
        try:
            a, b = self._source.linearize(*_stacked([_arguments(p) for p in points]))
        except DivergenceError:
            # Perhaps of a point nobody will ask for; if not, the point asked for raises by itself,
            # with row numbers of its own batch.
            return
        start = 0
        for p in points:
            rows = slice(start, start := start + _rows(p))
            p.jacobians = Linearization(a[rows], b[rows])
            self._chunk.append(weakref.ref(p))


def _arguments(point: SavedPoint) -> Arguments:
    if point.arguments is None:
        raise ValueError("a point must be recorded before it is linearised")
    return point.arguments


def _rows(point: SavedPoint) -> int:
    return len(_arguments(point)[0])


def _stacked(arguments: list[Arguments]) -> Arguments:
    states, ctrls, constants = zip(*arguments, strict=True)
    return (
        np.concatenate(states),
        np.concatenate(ctrls),
        None if constants[0] is None else np.concatenate(constants),
    )


def _equal(one: tuple[Array | None, ...], other: tuple[Array | None, ...]) -> bool:
    """Whether all arrays are equal, or both missing."""
    return all(
        a is b or (a is not None and b is not None and np.array_equal(a, b))
        for a, b in zip(one, other, strict=True)
    )
