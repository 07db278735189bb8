"""Rules for the adjoint against the closed form of linear problems."""

import itertools

import numpy as np
import pytest
import torch

from mbrl.errors import ArgumentError
from mbrl.ops import (
    AdjointSystem,
    ConjugateGradient,
    Identity,
    Neumann,
    implicit_gradient,
    implicit_solution,
)
from tests.ops.implicit_problems import (
    CASES,
    MATRICES,
    POSITIVE,
    RULES,
    TARGET,
    UNSYMMETRIC,
    B,
    M,
    N,
    linear,
    normal,
    outer,
)


def solved_in_numpy(a, theta):
    """The gradient of |A^-1 B theta - target|^2 / 2."""
    map_ = np.linalg.solve(a.numpy(), B.numpy())
    return map_.T @ (map_ @ theta.numpy() - TARGET.numpy())


@pytest.mark.parametrize(("rule", "kind"), CASES)
def test_the_gradient_of_a_linear_problem_is_the_closed_form(rule, kind):
    a, theta = MATRICES[kind], normal(M).requires_grad_()
    solve, condition = linear(a)
    w = implicit_solution(solve, condition, theta, adjoint=RULES[rule][0])
    np.testing.assert_allclose(a @ w.detach(), B @ theta.detach(), atol=1e-12)
    (found,) = torch.autograd.grad(outer(w), theta)
    np.testing.assert_allclose(found, solved_in_numpy(a, theta.detach()), rtol=1e-9, atol=1e-9)


def test_conjugate_gradients_alone_do_not_solve_what_is_unsymmetric():
    theta = normal(M).requires_grad_()
    solve, condition = linear(UNSYMMETRIC)
    plain = ConjugateGradient(iterations=60, tolerance=1e-13)
    w = implicit_solution(solve, condition, theta, adjoint=plain)
    (found,) = torch.autograd.grad(outer(w), theta)
    expected = solved_in_numpy(UNSYMMETRIC, theta.detach())
    assert not np.allclose(found, expected, rtol=0.1)


@pytest.mark.parametrize(("rule", "kind"), CASES)
def test_damping_is_added_to_the_jacobian(rule, kind):
    a, theta, damping = MATRICES[kind], normal(M).requires_grad_(), 0.2
    solve, condition = linear(a)
    w = implicit_solution(solve, condition, theta, adjoint=RULES[rule][0], damping=damping)
    (found,) = torch.autograd.grad(outer(w), theta)
    error = np.linalg.solve(a.numpy(), (B @ theta.detach()).numpy()) - TARGET.numpy()
    expected = B.numpy().T @ np.linalg.solve(a.numpy().T + damping * np.eye(N), error)
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-9)


def test_identity_leaves_the_inverse_out():
    theta = normal(M).requires_grad_()
    solve, condition = linear(POSITIVE)
    w = implicit_solution(solve, condition, theta, adjoint=Identity(), damping=3.0)
    (found,) = torch.autograd.grad(outer(w), theta)
    np.testing.assert_allclose(found, B.T @ (w.detach() - TARGET), rtol=1e-12)


def test_a_neumann_series_approaches_the_exact_gradient_geometrically():
    theta, step = normal(M), 0.3
    solve, condition = linear(POSITIVE)
    w = solve(theta)
    exact = implicit_gradient(condition, w, theta, w - TARGET)
    terms = (1, 10, 20, 40, 80)
    rules = [Neumann(terms=n, step=step) for n in terms]
    errors = [
        float((implicit_gradient(condition, w, theta, w - TARGET, adjoint=r) - exact).norm())
        for r in rules
    ]
    first = implicit_gradient(condition, w, theta, w - TARGET, adjoint=rules[0])
    np.testing.assert_allclose(first, step * B.T @ (w - TARGET), rtol=1e-12)
    rate = float(torch.linalg.eigvalsh(torch.eye(N) - step * POSITIVE).abs().max())
    bound = float(
        torch.linalg.norm(B, 2) * torch.linalg.norm(torch.linalg.solve(POSITIVE, w - TARGET))
    )
    for n, error in zip(terms, errors, strict=True):
        assert error <= bound * rate**n
    assert all(late < early for early, late in itertools.pairwise(errors))


def test_conjugate_gradients_are_exact_after_n_iterations_and_not_before():
    theta = normal(M)
    solve, condition = linear(POSITIVE)
    w = solve(theta)
    exact = implicit_gradient(condition, w, theta, w - TARGET)

    def error(iterations):
        rule = ConjugateGradient(iterations=iterations, tolerance=0.0)
        found = implicit_gradient(condition, w, theta, w - TARGET, adjoint=rule)
        return float((found - exact).norm() / exact.norm())

    assert error(1) > 1e-3
    assert error(N) < 1e-9
    assert error(10 * N) < 1e-9  # going on after the solution is found does no harm


def test_conjugate_gradients_stop_at_their_tolerance():
    calls = []

    def condition(w, theta):
        calls.append(None)
        return POSITIVE @ w - B @ theta

    theta = normal(M)
    w = linear(POSITIVE)[0](theta)
    rule = ConjugateGradient(iterations=100, tolerance=0.3)
    z = []

    def recorded(system, gradient):
        z.append(rule(system, gradient))
        return z[0]

    implicit_gradient(condition, w, theta, w - TARGET, adjoint=recorded)
    residual = (POSITIVE @ z[0] - (w - TARGET)).norm() / (w - TARGET).norm()
    assert 1e-9 < residual <= 0.3


def blocks(seeds=3, n=6):
    """Symmetric systems, very different in size and condition, as one."""
    generator = torch.Generator().manual_seed(8)
    roots = normal(seeds, n, n, generator=generator)
    matrices = roots @ roots.mT + 0.1 * torch.eye(n, dtype=torch.float64)
    matrices *= torch.tensor([1.0, 100.0, 1e-3], dtype=torch.float64)[:, None, None]
    right = normal(seeds, n, generator=generator)
    return matrices, side_by_side(matrices), right


def side_by_side(matrices):
    w = torch.zeros(matrices.shape[:-1], dtype=torch.float64)
    return AdjointSystem(lambda w, _: (matrices @ w[..., None])[..., 0], w, w)


def test_conjugate_gradients_solve_every_blocks_own_system():
    matrices, system, right = blocks()
    rule = ConjugateGradient(iterations=60, tolerance=1e-12, blocks=3)
    found = rule(system, right.flatten()).view(3, -1)
    wanted = np.linalg.solve(matrices.numpy(), right.numpy()[..., None])[..., 0]
    np.testing.assert_allclose(found, wanted, rtol=1e-6)


@pytest.mark.parametrize("iterations", [1, 2, 4])
def test_a_blocks_iterates_are_its_own(iterations):
    matrices, system, right = blocks()
    right[1] = 0.0
    found = ConjugateGradient(iterations, blocks=3)(system, right.flatten()).view(3, -1)
    assert not bool(found[1].any())
    for seed in (0, 2):
        single = ConjugateGradient(iterations)(side_by_side(matrices[seed]), right[seed])
        torch.testing.assert_close(found[seed], single, rtol=1e-9, atol=1e-12)
        # The minimiser of the quadratic in the Krylov space, by least squares.
        a, b = matrices[seed].numpy(), right[seed].numpy()
        space, _ = np.linalg.qr(
            np.stack([np.linalg.matrix_power(a, k) @ b for k in range(iterations)], 1)
        )
        wanted = space @ np.linalg.solve(space.T @ a @ space, space.T @ b)
        np.testing.assert_allclose(found[seed], wanted, rtol=1e-5)


def test_the_normal_equations_never_end_worse_than_zero_where_the_system_is_indefinite():
    """Before they have converged, too; without them the residual grows first."""
    matrices, _, right = blocks()
    matrices = matrices - 0.5 * matrices.diagonal(dim1=1, dim2=2).mean(1)[
        :, None, None
    ] * torch.eye(6)
    assert bool((torch.linalg.eigvalsh(matrices).sign().sum(1).abs() < 6).all())
    system, plain, squared = side_by_side(matrices), [], []
    for iterations in (1, 2, 3, 4, 60):
        for residuals, both in ((plain, False), (squared, True)):
            rule = ConjugateGradient(iterations, tolerance=1e-14, normal=both, blocks=3)
            z = rule(system, right.flatten())
            residual = system.residual(z, right).view(3, -1)
            wanted = (matrices @ z.view(3, -1, 1))[..., 0] - right
            torch.testing.assert_close(residual, wanted)
            residuals.append(residual.norm(dim=1) / right.norm(dim=1))
    for early, late in itertools.pairwise([torch.ones(3), *squared]):
        assert bool((late <= early * (1 + 1e-9)).all())
    assert bool((squared[-1] < 1e-6).all())
    assert float(torch.stack(plain[:-1]).max()) > 2


def test_blocks_must_divide_the_problem():
    _, system, right = blocks()
    with pytest.raises(
        ArgumentError, match="blocks must be a divisor of the entries of w, 18, got 4"
    ):
        ConjugateGradient(blocks=4)(system, right.flatten())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ConjugateGradient(iterations=0), "iterations must be at least 1, got 0"),
        (lambda: ConjugateGradient(tolerance=-1.0), "tolerance must be at least 0, got -1.0"),
        (lambda: ConjugateGradient(blocks=0), "blocks must be at least 1, got 0"),
        (lambda: Neumann(terms=0), "terms must be at least 1, got 0"),
        (lambda: Neumann(step=0.0), "step must be positive, got 0.0"),
    ],
)
def test_options_out_of_range_are_named(make, message):
    with pytest.raises(ArgumentError, match=message):
        make()
