"""Soft Q functions, their gradients, likelihood and projections, against plain NumPy."""

import numpy as np
import pytest
import torch

from mbrl.algorithms.omd.soft_bellman import SoftBellman
from mbrl.algorithms.omd.tabular_model import TabularModels
from mbrl.errors import DivergenceError
from mbrl.tasks import TabularMDP
from mbrl.tasks.tabular import two_state
from tests.algorithms.omd import tables

ROWS = 6
BELLMAN = SoftBellman(two_state())
MODELS = TabularModels(BELLMAN)


def theta(rows=ROWS, seed=0, spread=0.05):
    """Models whose transitions are neither uniform nor certain."""
    dice = np.random.default_rng(seed)
    return {
        "logits": torch.from_numpy(spread * dice.uniform(size=(2, 2, 2, rows))),
        "rewards": torch.from_numpy(dice.uniform(-1, 1, size=(2, 2, rows))),
    }


def numpy_tables(models, row):
    logits = models["logits"][..., row].detach().numpy()
    return tables.softmax(logits), models["rewards"][..., row].detach().numpy()


def solved(models, exact=True, start=None):
    rows = models["rewards"].shape[-1]
    start = torch.zeros(2, 2, rows, dtype=torch.float64) if start is None else start
    return MODELS.q_functions(models, start, exact)


def test_the_process_is_that_of_the_paper():
    """Against its published optimum, and value iteration."""
    q = MODELS.q_optimal[..., 0].numpy()
    np.testing.assert_allclose(q, tables.Q_OPT, atol=1e-6)
    np.testing.assert_allclose(q, tables.value_iteration(tables.P, tables.R), atol=1e-11)
    hard = np.eye(2)[tables.Q_OPT.argmax(axis=1)]
    assert abs(tables.evaluated(hard) - tables.OPTIMAL_RETURN) < 1e-6
    # The soft policy of a small temperature comes as near as rounding lets it.
    sharp = SoftBellman(two_state(temperature=1e-4))
    assert abs(float(sharp.returns(MODELS.q_optimal)[0]) - tables.OPTIMAL_RETURN) < 1e-6
    assert abs(float(BELLMAN.returns(MODELS.q_optimal)[0]) - 1.02725509) < 1e-8


def test_fixed_points_and_returns_are_those_of_value_iteration():
    models = theta()
    start = torch.from_numpy(np.random.default_rng(1).uniform(-20, 20, size=(2, 2, ROWS)))
    q = solved(models, start=start)
    returns = BELLMAN.returns(q)
    for row in range(ROWS):
        expected = tables.value_iteration(*numpy_tables(models, row))
        np.testing.assert_allclose(q[..., row], expected, atol=1e-11)
        pi = tables.policy(expected)
        np.testing.assert_allclose(returns[row], tables.evaluated(pi), atol=1e-10)
        np.testing.assert_allclose(BELLMAN.soft(q)[1][..., row], pi, atol=1e-9)


def test_larger_processes_of_no_symmetry():
    dice = np.random.default_rng(2)
    p, start = dice.dirichlet(np.ones(4), size=(4, 3)), dice.dirichlet(np.ones(4))
    r = torch.from_numpy(dice.normal(size=(4, 3)))
    mdp = TabularMDP(torch.from_numpy(p), r, 0.8, torch.from_numpy(start), 0.3)
    bellman = SoftBellman(mdp)
    q = TabularModels(bellman).q_optimal
    iterated = torch.zeros(4, 3, 1, dtype=torch.float64)
    for _ in range(200):
        values = 0.3 * torch.logsumexp(iterated[..., 0] / 0.3, dim=1)
        iterated = (mdp.rewards + 0.8 * mdp.transitions @ values)[..., None]
    np.testing.assert_allclose(q, iterated, atol=1e-11)
    pi = torch.softmax(q[..., 0] / 0.3, dim=1)
    state, total = mdp.initial, 0.0
    for t in range(200):
        total += 0.8**t * float(state @ (pi * mdp.rewards).sum(1))
        state = torch.einsum("s,sa,sap->p", state, pi, mdp.transitions)
    np.testing.assert_allclose(bellman.returns(q)[0], total, atol=1e-11)


@pytest.mark.parametrize("objective", ["returns", "bellman"])
def test_exact_gradients_are_differences_through_value_iteration(objective):
    models = theta(3)
    leaves = {name: value.clone().requires_grad_() for name, value in models.items()}
    q = solved(leaves)
    if objective == "returns":
        losses = BELLMAN.returns(q)
    else:
        losses = BELLMAN.bellman_errors(q).square().mean((0, 1))
    losses.sum().backward()

    def outer(moved, row):
        iterated = tables.value_iteration(*numpy_tables(moved, row), sweeps=600)
        if objective == "returns":
            return tables.evaluated(tables.policy(iterated))
        return float(np.square(tables.backup(iterated, tables.P, tables.R) - iterated).mean())

    for name, h in (("logits", 1e-6), ("rewards", 1e-6)):
        gradient, expected = leaves[name].grad, torch.zeros_like(models[name])
        for index in np.ndindex(tuple(models[name].shape)):
            ends = []
            for sign in (1, -1):
                moved = {key: value.clone() for key, value in models.items()}
                moved[name][index] += sign * h
                ends.append(outer(moved, index[-1]))
            expected[index] = (ends[0] - ends[1]) / (2 * h)
        scale = float(expected.abs().max())
        assert scale > 1e-3
        np.testing.assert_allclose(gradient, expected, atol=1e-5 * scale)


def test_the_identity_leaves_the_inverse_out_row_by_row():
    models = {name: value.requires_grad_() for name, value in theta(4).items()}
    exact = torch.tensor([True, False, True, False])
    mixed = solved(models, exact)
    upstream = torch.from_numpy(np.random.default_rng(3).normal(size=(2, 2, 4)))
    found = torch.autograd.grad(mixed, list(models.values()), upstream)
    whole = torch.autograd.grad(solved(models, True), list(models.values()), upstream)
    # One application of the operator to a constant Q*: dB/dtheta alone.
    once = BELLMAN.backup(mixed.detach(), *MODELS.tables(models))
    direct = torch.autograd.grad(once, list(models.values()), upstream)
    for mine, right, short in zip(found, whole, direct, strict=True):
        np.testing.assert_allclose(mine[..., exact], right[..., exact], rtol=1e-12)
        np.testing.assert_allclose(mine[..., ~exact], short[..., ~exact], rtol=1e-12)
        assert not np.allclose(right, short, rtol=0.1)


def test_likelihood_is_that_of_numpy():
    models = theta()
    losses = MODELS.likelihood_losses(models)
    for row in range(ROWS):
        p, r = numpy_tables(models, row)
        divergence = (tables.P * np.log(tables.P / p)).sum(axis=2).mean()
        expected = np.square(r - tables.R).mean() + divergence
        np.testing.assert_allclose(losses[row], expected, rtol=1e-12)


def test_the_joint_projection_by_hand():
    # |l / tau|^2 + |r|^2 = 8 * 6^2 + 4 * 3^2 = 18^2.
    models = {
        "logits": torch.full((2, 2, 2, 3), 0.06, dtype=torch.float64),
        "rewards": torch.full((2, 2, 3), 3.0, dtype=torch.float64),
    }
    bounds = torch.tensor([9.0, 18.5, 0.0], dtype=torch.float64)
    MODELS.project(models, bounds, "joint")
    for row, factor in enumerate((0.5, 1.0, 0.0)):
        np.testing.assert_allclose(models["logits"][..., row], 0.06 * factor, rtol=1e-12)
        np.testing.assert_allclose(models["rewards"][..., row], 3.0 * factor, rtol=1e-12)


def test_the_projection_of_each_array_by_hand():
    models = {
        "logits": torch.zeros((2, 2, 2, 2), dtype=torch.float64),
        "rewards": torch.zeros((2, 2, 2), dtype=torch.float64),
    }
    models["logits"][:, 0] = 0.02  # of action 0: |l_0 / tau|^2 = 4 * 2^2
    models["logits"][:, 1] = 1.5  # of action 1: |l_1|^2 = 4 * 1.5^2; together 5^2
    models["rewards"][0] = 0.03  # of state 0: |r_0 / tau|^2 = 2 * 3^2
    models["rewards"][1] = -3.0  # of state 1: |r_1|^2 = 2 * 3^2; together 6^2
    before = {name: value.clone() for name, value in models.items()}
    MODELS.project(models, torch.tensor([2.5, 5.5], dtype=torch.float64), "per_array")
    np.testing.assert_allclose(models["logits"][..., 0], before["logits"][..., 0] / 2, rtol=1e-12)
    np.testing.assert_array_equal(models["logits"][..., 1], before["logits"][..., 1])
    for row, factor in enumerate((2.5 / 6, 5.5 / 6)):
        expected = before["rewards"][..., row] * factor
        np.testing.assert_allclose(models["rewards"][..., row], expected, rtol=1e-12)


@pytest.mark.parametrize("of_parts", [False, True])
def test_estimates_are_those_of_numpy_and_bounds_hold(of_parts):
    models = theta(40, spread=0.03)
    q = solved(models)
    found = MODELS.estimates(models, q, of_parts=of_parts)
    for row in range(40):
        p, r = numpy_tables(models, row)
        mine = q[..., row].numpy()
        error = np.abs(mine - tables.Q_OPT).max()
        np.testing.assert_allclose(found.q_errors[row], error, atol=1e-7)
        if of_parts:
            of_transitions = np.abs(p - tables.P).sum(axis=2).max()
            expected = np.abs(r - tables.R).max() / 0.1 + 0.9 * of_transitions * 0.5 / (2 * 0.01)
        else:
            gaps = tables.backup(mine, tables.P, tables.R) - tables.backup(mine, p, r)
            expected = np.abs(gaps).max() / 0.1
        np.testing.assert_allclose(found.q_error_bounds[row], expected, rtol=1e-9)
        assert found.q_error_bounds[row] >= error
        np.testing.assert_allclose(
            found.returns[row], tables.evaluated(tables.policy(mine)), atol=1e-10
        )


def test_tables_that_are_not_finite_are_refused():
    models = theta(2)
    models["rewards"][0, 0, 1] = float("nan")
    with pytest.raises(DivergenceError, match="not finite"):
        solved(models)
