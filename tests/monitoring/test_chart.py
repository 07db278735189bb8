"""Pictures and tables of results."""

import csv

import imageio.v2
import numpy as np

from mbrl.monitoring import chart_figure, draw_chart, write_columns
from mbrl.types import Chart, Curve, Panel


def curve(label, shift=0.0):
    x = np.array([1.0, 2.0, 4.0])
    mean = x + shift
    return Curve(label, x, mean, mean - 0.5, mean + 0.25)


PANELS = [
    Panel("first", "c", "return", [curve("a"), curve("b", 1.0)]),
    Panel("second", "sigma", "error", [curve("a", 3.0)], x=10.0, y=2.0),
]
COLUMNS = {"agent": ["a", "b"], "value": [0.1 + 0.2, float("inf")], "seed": [1, 2]}


def test_the_lines_and_bands_are_what_was_given():
    figure = chart_figure(Chart("name", PANELS, COLUMNS))
    assert len(figure.axes) == 2
    for axes, panel in zip(figure.axes, PANELS, strict=True):
        assert (axes.get_title(), axes.get_xlabel()) == (panel.title, panel.x_label)
        assert axes.get_ylabel() == panel.y_label
        assert [text.get_text() for text in axes.get_legend().get_texts()] == [
            one.label for one in panel.curves
        ]
        for line, band, one in zip(axes.get_lines(), axes.collections, panel.curves, strict=True):
            np.testing.assert_array_equal(line.get_xdata(), one.x)
            np.testing.assert_array_equal(line.get_ydata(), one.mean)
            vertices = band.get_paths()[0].vertices
            for x, low, high in zip(one.x, one.low, one.high, strict=True):
                at = vertices[vertices[:, 0] == x, 1]
                assert (at.min(), at.max()) == (low, high)
    first, second = figure.axes
    assert (first.get_xscale(), first.get_yscale()) == ("linear", "linear")
    assert (second.get_xscale(), second.get_yscale()) == ("log", "log")
    assert second.yaxis.get_transform().base == 2


def test_the_picture_is_written(tmp_path):
    draw_chart(Chart("name", PANELS, COLUMNS), tmp_path / "chart.png")
    picture = imageio.v2.imread(tmp_path / "chart.png")
    assert picture.shape[0] > 400
    assert picture.shape[1] > 2 * 600
    assert picture[..., :3].std() > 5


def test_numbers_of_the_table_round_trip(tmp_path):
    write_columns(COLUMNS, tmp_path / "table.csv")
    with (tmp_path / "table.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["agent"] for row in rows] == ["a", "b"]
    assert [float(row["value"]) for row in rows] == COLUMNS["value"]
    assert [int(row["seed"]) for row in rows] == [1, 2]
