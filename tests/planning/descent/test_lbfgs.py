"""Projected L-BFGS: its recursion against the matrix, its steps against the line search's rule."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mbrl.planning.descent import Landscape
from mbrl.planning.descent.lbfgs import LBFGS, _direction, _two_loops
from mbrl.planning.splines import Spline
from tests.planning.descent.test_descent import at, draw
from tests.planning.gradient_problems import (
    Bowl,
    box_optimum,
    dense,
    linear_quadratic,
    smooth,
    states,
)

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


def test_a_step_that_a_bound_turns_uphill_is_not_taken():
    """On a constant cost, any step along which a linear model rises would pass Armijo's rule."""
    problem = linear_quadratic(horizon=2)
    nothing = Bowl(torch.zeros(3, 3).double(), torch.zeros(1, 1).double())
    problem = replace(problem, stage=nothing, terminal=None)
    surface = Landscape(problem, states(1), Spline(2))
    here = at(surface, torch.stack([surface.low + 0.1, 0 * surface.low])[:, None])
    memory = dict(LBFGS().begin(here))
    # Of B = (1 2; 2 5), conjugate, so that H = (5 -2; -2 1), H g = (3, -1), and the first knot is
    # stopped by its bound after 0.1, while the second climbs.
    memory["moves"] = torch.tensor([[[1.0, 0.0]], [[2.0, -1.0]]], dtype=torch.float64)
    memory["changes"] = torch.tensor([[[1.0, 2.0]], [[0.0, -1.0]]], dtype=torch.float64)
    gradient = torch.ones(2, 1, 1, dtype=torch.float64)
    good = torch.ones(1, dtype=torch.bool)
    there, after, stuck = LBFGS(history=2).step(surface, here, gradient, good, memory)
    assert torch.equal(there.knots, here.knots)
    assert not stuck.any()
    assert (after["moves"] == 0).all()  # what led nowhere is forgotten,
    assert (after["reach"] == 1).all()  # and the gradient gets its full reach first


def test_with_the_curvature_of_the_free_knots_a_step_is_newtons_on_them():
    problem, x0 = linear_quadratic(seed=1), states(1)
    h_matrix, h_vector = dense(problem, x0[0])
    low, high = float(problem.low), float(problem.high)
    u = box_optimum(h_matrix, h_vector, low, high)
    free = np.flatnonzero((u != low) & (u != high))
    assert 1 < len(free) < 6
    start, spread = u.copy(), 0.5 * (high - low)
    start[free] += 0.01 * np.array([1, -2, 3, -1, 2])[: len(free)]
    assert (np.clip(start, low + 0.005, high - 0.005) == start)[free].all()
    surface = Landscape(problem, x0, Spline(6))
    here = at(surface, torch.from_numpy(start / spread)[:, None, None])
    # Conjugate moves of the free knots; the change of the gradient is that of all knots.
    moves = np.zeros((len(free), 6))
    moves[:, free] = np.linalg.inv(np.linalg.cholesky(h_matrix[np.ix_(free, free)])).copy()
    memory = dict(LBFGS().begin(here))
    memory["moves"] = torch.from_numpy(moves)[:, None]
    memory["changes"] = torch.from_numpy(spread**2 * moves @ h_matrix)[:, None]
    gradient, good = surface.gradient(here)
    memory["gradient"] = gradient[:, :, 0].mT
    there, _, _ = LBFGS(history=len(free)).step(surface, here, gradient, good, memory)
    np.testing.assert_allclose(there.actions[:, 0, 0], u, atol=1e-9)


def test_the_first_step_reaches_a_half_range_in_the_fastest_free_knot():
    problem = linear_quadratic()
    surface = Landscape(problem, states(1), Spline(6))
    z = torch.zeros(6, 1, 1, dtype=torch.float64)
    z[0] = surface.low
    gradient = torch.tensor([9.0, 0.5, -0.1, 0.0, 0.2, 0.3], dtype=torch.float64)[:, None, None]
    nothing = torch.zeros(2, 1, 6, dtype=torch.float64)
    reach = torch.ones(1, dtype=torch.float64)
    found = _direction(surface, z, gradient, nothing, nothing, reach)[:, 0, 0]
    expected = torch.tensor([9.0, 1.0, -0.2, 0.0, 0.4, 0.6], dtype=torch.float64)
    torch.testing.assert_close(found, expected)
