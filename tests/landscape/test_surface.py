"""Surfaces and their directions, on linear-quadratic bowls."""

import json

import numpy as np
import pytest
import torch

from mbrl.errors import ArgumentError, ConfigError, DivergenceError
from mbrl.landscape import LandscapeOptions, TrajectoryLoss, surface
from tests.landscape.common import START, bowl, hessian
from tests.planning.problems import linear_quadratic

FREE = linear_quadratic(bounded=False)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("kind", ["random", "principal"])
def test_the_bowl_is_that_of_its_hessian(kind):
    options = LandscapeOptions(points=11, span=0.7, directions=kind)
    found = surface(bowl(FREE), options, generator())
    d = found.directions
    curved = d @ hessian(FREE) @ d.T  # (2, 2)
    a, b = np.meshgrid(found.alpha, found.beta)
    _, lowest = FREE.optimum(START)
    expected = lowest + 0.5 * (curved[0, 0] * a**2 + 2 * curved[0, 1] * a * b + curved[1, 1] * b**2)
    np.testing.assert_allclose(found.losses, expected, rtol=1e-12)
    assert found.loss == pytest.approx(lowest, rel=1e-12)
    assert found.losses[5, 5] == pytest.approx(found.loss, rel=1e-14)
    assert found.losses.argmin() == 60
    np.testing.assert_allclose(found.alpha, np.linspace(-0.7, 0.7, 11), atol=1e-16)


def test_alpha_runs_along_the_columns():
    found = surface(bowl(FREE), LandscapeOptions(points=4), generator())
    for j, i in ((0, 3), (2, 1)):
        moved = found.alpha[i] * found.directions[0] + found.beta[j] * found.directions[1]
        actions = (found.solution + moved).reshape(FREE.horizon, 2)
        assert found.losses[j, i] == pytest.approx(FREE.cost(START, actions), rel=1e-12)


def test_principal_directions_are_those_of_largest_curvature():
    """At the optimum of a quadratic g = r H d: the eigenvectors are those of H."""
    sizes, axes = np.linalg.eigh(hessian(FREE))
    options = LandscapeOptions(points=2, directions="principal", samples=4000, normalize="none")
    found = surface(bowl(FREE), options, generator())
    for k in range(2):
        assert abs(found.directions[k] @ axes[:, -1 - k]) > 0.999
        assert np.linalg.norm(found.directions[k]) == pytest.approx(1)
    shares = sizes[[-1, -2]] ** 2 / (sizes**2).sum()
    np.testing.assert_allclose(found.shares, shares, atol=0.03)


def test_principal_directions_are_scaled_as_random_ones():
    """In units of half the ranges, sqrt(n) in the mean square."""
    loss = bowl(linear_quadratic())
    options = LandscapeOptions(points=2, directions="principal", samples=3000)
    found = surface(loss, options, generator())
    lengths = np.linalg.norm(found.directions / loss.unit.numpy(), axis=1)
    np.testing.assert_allclose(lengths, np.sqrt(12), rtol=0.03)
    assert lengths[0] == pytest.approx(lengths[1])


def test_random_directions_are_standard_normal_in_units_of_the_ranges():
    loss = bowl(linear_quadratic())
    scaled, plain = (
        surface(loss, LandscapeOptions(points=2, normalize=kind), generator()).directions
        for kind in ("filter", "none")
    )
    np.testing.assert_allclose(scaled, plain * np.tile([0.5, 2.0], 6), rtol=1e-15)
    drawn = torch.randn(12, generator=generator(), dtype=torch.float64)
    assert (plain[0] == drawn.numpy()).all()


def test_the_same_seed_gives_the_same_bits():
    options = LandscapeOptions(points=5, directions="principal")
    first, again, other = (surface(bowl(FREE), options, generator(s)) for s in (1, 1, 2))
    assert (first.losses == again.losses).all()
    assert (first.directions == again.directions).all()
    assert (first.losses != other.losses).any()


@pytest.mark.parametrize("at_once", [1, 3, 7, 16, 100])
def test_how_many_points_at_once_does_not_matter(at_once):
    options, told = LandscapeOptions(points=4), []
    whole = surface(bowl(FREE), options, generator())
    loss = bowl(FREE)
    loss.at_once = at_once
    found = surface(loss, options, generator(), evaluated=told.append)
    np.testing.assert_allclose(found.losses, whole.losses, rtol=1e-14)
    assert sum(told) == 16
    assert max(told) == min(at_once, 16)


def test_an_archive_is_read_without_pickles(tmp_path):
    found = surface(bowl(FREE), LandscapeOptions(points=3), generator())
    found.save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as content:
        assert (content["losses"] == found.losses).all()
        assert content["loss"] == found.loss
        assert (content["directions"] == found.directions).all()
        assert json.loads(str(content["options"]))["points"] == 3
        assert json.loads(str(content["layout"])) == {"actions": [6, 1, 2]}
        assert set(content) == set(found._fields)


def test_diverged_neighbours_do_not_count_in_principal_directions():
    wall = float(bowl(FREE).solution.reshape(-1, 2)[:, 0].max()) + 0.05
    options = LandscapeOptions(points=9, directions="principal", samples=200, radius=0.05)
    found = surface(bowl(FREE, wall), options, generator())
    assert np.isfinite(found.directions).all()
    assert np.isinf(found.losses).any()
    assert np.isfinite(found.losses[4, 4])


def test_nothing_but_divergence():
    options = LandscapeOptions(points=3, directions="principal", samples=4)
    with pytest.raises(DivergenceError, match=r"landscape\.radius: .* 4 of 4 .* make it smaller"):
        surface(bowl(FREE, -10.0), options, generator())
    found = surface(bowl(FREE, -10.0), LandscapeOptions(points=3), generator())
    assert np.isinf(found.losses).all()
    assert found.loss == np.inf


def test_one_parameter_has_no_two_directions():
    one = FREE._replace(
        b=FREE.b[:, :1], r=FREE.r[:1], low=FREE.low[:1], high=FREE.high[:1], horizon=1
    )
    state, action = (torch.zeros(shape, dtype=torch.float64) for shape in ((1, 2), (1, 1, 1)))
    single = TrajectoryLoss(one.problem(), state, action)
    with pytest.raises(ArgumentError, match="two parameters, got 1"):
        surface(single, LandscapeOptions(), generator())


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"points": 1}, "points must lie in"),
        ({"points": 10_000}, "points must lie in"),
        ({"span": 0.0}, "span must be positive"),
        ({"radius": -1.0}, "radius must be positive"),
        ({"seed": -1}, "seed must lie in"),
        ({"batch": 0}, "batch must be at least 1"),
        ({"samples": 1}, "samples must be at least 2"),
    ],
)
def test_options_out_of_range(wrong, message):
    with pytest.raises(ConfigError, match=message):
        LandscapeOptions(**wrong)
