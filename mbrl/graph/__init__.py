"""Computation graphs: declared in YAML, checked when built, unrolled over a horizon."""

from mbrl.graph.acting import GraphPolicy
from mbrl.graph.draw import draw, mermaid
from mbrl.graph.graph import Graph, build_graph
from mbrl.graph.node import Node, Place, Sizes
from mbrl.graph.nodes import SHIPPED
from mbrl.graph.wiring import completed_section, kind_of, parse
from mbrl.types import Step

__all__ = [
    "SHIPPED",
    "Graph",
    "GraphPolicy",
    "Node",
    "Place",
    "Sizes",
    "Step",
    "build_graph",
    "completed_section",
    "draw",
    "kind_of",
    "mermaid",
    "parse",
]
