"""Box QPs against enumeration of all active sets, and against the conditions of optimality."""

import itertools

import numpy as np
import pytest

from mbrl.planning.box_qp import box_qp


def problems(seed, batch, n, spread=1.0):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(batch, n, n))
    h = root @ root.swapaxes(1, 2) / n + 0.05 * np.eye(n)
    g = rng.normal(size=(batch, n))
    low, high = (
        -spread * rng.uniform(0.05, 1, (batch, n)),
        spread * rng.uniform(0.05, 1, (batch, n)),
    )
    return h, g, low, high


def hard_problems(seed, batch, n):
    """Eigenvalues from 1e-12 to 1, random bounds around zero."""
    rng = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(rng.normal(size=(batch, n, n)))
    h = (basis * 10.0 ** rng.uniform(-12, 0, (batch, 1, n))) @ basis.swapaxes(1, 2)
    low, high = -rng.uniform(0, 1, (batch, n)), rng.uniform(0, 1, (batch, n))
    return 0.5 * (h + h.swapaxes(1, 2)), 0.1 * rng.normal(size=(batch, n)), low, high


def enumerated(h, g, low, high):
    """The feasible stationary point of lowest value over all 3^n ways to hold entries."""
    best, value = None, np.inf
    for held in itertools.product((-1, 0, 1), repeat=len(g)):
        held = np.array(held)
        d = np.where(held < 0, low, np.where(held > 0, high, 0.0))
        free = held == 0
        if free.any():
            rest = g[free] + h[np.ix_(free, ~free)] @ d[~free]
            d[free] = -np.linalg.solve(h[np.ix_(free, free)], rest)
        if (d >= low - 1e-12).all() and (d <= high + 1e-12).all():
            now = 0.5 * d @ h @ d + g @ d
            if now < value:
                best, value = d, now
    return best


def residual(h, g, low, high, d):
    """|d - clip(d - gradient)|, zero at the optimum and nowhere else."""
    gradient = g + np.einsum("bij,bj->bi", h, d)
    return np.abs(d - np.clip(d - gradient, low, high)).max()


@pytest.mark.parametrize("seed", range(5))
def test_optimum_is_that_of_all_active_sets(seed):
    h, g, low, high = problems(seed, 6, 4)
    found = box_qp(h, g, low, high, np.zeros_like(g))
    assert found.solved.all()
    for row in range(6):
        expected = enumerated(h[row], g[row], low[row], high[row])
        np.testing.assert_allclose(found.d[row], expected, atol=1e-10)


@pytest.mark.parametrize("n", [1, 2, 6, 21])
@pytest.mark.parametrize("spread", [0.01, 1.0, 100.0])
def test_conditions_of_optimality(n, spread):
    h, g, low, high = problems(n, 40, n, spread)
    start = np.random.default_rng(0).normal(size=g.shape) * 3
    found = box_qp(h, g, low, high, start)
    assert found.solved.all()
    assert residual(h, g, low, high, found.d) < 1e-8
    assert ((found.d >= low) & (found.d <= high)).all()


def test_ill_conditioned_and_badly_scaled():
    h, g, low, high = problems(3, 30, 5)
    scale = 10.0 ** np.random.default_rng(1).uniform(-4, 4, (30, 1, 1))
    h, g = h * scale, g * scale[:, 0]
    found = box_qp(h, g, low, high, np.zeros_like(g))
    assert found.solved.all()
    gradient = (g + np.einsum("bij,bj->bi", h, found.d)) / scale[:, 0]
    assert np.abs(found.d - np.clip(found.d - gradient, low, high)).max() < 1e-8


@pytest.mark.parametrize("n", [2, 4, 12, 21])
def test_nothing_zigzags_where_the_condition_number_is_1e12(n):
    h, g, low, high = hard_problems(n, 300, n)
    found = box_qp(h, g, low, high, np.zeros_like(g), iterations=60)
    assert found.solved.all()
    assert residual(h, g, low, high, found.d) < 1e-8


@pytest.mark.parametrize("size", [1e-12, 1.0, 1e12])
def test_units_do_not_matter(size):
    """Of the cost, and of every entry: powers of two, so that nothing is rounded."""
    h, g, low, high = problems(6, 20, 5)
    expected = box_qp(h, g, low, high, np.zeros_like(g))
    cost = 2.0 ** np.round(np.log2(size))
    units = 2.0 ** np.random.default_rng(0).integers(-20, 20, (20, 5))
    scaled = cost * h * units[:, :, None] * units[:, None, :], cost * g * units
    found = box_qp(*scaled, low / units, high / units, np.zeros_like(g))
    assert found.solved.all()
    np.testing.assert_allclose(found.d * units, expected.d, rtol=1e-11, atol=1e-13)
    np.testing.assert_array_equal(found.free, expected.free)


def test_random_problems_of_all_kinds_against_enumeration():
    rng = np.random.default_rng(2)
    for n in (1, 2, 3, 4):
        h, g, low, high = problems(n + 20, 60, n)
        equal = rng.random(g.shape) < 0.1
        high = np.where(equal, low, high)
        low = np.where(~equal & (rng.random(g.shape) < 0.2), -np.inf, low)
        high = np.where(~equal & (rng.random(g.shape) < 0.2), np.inf, high)
        g[::10] = 0.0
        found = box_qp(h, g, low, high, 5 * rng.normal(size=g.shape))
        assert found.solved.all()
        assert not found.free[equal].any()
        for row in range(60):
            with np.errstate(invalid="ignore"):  # 0 times infinity: such candidates are refused
                expected = enumerated(h[row], g[row], low[row], high[row])
            np.testing.assert_allclose(found.d[row], expected, atol=1e-10)


def test_what_is_not_finite_is_not_solved():
    h, g, low, high = problems(0, 4, 2)
    h[0, 0, 0], g[1, 0] = np.nan, np.inf
    start = np.zeros_like(g)
    start[2, 1] = np.nan
    found = box_qp(h, g, low, high, start)
    assert found.solved.tolist() == [False, False, False, True]


def test_too_few_iterations_are_not_a_solution():
    h, g, low, high = problems(9, 20, 6)
    found = box_qp(h, g, low, high, np.zeros_like(g), iterations=1)
    assert not found.solved.any()


def test_without_bounds_it_is_newtons_step_and_all_is_free():
    h, g, _, _ = problems(0, 8, 5)
    unlimited = np.full_like(g, np.inf)
    found = box_qp(h, g, -unlimited, unlimited, np.zeros_like(g))
    expected = -np.linalg.solve(h, g[:, :, None])[:, :, 0]
    np.testing.assert_allclose(found.d, expected, rtol=1e-10, atol=1e-12)
    assert found.free.all()


def test_entries_held_by_a_bound_are_told():
    h, g = np.eye(3)[None], np.array([[-5.0, 5.0, 0.1]])
    found = box_qp(h, g, -np.ones((1, 3)), np.ones((1, 3)), np.zeros((1, 3)))
    np.testing.assert_allclose(found.d, [[1.0, -1.0, -0.1]], atol=1e-14)
    assert found.free.tolist() == [[False, False, True]]


def test_rows_do_not_know_each_other():
    h, g, low, high = problems(4, 7, 3)
    together = box_qp(h, g, low, high, np.zeros_like(g))
    for row in range(7):
        part = slice(row, row + 1)
        alone = box_qp(h[part], g[part], low[part], high[part], np.zeros((1, 3)))
        np.testing.assert_allclose(together.d[part], alone.d, atol=1e-13)


def test_a_good_guess_is_kept():
    h, g, low, high = problems(5, 4, 6)
    once = box_qp(h, g, low, high, np.zeros_like(g))
    again = box_qp(h, g, low, high, once.d, iterations=1)
    assert again.solved.all()
    np.testing.assert_array_equal(again.d, once.d)
