"""Projected L-BFGS: its recursion against the matrix, its steps against the line search's rule."""

import numpy as np
import pytest
import torch

from mbrl.planning.descent import Landscape
from mbrl.planning.descent.lbfgs import LBFGS, _two_loops
from mbrl.planning.splines import Spline
from tests.planning.descent.test_descent import at, draw
from tests.planning.gradient_problems import dense, linear_quadratic, smooth, states

GOOD = torch.ones(3, dtype=torch.bool)


def inverse_bfgs(pairs, n):
    """H of the textbook's update (Nocedal and Wright 2006, equation 6.17), from H_0 = s'y/y'y I."""
    s, y = pairs[-1]
    h = (s @ y) / (y @ y) * np.eye(n)
    for s, y in pairs:
        rho = 1 / (s @ y)
        v = np.eye(n) - rho * np.outer(y, s)
        h = v.T @ h @ v + rho * np.outer(s, s)
    return h


def test_two_loops_are_the_updates_of_the_matrix_row_by_row():
    rng = np.random.default_rng(0)
    n, m = 5, 4
    pairs = [[], []]
    s, y = np.zeros((m, 2, n)), np.zeros((m, 2, n))
    for row, held in enumerate((m, 2)):  # the second row has no more than two pairs yet
        root = rng.normal(size=(n, n))
        for i in range(m - held, m):
            s[i, row] = rng.normal(size=n)
            y[i, row] = (root @ root.T + np.eye(n)) @ s[i, row]
            pairs[row].append((s[i, row], y[i, row]))
    g = rng.normal(size=(2, n))
    found, informed = _two_loops(*(torch.from_numpy(part) for part in (g, s, y)))
    assert informed.all()
    for row in range(2):
        np.testing.assert_allclose(found[row], inverse_bfgs(pairs[row], n) @ g[row], rtol=1e-9)


def test_pairs_without_curvature_are_not_used():
    g = torch.tensor([[1.0, 2.0]], dtype=torch.float64)
    s = torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]], dtype=torch.float64)
    y = torch.tensor([[[2.0, 0.0]], [[0.0, -1.0]]], dtype=torch.float64)
    found, informed = _two_loops(g, s, y)
    assert informed.all()
    torch.testing.assert_close(found, 0.5 * g)
    assert not _two_loops(g, 0 * s, 0 * y)[1].any()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_step_has_armijos_decrease_and_keeps_to_the_bounds(seed):
    surface = Landscape(smooth(seed=seed), states(3, seed=seed), Spline(9))
    here = at(surface, draw(surface, 9, 3, seed=seed))
    descent = LBFGS(decrease=0.01)
    memory, moved = descent.begin(here), 0
    for _ in range(15):
        gradient, good = surface.gradient(here)
        there, memory, _ = descent.step(surface, here, gradient, good, memory)
        slope = (gradient * (there.knots - here.knots)).sum((0, 2))
        went = (there.knots != here.knots).any(-1).any(0)
        assert (slope[went] < 0).all()
        assert (there.costs <= here.costs + 0.01 * slope)[went].all()
        assert (there.knots >= surface.low).all()
        assert (there.knots <= surface.high).all()
        moved, here = moved + int(went.sum()), there
    assert moved > 30


def test_without_bounds_it_ends_superlinearly_at_newtons_point():
    problem = linear_quadratic(limit=1e6)
    x0 = states(3)
    surface = Landscape(problem, x0, Spline(6))
    here = at(surface, torch.zeros(6, 3, 1, dtype=torch.float64))
    descent = LBFGS()
    memory = descent.begin(here)
    for _ in range(60):
        gradient, good = surface.gradient(here)
        here, memory, _ = descent.step(surface, here, gradient, good, memory)
    for row in range(3):
        h_matrix, h_vector = dense(problem, x0[row])
        expected = np.linalg.solve(h_matrix, -h_vector)
        np.testing.assert_allclose(here.actions[:, row, 0], expected, rtol=1e-6, atol=1e-6)


def test_uphill_it_shortens_its_reach_and_then_gives_up():
    surface = Landscape(smooth(), states(3), Spline(9))
    here = at(surface, draw(surface, 9, 3))
    gradient, _ = surface.gradient(here)
    descent = LBFGS()
    memory = descent.begin(here)
    for hopeless in (False, False, False, True):  # 1, 1e-3, 1e-6, 1e-9
        there, memory, stuck = descent.step(surface, here, -gradient, GOOD, memory)
        assert torch.equal(there.knots, here.knots)
        assert (stuck == hopeless).all()


def test_a_row_without_a_gradient_is_stuck():
    surface = Landscape(smooth(), states(3), Spline(9))
    here = at(surface, draw(surface, 9, 3))
    gradient, _ = surface.gradient(here)
    good = torch.tensor([True, False, True])
    descent = LBFGS()
    there, _, stuck = descent.step(surface, here, gradient, good, descent.begin(here))
    assert stuck.tolist() == [False, True, False]
    assert torch.equal(there.knots[:, 1], here.knots[:, 1])
