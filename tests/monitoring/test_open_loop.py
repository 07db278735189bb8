"""The picture of an open-loop prediction."""

import imageio.v2
import numpy as np
import pytest
from matplotlib.colors import to_rgb

from mbrl.monitoring import column_errors, draw_open_loop, open_loop_figure
from mbrl.types import OpenLoop

WHITE = (1.0, 1.0, 1.0)


def open_loop(errors, steps=9, dt=0.5, names=None):
    """Columns that swing between 1 and -1, of deviation 1, and are foretold wrong by ``errors``."""
    swing = np.where(np.arange(steps + 1) % 2, -1.0, 1.0)[:, None] * np.ones(len(errors))
    predicted = swing + np.asarray(errors, dtype=float)
    predicted[0] = swing[0]
    return OpenLoop(swing, predicted, dt, names)


def highlighted(figure):
    return [i for i, axes in enumerate(figure.axes) if to_rgb(axes.get_facecolor()) != WHITE]


def test_the_lines_are_what_was_given():
    dice = np.random.default_rng(0)
    given = OpenLoop(dice.normal(size=(8, 3)), dice.normal(size=(8, 3)), 0.05)
    axes = open_loop_figure(given, "title").axes
    assert len(axes) == 3
    for column, one in enumerate(axes):
        observed, predicted = one.get_lines()
        for line, values in ((observed, given.observed), (predicted, given.predicted)):
            np.testing.assert_array_equal(line.get_xdata(), [0.05 * k for k in range(8)])
            np.testing.assert_array_equal(line.get_ydata(), values[:, column])
        assert (observed.get_label(), predicted.get_label()) == ("observed", "predicted")


def test_errors_are_in_deviations_of_what_was_observed():
    observed = np.array([[0.0, 5.0, 0.0], [2.0, 5.0, 0.0], [4.0, 5.0, 0.0]])
    predicted = observed + np.array([[9.0, 9.0, 9.0], [3.0, 0.5, np.nan], [1.0, 0.5, 0.0]])
    found = column_errors(OpenLoop(observed, predicted, 1.0))
    # The first row is given. Deviation of 0, 2, 4: sqrt(8 / 3); root mean square of 3, 1: sqrt(5).
    np.testing.assert_allclose(found, [np.sqrt(5) / np.sqrt(8 / 3), 0.5, np.inf], rtol=1e-14)


def test_the_four_worst_are_highlighted_where_they_are():
    figure = open_loop_figure(open_loop([0.3, 2.0, 0.1, 3.0, 0.2, 1.0, 4.0]), "update 3")
    assert highlighted(figure) == [1, 3, 5, 6]
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[:2] == ["column 0, error 0.3", "column 1, error 2"]
    bold = [i for i, axes in enumerate(figure.axes) if axes.title.get_fontweight() == "bold"]
    assert bold == [1, 3, 5, 6]
    assert figure.get_suptitle().startswith("update 3\nmedian error 1 ")


def test_names_and_time():
    named = open_loop_figure(open_loop([1.0, 2.0], names=["height", "angle"]), "a")
    assert [axes.get_title() for axes in named.axes] == ["height, error 1", "angle, error 2"]
    assert named.get_supxlabel() == "time [s]"
    assert named.axes[0].get_xlim() == (0.0, 4.5)
    timeless = open_loop_figure(open_loop([1.0, 2.0], dt=None), "a")
    assert timeless.get_supxlabel() == "steps"
    np.testing.assert_array_equal(timeless.axes[0].get_lines()[0].get_xdata(), np.arange(10))


def test_of_many_columns_the_worst_are_drawn():
    errors = np.random.default_rng(0).permutation(40) / 10
    figure = open_loop_figure(open_loop(errors), "a")
    worst = sorted(np.argsort(errors)[-24:])
    assert [axes.get_title() for axes in figure.axes] == [
        f"column {column}, error {errors[column]:.2g}" for column in worst
    ]
    assert "the worst 24 of 40 columns" in figure.get_suptitle()


def test_a_prediction_that_goes_astray_does_not_flatten_what_was_observed():
    astray = open_loop([0.5, 1e6, -1e300, 0.0])
    astray.predicted[5, 3] = np.inf
    for axes in open_loop_figure(astray, "a").axes:
        low, high = axes.get_ylim()
        assert low < -1
        assert high > 1
        assert high - low < 8  # of what goes from -1 to 1
    low, high = open_loop_figure(astray, "a").axes[0].get_ylim()
    assert high > 1.5  # what stays near is all there


@pytest.mark.parametrize("value", [0.0, 3.0, -1e8, 1e-12])
def test_what_stands_still_has_a_range_too(value):
    still = np.full((5, 1), value)
    figure = open_loop_figure(OpenLoop(still, still + 1e-9, 0.1), "a")
    low, high = figure.axes[0].get_ylim()
    assert low < value < high
    assert high - low >= 0.1  # and no noise is made large


@pytest.mark.parametrize("columns", [1, 2, 5, 7, 20, 60])
def test_any_number_of_columns_is_drawn(tmp_path, columns):
    path = tmp_path / "a.png"
    given = open_loop(np.linspace(0, 3, columns))
    given.predicted[3:, 0] = np.nan
    given.predicted[4:, -1] = 1e308
    draw_open_loop(given, path, "update 1")
    picture = imageio.v2.imread(path)
    width, height = open_loop_figure(given, "update 1").get_size_inches() * 110
    assert abs(picture.shape[1] - width) <= 1
    assert abs(picture.shape[0] - height) <= 1
    assert (picture[..., :3] < 80).all(-1).mean() > 0.001  # there is ink
