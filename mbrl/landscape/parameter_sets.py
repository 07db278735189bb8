"""A graph under many sets of parameters at once: one row of the batch for each set and start."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, cast

import torch
from torch import Tensor, nn

from mbrl.errors import DivergenceError, GraphError, one_line
from mbrl.graph import Graph, Node
from mbrl.types import Step

Outputs = Tensor | tuple[Tensor, ...]


def with_parameter_sets(
    graph: Graph, parameters: Mapping[str, Tensor], batch: int
) -> tuple[Graph, Tensor]:
    """Return the graph as a function of K B rows, of which row k B + b is under set k.

    Nodes without such parameters act on all rows, so that the physics are advanced together. Noise
    that a node with parameters draws is the same under all of them (common random numbers); other
    nodes draw theirs for every row. A row that diverges does not end the unrolling: it goes on as a
    copy of another one.

    Args:
        graph: whose nodes are shared.
        parameters: K values of each, [K, ...], by their names in the graph.
        batch: B.

    Returns:
        The graph, and which of the rows have diverged so far, [K B] bool.
    """
    sets = len(next(iter(parameters.values())))
    lost = torch.zeros(sets * batch, dtype=torch.bool)
    made: dict[str, Node] = {}
    for name in graph.nodes:
        node, prefix = cast(Node, graph.nodes[name]), f"nodes.{name}."
        own = {n.removeprefix(prefix): p for n, p in parameters.items() if n.startswith(prefix)}
        made[name] = _Guarded(_Repeated(node, own, batch) if own else node, lost)
    return Graph(graph.spec, graph.task, torch.Generator(), made), lost


class _Wrapper(Node):
    """A node that does with another one what a subclass says."""

    def __init__(self, inner: Node):
        super().__init__(inner.place)
        self.inner = inner

    def width(self, port: str) -> int:
        """See :class:`Node`."""
        return self.inner.width(port)

    def drives(self, port: str) -> tuple[int, ...] | None:
        """See :class:`Node`."""
        return self.inner.drives(port)

    def idle(self, step: Step) -> Collection[str]:
        """See :class:`Node`."""
        return self.inner.idle(step)


class _Repeated(_Wrapper):
    """A node under K sets of its parameters: ``vmap`` of a functional call."""

    def __init__(self, inner: Node, parameters: Mapping[str, Tensor], batch: int):
        super().__init__(inner)
        self._sets, self._batch = dict(parameters), batch

    def forward(self, step: Step, *values: Tensor | None) -> Outputs:
        """[K B, ...] each -> [K B, ...]."""

        def under(
            parameters: dict[str, Tensor], context: Tensor | None, *given: Tensor | None
        ) -> Outputs:
            arguments = (step._replace(context=context), *given)
            made: Outputs = torch.func.functional_call(self.inner, parameters, arguments)
            return made

        inputs = [v if v is None else v.unflatten(0, (-1, self._batch)) for v in (
            step.context, *values
        )]  # fmt: skip
        axes = (0, *(None if v is None else 0 for v in inputs))
        try:
            made = torch.vmap(under, in_dims=axes, randomness="same")(self._sets, *inputs)
        except RuntimeError as error:
            if "vmap" not in str(error):
                raise
            raise GraphError(
                f"graph.nodes.{self.place.name}: it cannot be run under many sets of its "
                f"parameters at once: {one_line(error)}"
            ) from error
        return made.flatten(0, 1) if isinstance(made, Tensor) else tuple(
            part.flatten(0, 1) for part in made
        )  # fmt: skip


class _Guarded(_Wrapper):
    """A node whose divergent rows are noted, and replaced by copies of another one.

    Args:
        inner: the node.
        lost: where they are noted, [N]; a node may see the N rows of several steps together.
    """

    def __init__(self, inner: Node, lost: Tensor):
        super().__init__(inner)
        self.is_rowwise, self._lost = inner.is_rowwise, lost

    def forward(self, step: Step, *values: Tensor | None) -> Outputs:
        """As the node itself; DivergenceError if no row is left."""
        noise = None if step.generator is None else step.generator.get_state()
        source: Tensor | None = None  # by row: which one it is a copy of
        while True:
            try:
                made: Outputs = self.inner(
                    step._replace(context=_taken(step.context, source)),
                    *(_taken(value, source) for value in values),
                )
                return made
            except DivergenceError as error:
                source = self._replaced(error, source, values)
                if step.generator is not None and noise is not None:
                    step.generator.set_state(noise)

    def _replaced(self, error: DivergenceError, source: Tensor | None, values: Any) -> Tensor:
        count = next(len(value) for value in values if value is not None)
        source = torch.arange(count) if source is None else source
        bad = torch.zeros(count, dtype=torch.bool)
        bad[list(error.rows)] = True
        bad |= bad[source]  # copies of a row that turns out to diverge, too
        good = (~bad & (source == torch.arange(count))).nonzero()
        if not error.rows or not len(good):
            raise error
        self._lost[bad.nonzero()[:, 0] % len(self._lost)] = True
        return torch.where(bad, good[0], source)


def _taken(value: Tensor | None, source: Tensor | None) -> Tensor | None:
    return value if value is None or source is None else value[source]


def stacked(points: Tensor, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return points [K, n] as sets of parameters [K, ...], differentiably."""
    parts = points.split([p.numel() for p in parameters.values()], dim=1)
    return {
        name: part.reshape(-1, *p.shape).to(p.dtype)
        for part, (name, p) in zip(parts, parameters.items(), strict=True)
    }
