"""Drawings name every node and every value."""

import matplotlib.image
import numpy as np

import mbrl
from mbrl.graph import draw, mermaid


def test_mermaid_names_nodes_wires_and_carries():
    task = mbrl.make_task("HalfCheetah-v5", threads=1)
    graph = mbrl.build_graph(None, task)
    text = mermaid(graph.spec, graph.widths)
    assert text.startswith("flowchart LR\n")
    for line in (
        "carry_state -->|state [B,18]| observe",
        "observe -->|observation [B,17]| policy",
        "policy -->|action [B,6]| dynamics",
        "dynamics -->|next_state [B,18]| reward",
        "dynamics -.->|next_state| carry_state",
    ):
        assert line in text


def test_the_picture_is_written_and_not_blank(tmp_path):
    graph = mbrl.build_graph(None, mbrl.make_task("HalfCheetah-v5", threads=1))
    draw(graph.spec, tmp_path / "graph.png", graph.widths)
    pixels = matplotlib.image.imread(tmp_path / "graph.png")
    assert pixels.shape[1] > 800
    assert 0.01 < np.mean(pixels[..., :3].min(axis=-1) < 0.95) < 0.5
