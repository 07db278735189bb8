"""The backward pass, native and in NumPy: against the textbook, each other, and enumeration."""

import sys

import numpy as np
import pytest

from mbrl.planning import riccati
from mbrl.planning.riccati import LocalModel, backward_pass, reference_pass
from tests.planning.test_box_qp import enumerated, hard_problems, problems, residual

SIZES = [(1, 1), (4, 1), (2, 3), (6, 2), (18, 6), (54, 21)]

needs_native = pytest.mark.skipif(
    riccati._NATIVE is None, reason="the native backward pass was not built"
)


def definite(rng, *shape):
    root = rng.normal(size=(*shape, shape[-1]))
    return root @ root.swapaxes(-1, -2) / shape[-1] + 0.05 * np.eye(shape[-1])


def random_problem(seed, ndx, nu, steps=9, batch=3):
    """A local problem, and bounds, some of them infinite."""
    rng = np.random.default_rng(seed)
    joint = definite(rng, steps, batch, ndx + nu)
    local = LocalModel(
        rng.normal(size=(steps, batch, ndx, ndx)) / ndx**0.5,
        rng.normal(size=(steps, batch, ndx, nu)) / ndx**0.5,
        rng.normal(size=(steps, batch, ndx)),
        rng.normal(size=(steps, batch, nu)),
        joint[..., :ndx, :ndx],
        joint[..., ndx:, :ndx],
        joint[..., ndx:, ndx:],
        rng.normal(size=(batch, ndx)),
        definite(rng, batch, ndx),
    )
    low, high = (
        -rng.uniform(0, 0.5, (steps, batch, nu)),
        rng.uniform(0, 0.5, (steps, batch, nu)),
    )
    low[rng.random(low.shape) < 0.1] = -np.inf
    high[rng.random(high.shape) < 0.1] = np.inf
    return local, low, high


def without_bounds(low):
    return np.full_like(low, -np.inf), np.full_like(low, np.inf)


def assert_same(found, expected):
    assert found.good.tolist() == expected.good.tolist()
    for name, one, other in zip(found._fields[:-1], found[:-1], expected[:-1], strict=True):
        scale = np.abs(other).max() + 1e-300
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-10 * scale, err_msg=name)


@needs_native
@pytest.mark.parametrize("of_state", [False, True])
@pytest.mark.parametrize(("ndx", "nu"), SIZES)
@pytest.mark.parametrize("bounded", [False, True])
def test_native_and_numpy_agree(ndx, nu, of_state, bounded):
    local, low, high = random_problem(ndx, ndx, nu)
    if not bounded:
        low, high = without_bounds(low)
    mu = np.array([0.0, 1e-3, 2.0])
    start = np.random.default_rng(0).normal(size=low.shape)
    expected = reference_pass(local, low, high, mu, start, of_state=of_state)
    found = backward_pass(local, low, high, mu, start, of_state=of_state)
    assert expected.good.all()
    assert ((expected.k == low) | (expected.k == high)).any() == bounded
    assert_same(found, expected)


@pytest.mark.parametrize("of_state", [False, True])
@pytest.mark.parametrize(("ndx", "nu"), SIZES)
def test_without_bounds_it_is_the_textbook(ndx, nu, of_state, implementation):
    """Minimise the whole quadratic of (u, x) at every step, V by the Schur complement."""
    local, low, _ = random_problem(ndx + 1, ndx, nu, steps=3, batch=1)
    mu = 0.7
    found = backward_pass(
        local, *without_bounds(low), np.array([mu]), np.zeros_like(low), of_state=of_state
    )
    p, v = local.final_xx[0], local.final_x[0]
    for t in reversed(range(len(low))):
        f = np.concatenate([local.b[t, 0], local.a[t, 0]], axis=1)
        upper = np.concatenate([local.uu[t, 0], local.ux[t, 0]], axis=1)
        lower = np.concatenate([local.ux[t, 0].T, local.xx[t, 0]], axis=1)
        q = np.concatenate([upper, lower]) + f.T @ p @ f
        linear = np.concatenate([local.u[t, 0], local.x[t, 0]]) + f.T @ v
        stiff = q + mu * (f.T @ f if of_state else np.eye(nu + ndx))
        law = -np.linalg.inv(stiff[:nu, :nu]) @ np.column_stack([linear[:nu], stiff[:nu, nu:]])
        np.testing.assert_allclose(found.k[t, 0], law[:, 0], rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(found.gains[t, 0], law[:, 1:], rtol=1e-8, atol=1e-8)
        close = np.concatenate([law[:, 1:], np.eye(ndx)])  # (u, x) as a function of x
        moved = np.concatenate([law[:, 0], np.zeros(ndx)])
        p, v = close.T @ q @ close, close.T @ (linear + q @ moved)


def as_box_qp(h, g, low, high, start):
    """A backward pass of one step: k solves the box QP, the gains are -H^{-1} on free entries."""
    batch, n = g.shape
    nothing = np.zeros((1, batch, n, n))
    local = LocalModel(
        nothing,
        nothing,
        nothing[..., 0],
        g[None],
        nothing,
        np.broadcast_to(np.eye(n), nothing.shape),
        h[None],
        nothing[0, ..., 0],
        nothing[0],
    )
    return backward_pass(local, low[None], high[None], np.zeros(batch), start[None])


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_feedforward_is_the_optimum_of_all_active_sets(n, implementation):
    h, g, low, high = problems(n, 20, n, 0.5)
    high[::5, 0] = low[::5, 0]
    start = np.random.default_rng(0).normal(size=g.shape)
    found = as_box_qp(h, g, low, high, start)
    assert found.good.all()
    for row in range(20):
        expected = enumerated(h[row], g[row], low[row], high[row])
        np.testing.assert_allclose(found.k[0, row], expected, atol=1e-10)
        held = (expected == low[row]) | (expected == high[row])
        inverse = np.zeros((n, n))
        free = np.ix_(~held, ~held)
        inverse[free] = np.linalg.inv(h[row][free])
        np.testing.assert_allclose(found.gains[0, row], -inverse, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("n", [2, 6, 21])
def test_ill_conditioned_problems_are_solved(n, implementation):
    h, g, low, high = hard_problems(n, 200, n)
    found = as_box_qp(h, g, low, high, np.zeros_like(g))
    assert found.good.all()
    assert residual(h, g, low, high, found.k[0]) < 1e-8


@needs_native
def test_native_and_numpy_find_the_same_point_of_hard_problems(monkeypatch):
    h, g, low, high = hard_problems(7, 100, 5)
    found = as_box_qp(h, g, low, high, np.zeros_like(g))
    monkeypatch.setattr(riccati, "_NATIVE", None)
    expected = as_box_qp(h, g, low, high, np.zeros_like(g))

    def value(d):
        return (d * (0.5 * np.einsum("bij,bj->bi", h, d) + g)).sum(axis=1)

    np.testing.assert_allclose(value(found.k[0]), value(expected.k[0]), rtol=1e-9)


def test_a_row_that_is_not_convex_fails_alone(implementation):
    local, low, high = random_problem(5, 4, 2)
    uu = local.uu.copy()
    uu[4, 1] -= 100 * np.eye(2)
    start = np.zeros_like(low)
    spoilt = backward_pass(local._replace(uu=uu), low, high, np.zeros(3), start)
    assert spoilt.good.tolist() == [True, False, True]
    for part in (spoilt.k[:, 1], spoilt.gains[:, 1], spoilt.linear[1], spoilt.quadratic[1]):
        assert not part.any()
    sound = backward_pass(local, low, high, np.zeros(3), start)
    assert sound.good.all()
    for name in ("k", "gains"):
        expected = getattr(sound, name)[:, [0, 2]]
        np.testing.assert_array_equal(getattr(spoilt, name)[:, [0, 2]], expected)
    for of_state in (False, True):
        mu = np.array([0.0, 1e4, 0.0])
        again = backward_pass(local._replace(uu=uu), low, high, mu, start, of_state=of_state)
        assert again.good.all()  # with enough regularisation


@pytest.mark.parametrize("part", ["a", "b", "x", "u", "xx", "ux", "uu", "final_x", "final_xx"])
@pytest.mark.parametrize("spoilt", [np.nan, np.inf])
def test_what_is_not_finite_fails_alone(part, spoilt, implementation):
    local, low, high = random_problem(6, 3, 2)
    value = getattr(local, part).copy()
    rows = value if part.startswith("final") else value[5]
    rows[1] = spoilt
    with np.errstate(invalid="ignore"):
        found = backward_pass(
            local._replace(**{part: value}), low, high, np.zeros(3), np.zeros_like(low)
        )
    assert found.good.tolist() == [True, False, True]
    assert not found.k[:, 1].any()
    assert np.isfinite(found.gains).all()


@pytest.mark.parametrize("of_state", [False, True])
def test_rows_do_not_know_each_other(of_state, implementation):
    local, low, high = random_problem(8, 6, 3, batch=5)
    mu, start = np.array([0.0, 1.0, 0.1, 0.0, 3.0]), np.zeros_like(low)
    together = backward_pass(local, low, high, mu, start, of_state=of_state)
    for row in range(5):
        one = np.arange(5) == row
        alone = backward_pass(
            local.rows(one), low[:, one], high[:, one], mu[one], start[:, one], of_state=of_state
        )
        np.testing.assert_array_equal(alone.k, together.k[:, one])
        np.testing.assert_array_equal(alone.gains, together.gains[:, one])
        np.testing.assert_array_equal(alone.linear, together.linear[one])


def test_the_solution_as_a_start_is_kept(implementation):
    local, low, high = random_problem(9, 12, 4)
    once = backward_pass(local, low, high, np.zeros(3), np.zeros_like(low))
    again = backward_pass(local, low, high, np.zeros(3), once.k)
    np.testing.assert_array_equal(again.k, once.k)


def test_without_a_compiler_there_is_numpy(monkeypatch):
    monkeypatch.setitem(sys.modules, "mbrl.planning._riccati", None)  # cannot be imported
    assert riccati._load() is None


@needs_native
def test_native_shapes_are_checked():
    local, low, high = random_problem(1, 3, 2, steps=4, batch=1)
    with pytest.raises(ValueError, match=r"low must have the shape \( 4 1 2 \)"):
        backward_pass(local, low[:2], high, np.zeros(1), np.zeros_like(low))
