"""Adam against torch's, and what it does where that has no answer."""

import math
from dataclasses import replace

import pytest
import torch

from mbrl.planning.descent import Landscape
from mbrl.planning.descent.adam import Adam, adapted, no_moments
from mbrl.planning.splines import Spline
from tests.planning.descent.test_descent import at
from tests.planning.gradient_problems import cliff, linear_quadratic, states

GOOD = torch.ones(2, dtype=torch.bool)


def unbounded():
    problem = linear_quadratic(nu=2)
    far = torch.full((2,), math.inf, dtype=torch.float64)
    problem = replace(problem, low=-far, high=far)
    return Landscape(problem, states(2), Spline(6))


@pytest.mark.parametrize("betas", [(0.9, 0.999), (0.5, 0.9), (0.0, 0.0)])
def test_without_bounds_and_patience_it_is_torchs_adam(betas):
    surface = unbounded()
    generator = torch.Generator().manual_seed(0)
    here = at(surface, torch.randn(6, 2, 2, generator=generator, dtype=torch.float64))
    theirs = here.knots.clone().requires_grad_()
    reference = torch.optim.Adam([theirs], lr=0.03, betas=betas)
    descent = Adam(lr=0.03, betas=betas, patience=None)
    memory = descent.begin(here)
    for _ in range(20):
        gradient = torch.randn(6, 2, 2, generator=generator, dtype=torch.float64)
        theirs.grad = gradient.clone()
        reference.step()
        here, memory, stuck = descent.step(surface, here, gradient, GOOD, memory)
        torch.testing.assert_close(here.knots, theirs.detach(), rtol=1e-12, atol=1e-13)
        assert not stuck.any()


def test_rows_without_a_gradient_remember_and_stay():
    generator = torch.Generator().manual_seed(0)
    gradient = torch.randn(3, 2, 2, generator=generator, dtype=torch.float64)
    _, before = adapted(gradient, GOOD, no_moments(gradient), (0.9, 0.99))
    rows = torch.tensor([True, False])
    direction, after = adapted(gradient, rows, before, (0.9, 0.99))
    assert (direction[:, 1] == 0).all()
    assert (direction[:, 0] != 0).all()
    assert after["count"].tolist() == [2.0, 1.0]
    assert torch.equal(after["first"][:, 1], before["first"][:, 1])


def test_a_row_that_falls_off_a_cliff_returns_and_goes_on_at_half_its_rate():
    problem = cliff(horizon=1, at=0.3)  # x = 0.5 u: only |u| <= 0.6 is possible
    surface = Landscape(problem, torch.zeros(2, 1, dtype=torch.float64), Spline(1))
    here = at(surface, torch.zeros(1, 2, 1, dtype=torch.float64))
    descent = Adam(lr=0.8)
    memory = descent.begin(here)

    def step():
        gradient, good = surface.gradient(here)
        return descent.step(surface, here, gradient, good, memory)

    here, memory, _ = step()  # the gradient points to the goal at 2, beyond the cliff
    torch.testing.assert_close(here.knots, torch.full((1, 2, 1), 0.8, dtype=torch.float64))
    assert here.costs.isinf().all()
    here, memory, stuck = step()
    assert (here.knots == 0).all()
    assert not stuck.any()
    here, memory, _ = step()
    torch.testing.assert_close(here.knots, torch.full((1, 2, 1), 0.4, dtype=torch.float64))
    assert here.costs.isfinite().all()


def test_a_row_with_no_gradient_where_it_begins_gives_up():
    problem = cliff(horizon=1, at=0.3)
    surface = Landscape(problem, torch.zeros(2, 1, dtype=torch.float64), Spline(1))
    knots = torch.tensor([[[1.0], [0.1]]], dtype=torch.float64)
    here = at(surface, knots)
    descent = Adam()
    gradient, good = surface.gradient(here)
    _, _, stuck = descent.step(surface, here, gradient, good, descent.begin(here))
    assert stuck.tolist() == [True, False]


def test_a_row_that_does_not_improve_returns_to_its_best_at_half_the_rate():
    surface = unbounded()
    here = at(surface, torch.zeros(6, 2, 2, dtype=torch.float64))
    best = here.knots
    gradient, _ = surface.gradient(here)
    descent = Adam(lr=0.01, patience=3)
    memory = descent.begin(here)
    here, memory, _ = descent.step(surface, here, -gradient, GOOD, memory)  # uphill
    for _ in range(2):
        assert not torch.equal(here.knots, best)
        here, memory, _ = descent.step(surface, here, -gradient, GOOD, memory)
    here, memory, _ = descent.step(surface, here, -gradient, GOOD, memory)
    assert torch.equal(here.knots, best)
    here, memory, _ = descent.step(surface, here, gradient, GOOD, memory)
    expected = best - 0.005 * gradient / (gradient.abs() + 1e-8)  # the first step of a new Adam
    torch.testing.assert_close(here.knots, expected)


def test_better_knots_without_a_gradient_are_no_place_to_return_to():
    surface = unbounded()
    here = at(surface, torch.zeros(6, 2, 2, dtype=torch.float64))
    best = here.knots
    gradient, good = surface.gradient(here)
    descent = Adam(lr=1e-3)
    there, memory, _ = descent.step(surface, here, gradient, good, descent.begin(here))
    assert (there.costs < here.costs).all()
    lost = torch.tensor([True, False])
    back, _, stuck = descent.step(surface, there, gradient, lost, memory)
    assert torch.equal(back.knots[:, 1], best[:, 1])
    assert not torch.equal(back.knots[:, 0], best[:, 0])
    assert not stuck.any()
