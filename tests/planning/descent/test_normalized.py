"""The normalised gradient: its path, and that it never makes things worse."""

import torch

from mbrl.planning.descent import Landscape
from mbrl.planning.descent.normalized import Normalized
from mbrl.planning.splines import Spline
from tests.planning.descent.test_descent import at, draw
from tests.planning.gradient_problems import smooth, states

GOOD = torch.ones(3, dtype=torch.bool)


def test_a_step_is_the_best_of_its_lengths_along_the_projected_path():
    problem = smooth()
    surface = Landscape(problem, states(3), Spline(9))
    here = at(surface, draw(surface, 9, 3, spread=1.2).clamp(surface.low, surface.high))
    gradient, _ = surface.gradient(here)
    descent = Normalized(step_lengths=5, longest=0.5, shortest=0.5e-4)
    there, _, stuck = descent.step(surface, here, gradient, GOOD, descent.begin(here))
    assert not stuck.any()
    for row in range(3):
        z, g = here.knots[:, row], gradient[:, row].clone()
        g[(z <= surface.low) & (g > 0) | (z >= surface.high) & (g < 0)] = 0
        tried = [
            (z - length * g / g.abs().max()).clamp(surface.low, surface.high)
            for length in (0.5, 0.05, 0.005, 0.0005, 0.00005)
        ]
        costs = [float(at(surface, t[:, None].repeat(1, 3, 1)).costs[row]) for t in tried]
        assert min(costs) < here.costs[row]
        torch.testing.assert_close(there.knots[:, row], tried[costs.index(min(costs))])


def test_uphill_it_stays_and_says_so():
    problem = smooth()
    surface = Landscape(problem, states(3), Spline(9))
    here = at(surface, draw(surface, 9, 3))
    gradient, _ = surface.gradient(here)
    wrong = gradient.clone()
    wrong[:, 1] *= -1
    descent = Normalized(longest=1e-3, shortest=1e-5)
    there, _, stuck = descent.step(surface, here, wrong, GOOD, {})
    assert stuck.tolist() == [False, True, False]
    assert torch.equal(there.knots[:, 1], here.knots[:, 1])
    assert torch.equal(there.states[:, 1], here.states[:, 1])


def test_a_gradient_of_zero_is_no_direction():
    problem = smooth()
    surface = Landscape(problem, states(3), Spline(9))
    here = at(surface, draw(surface, 9, 3))
    there, _, stuck = Normalized().step(surface, here, torch.zeros_like(here.knots), GOOD, {})
    assert stuck.all()
    assert torch.equal(there.knots, here.knots)
