"""The picture of a loss landscape."""

import matplotlib.image
import numpy as np
import pytest

from mbrl.landscape import Surface
from mbrl.monitoring import draw_surface
from mbrl.monitoring.landscape import contour_levels

BLANK, HATCH = (233, 235, 238), (138, 143, 152)
DARKEST, BRIGHTEST = (68, 1, 84), (253, 231, 37)  # the ends of viridis


def surface_of(losses):
    losses = np.asarray(losses, dtype=float)
    axis = np.linspace(-1, 1, len(losses))
    return Surface(
        axis, axis, losses, float(losses[len(losses) // 2, len(losses) // 2]), np.zeros(3),
        np.eye(2, 3), np.full(2, np.nan), "{}", "{}",
    )  # fmt: skip


def bowl(size=41):
    x, y = np.meshgrid(*[np.linspace(-1, 1, size)] * 2)
    return x**2 + y**2


def drawn(tmp_path, losses, scale="linear"):
    """Return the colours inside the axes, [height, width, 3]; the first row is the top."""
    path = tmp_path / "a.png"
    draw_surface(surface_of(losses), path, "a run", scale)
    picture = (255 * matplotlib.image.imread(path)[..., :3]).round().astype(int)
    ink = (picture < 60).all(-1)  # the frame of the axes, and text
    rows = np.flatnonzero(ink.sum(1) > 0.5 * picture.shape[1])
    columns = np.flatnonzero(ink.sum(0) > 0.5 * picture.shape[0])
    widest = np.diff(columns).argmax()  # the other gaps are in the lines and in the colour bar
    left, right = columns[widest], columns[widest + 1]
    return picture[rows[0] + 4 : rows[-1] - 3, left + 4 : right - 3]


def share(colours, *wanted, within=12):
    return sum(float((np.abs(colours - w).max(-1) <= within).mean()) for w in wanted)


def test_low_is_dark_and_high_is_bright(tmp_path):
    x = np.linspace(-1, 1, 41)
    picture = drawn(tmp_path, np.tile(x, (41, 1)))  # rises with alpha, to the right
    width = picture.shape[1]
    assert share(picture[:, : width // 40], DARKEST, within=25) > 0.8
    assert share(picture[picture.shape[0] // 2 :, -width // 40 :], BRIGHTEST, within=30) > 0.8
    picture = drawn(tmp_path, np.tile(x, (41, 1)).T)  # rises with beta, upwards
    assert share(picture[-picture.shape[0] // 40 :], DARKEST, within=25) > 0.8


def test_what_diverged_is_hatched(tmp_path):
    losses = bowl()
    losses[:21] = np.inf  # beta below 0: the lower half
    picture = drawn(tmp_path, losses)
    half = picture.shape[0] // 2
    below = picture[half + 40 :]
    assert share(below, BLANK) > 0.5
    assert share(below, HATCH, within=40) > 0.03
    assert share(picture[: half - 60, : picture.shape[1] // 2], BLANK, HATCH) < 0.01


def test_a_finite_point_among_diverged_ones_is_seen(tmp_path):
    losses = np.full((5, 5), np.inf)
    losses[0, 4] = 1.0  # the lower right corner, a quarter of a cell inside the axes
    picture = drawn(tmp_path, losses)
    height, width = (size // 8 for size in picture.shape[:2])
    assert share(picture[-height + 9 :, -width + 9 :], BLANK, HATCH) < 0.05
    assert share(picture[-height + 9 :, : width - 9], BLANK) > 0.5


@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize(
    "losses",
    [
        np.full((5, 5), np.inf),
        np.full((5, 5), 3.0),
        np.where(np.eye(5) > 0, 1.0, np.inf),
        np.full((2, 2), -1e300),
        1e12 + bowl(5),
        np.exp(40 * bowl(9)),
        -bowl(9),
    ],
    ids=["nothing", "plain", "lonely", "huge", "shallow", "steep", "hill"],
)
def test_any_surface_is_drawn(tmp_path, losses, scale):
    assert drawn(tmp_path, losses, scale).size > 10**5


@pytest.mark.parametrize("scale", ["auto", "linear", "log"])
@pytest.mark.parametrize("losses", [bowl(), np.exp(20 * bowl()), np.full(4, 7.0)])
def test_levels_ascend_and_enclose(losses, scale):
    levels = contour_levels(losses, scale, 12)
    assert len(levels) == 13
    assert (np.diff(levels) > 0).all()
    assert levels[0] <= losses.min()
    assert levels[-1] >= losses.max()


def test_levels_are_even_in_the_loss_or_in_its_logarithm():
    even = np.linspace(0, 10, 101)
    np.testing.assert_allclose(contour_levels(even, "linear", 5), [0, 2, 4, 6, 8, 10])
    np.testing.assert_allclose(
        contour_levels(even - 3, "log", 5), np.array([0, 1e-3, 1e-2, 1e-1, 1, 10]) - 3
    )
    assert (contour_levels(even, "auto", 5) == contour_levels(even, "linear", 5)).all()
    steep = 10.0 ** np.linspace(-8, 3, 101)
    assert (contour_levels(steep, "auto", 5) == contour_levels(steep, "log", 5)).all()
