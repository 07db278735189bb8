"""The cost by the knots: its gradient against differences, and the conditions of optimality."""

import pytest
import torch

from mbrl.planning.descent import Landscape
from mbrl.planning.splines import Spline
from tests.planning.gradient_problems import linear_quadratic, smooth, states


def landscape(problem, x0, knots, interpolation):
    return Landscape(problem, x0, Spline(problem.horizon, knots, interpolation))


def at(surface, knots):
    return surface(knots[:, None]).candidate(torch.zeros(knots.shape[1], dtype=torch.long))


def draw(surface, knots, rows, spread=0.9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    share = torch.rand(knots, rows, len(surface.low), generator=generator, dtype=torch.float64)
    middle, half = 0.5 * (surface.low + surface.high), 0.5 * (surface.high - surface.low)
    return middle + spread * half * (2 * share - 1)


@pytest.mark.parametrize("interpolation", ["zero", "linear", "cubic"])
@pytest.mark.parametrize("knots", [4, 9])
def test_the_gradient_is_that_of_the_cost_by_differences(interpolation, knots):
    problem = smooth()
    surface = landscape(problem, states(2), knots, interpolation)
    z = draw(surface, knots, 2)
    gradient, good = surface.gradient(at(surface, z))
    assert good.all()
    h = 1e-6
    for p in range(knots):
        for i in range(2):
            step = torch.zeros_like(z)
            step[p, :, i] = h
            difference = (at(surface, z + step).costs - at(surface, z - step).costs) / (2 * h)
            torch.testing.assert_close(gradient[p, :, i], difference, rtol=1e-6, atol=1e-8)


def test_what_a_cubic_overshoots_is_clipped_and_has_no_derivative():
    problem = smooth()
    surface = landscape(problem, states(1), 4, "cubic")
    z = draw(surface, 4, 1, spread=0.5)
    z[1:3, 0, 0] = surface.high[0]  # between two equal knots, with lower ones on both sides
    raw = Spline(9, 4, "cubic")(z)[:, 0, 0]
    assert (raw > surface.high[0] + 0.01).any()
    point = at(surface, z)
    assert point.actions[:, 0, 0].max() == problem.high[0]
    gradient, _ = surface.gradient(point)
    h = 1e-6
    for p in range(4):
        step = torch.zeros_like(z)
        step[p] = h
        difference = (at(surface, z + step).costs - at(surface, z - step).costs) / (2 * h)
        torch.testing.assert_close(gradient[p].sum(-1), difference, rtol=1e-6, atol=1e-8)


def test_knots_are_in_half_ranges_where_there_are_bounds():
    problem = smooth()
    surface = landscape(problem, states(1), None, "linear")
    torch.testing.assert_close(surface.low, problem.low / torch.tensor([1.0, 1.25]).double())
    z = draw(surface, 9, 1)
    expected = z * torch.tensor([1.0, 1.25]).double()
    torch.testing.assert_close(at(surface, z).actions, expected)
    torch.testing.assert_close(surface.fit(expected), z)


def test_pushing_against_an_active_bound_does_not_count_and_pulling_away_does():
    problem = linear_quadratic()
    surface = landscape(problem, states(1), None, "linear")
    z = torch.zeros(6, 1, 1, dtype=torch.float64)
    z[0], z[1], z[2], z[3] = surface.low, surface.low, surface.high, surface.high
    g = torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0], dtype=torch.float64)[:, None, None]
    inward = surface.inward(z, g)[:, 0, 0]
    assert inward.tolist() == [0.0, -1.0, 1.0, 0.0, 1.0, -1.0]
    residual = surface.residual(z, 0.01 * g)[:, 0, 0]
    expected = [0.0, -0.01, 0.01, 0.0, 0.01, -0.01]
    torch.testing.assert_close(residual, torch.tensor(expected, dtype=torch.float64))
