"""Linearisation of all saved points of an unroll in few pooled calls."""

from __future__ import annotations

import weakref

import numpy as np

from mbrl.errors import DivergenceError
from mbrl.physics import Simulator
from mbrl.types import Array, Linearization

# Jacobians alive at once. Backward walks the steps in reverse, so a long unroll is linearised in
# chunks of this size and never holds more than one of them.
_CHUNK_BYTES = 32 * 2**20
_COMPACT_EVERY = 4096
_NOTHING: Array = np.empty((0, 0))


class SavedPoint:
    """The batch of states and controls of one call of the dynamics op, kept for its backward."""

    __slots__ = ("__weakref__", "ctrl", "jacobians", "state", "visited")

    def __init__(self) -> None:
        self.state = self.ctrl = _NOTHING  # (B, nx) and (B, nu) once recorded
        self.jacobians: Linearization | None = None
        self.visited = False

    def matches(self, state: Array, ctrl: Array) -> bool:
        """Whether this point was recorded with exactly these arrays."""
        return np.array_equal(self.state, state) and np.array_equal(self.ctrl, ctrl)


class LinearizationSweep:
    """Linearises points on demand, taking along the points that backward will ask for next.

    Autograd asks for the Jacobians of an unroll step by step, last to first. The first question is
    answered by one engine call over as many of the saved steps before it as the memory budget
    admits: the engine's threads see T x B points instead of B. Points are held weakly, so a graph
    that is dropped is never linearised; a point is taken along at most once.

    Args:
        simulator: the simulator whose control step is differentiated.
        method: see ``Simulator.linearize``.
        eps: see ``Simulator.linearize``.
        centered: see ``Simulator.linearize``.
    """

    def __init__(self, simulator: Simulator, method: str, eps: float | None, centered: bool):
        self._simulator = simulator
        self._method, self._eps, self._centered = method, eps, centered
        self._points: list[weakref.ref[SavedPoint]] = []  # not yet visited, oldest first
        self._chunk: list[weakref.ref[SavedPoint]] = []  # those that hold Jacobians now
        spec = simulator.spec
        self._bytes_per_row = 8 * spec.ndx * (spec.ndx + spec.nu)

    def __reduce__(self) -> tuple[object, ...]:
        """A copy serves graphs of its own: it starts without saved points."""
        return LinearizationSweep, (self._simulator, self._method, self._eps, self._centered)

    def record(self, point: SavedPoint, state: Array, ctrl: Array) -> None:
        """Remember a call of the op, in order of time."""
        point.state, point.ctrl = state, ctrl
        self._points.append(weakref.ref(point))
        if len(self._points) % _COMPACT_EVERY == 0:
            self._points = [ref for ref in self._points if ref() is not None]

    def jacobians(self, point: SavedPoint) -> Linearization:
        """Return A [B, ndx, ndx] and B [B, ndx, nu] at a recorded point.

        Raises:
            DivergenceError: naming rows of this point's batch.
        """
        if point.jacobians is None:
            for ref in self._chunk:
                if (old := ref()) is not None:
                    old.jacobians = None
            self._fill(self._chosen(point))
            self._chunk = [ref for ref in self._chunk if ref() is not None]
            if point.jacobians is None:
                point.jacobians = self.linearize(point.state, point.ctrl)
                self._chunk.append(weakref.ref(point))
        return point.jacobians

    def linearize(self, state: Array, ctrl: Array) -> Linearization:
        """Linearise at once, beside the sweep."""
        return self._simulator.linearize(
            state, ctrl, method=self._method, eps=self._eps, centered=self._centered
        )

    def _chosen(self, point: SavedPoint) -> list[SavedPoint]:
        """Return ``point`` and unvisited points recorded before it, newest first."""
        alive = [p for ref in self._points if (p := ref()) is not None and not p.visited]
        chosen = [point]
        if point in alive:
            room = _CHUNK_BYTES // self._bytes_per_row - len(point.state)
            for earlier in reversed(alive[: alive.index(point)]):
                room -= len(earlier.state)
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
            a, b = self.linearize(
                np.concatenate([p.state for p in points]),
                np.concatenate([p.ctrl for p in points]),
            )
        except DivergenceError:
            # Perhaps of a point nobody will ask for; if not, the point asked for raises by itself,
            # with row numbers of its own batch.
            return
        start = 0
        for p in points:
            rows = slice(start, start := start + len(p.state))
            p.jacobians = Linearization(a[rows], b[rows])
        self._chunk = [weakref.ref(p) for p in points]
