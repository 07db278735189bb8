"""Implicit gradients against closed forms, and against differences through solved problems."""

import numpy as np
import pytest
import torch
from torch.func import functional_call, grad, jacrev, vmap

from mbrl.errors import ArgumentError, ForwardModeError, SecondDerivativeError
from mbrl.ops import (
    ConjugateGradient,
    Exact,
    Identity,
    Neumann,
    implicit_gradient,
    implicit_solution,
)
from tests.ops.implicit_problems import (
    NORMAL,
    POSITIVE,
    ROWS,
    RULES,
    TARGET,
    B,
    M,
    N,
    linear,
    normal,
    outer,
)

# torch itself, when forward mode is first used.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


def ridge(weights, theta, inputs, targets):
    """An inner loss of a network's parameters: not quadratic, strongly convex where it is used."""
    hidden = torch.tanh(inputs @ weights["matrix"])
    fit = (hidden @ weights["vector"] - targets).square().mean()
    decay = theta["decay"].exp() * (weights["matrix"] - theta["centre"]).square().sum()
    return fit + decay + 0.3 * weights["vector"].square().sum()


def newton(loss, weights, *arguments, steps=9):
    names, shapes = list(weights), [weights[name].shape for name in weights]
    sizes = [shape.numel() for shape in shapes]

    def unflat(point):
        parts = point.split(sizes)
        return {n: p.reshape(s) for n, p, s in zip(names, parts, shapes, strict=True)}

    point = torch.cat([weights[name].flatten() for name in names])
    gradient = grad(lambda p: loss(unflat(p), *arguments))
    for _ in range(steps):
        point = point - torch.linalg.solve(jacrev(gradient)(point), gradient(point))
    return unflat(point)


def network_problem(seed=0):
    rng = np.random.default_rng(seed)
    data = torch.from_numpy(rng.standard_normal((12, 3))), torch.from_numpy(rng.standard_normal(12))
    theta = {
        "decay": torch.tensor(0.3, dtype=torch.float64),
        "centre": torch.from_numpy(rng.standard_normal((3, 2))),
    }
    start = {"matrix": theta["centre"].clone(), "vector": torch.zeros(2, dtype=torch.float64)}
    return start, theta, data


def outer_of_network(weights):
    return weights["matrix"].sin().sum() + weights["vector"].square().sum()


def solve_network(theta, start, *data):
    return newton(ridge, start, theta, *data)


@pytest.mark.parametrize("rule", ["exact", "cg", "cg on the normal equations"])
def test_dicts_of_parameters_and_differences_through_the_converged_problem(rule):
    start, theta, data = network_problem()
    leaves = {name: value.clone().requires_grad_() for name, value in theta.items()}
    w = implicit_solution(
        lambda t, *d: solve_network(t, start, *d),
        grad(ridge),
        leaves,
        *data,
        adjoint=RULES[rule][0],
    )
    assert list(w) == ["matrix", "vector"]
    residual = grad(ridge)({name: value.detach() for name, value in w.items()}, theta, *data)
    assert max(float(value.abs().max()) for value in residual.values()) < 1e-13
    outer_of_network(w).backward()
    h = 1e-5
    for name, value in theta.items():
        expected = torch.zeros_like(value)
        for i in range(value.numel()):
            moved = torch.zeros(value.numel(), dtype=torch.float64)
            moved[i] = h
            ends = [
                outer_of_network(
                    solve_network(
                        {**theta, name: value + s * moved.reshape(value.shape)}, start, *data
                    )
                )
                for s in (1, -1)
            ]
            expected.view(-1)[i] = (ends[0] - ends[1]) / (2 * h)
        np.testing.assert_allclose(leaves[name].grad, expected, rtol=1e-6, atol=1e-8)


def test_a_quadratic_bilevel_problem_has_its_known_hypergradient_and_solution():
    """Inner: the ridge regression of weight exp(theta); outer: its error on other data."""
    x, y, other, expected_y = normal(8, N), normal(8), normal(6, N), normal(6)

    def inner(w, theta):
        return (x @ w - y).square().sum() / 2 + theta.exp() * w.square().sum() / 2

    def solve(theta):
        return torch.linalg.solve(x.T @ x + theta.exp() * torch.eye(N, dtype=x.dtype), x.T @ y)

    theta = torch.tensor(0.4, dtype=torch.float64, requires_grad=True)
    w = implicit_solution(solve, grad(inner), theta)
    loss = (other @ w - expected_y).square().sum() / 2
    loss.backward()
    gram = (x.T @ x).numpy() + np.exp(0.4) * np.eye(N)
    w_ = np.linalg.solve(gram, (x.T @ y).numpy())
    response = -np.exp(0.4) * np.linalg.solve(gram, w_)  # dw*/dtheta
    hypergradient = (other.numpy() @ w_ - expected_y.numpy()) @ other.numpy() @ response
    np.testing.assert_allclose(theta.grad, hypergradient, rtol=1e-10)


@pytest.mark.parametrize("rule", [*RULES, "identity"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_vmap_is_the_loop(rule, dtype):
    adjoint = Identity() if rule == "identity" else RULES[rule][0]
    thetas, shifts = normal(ROWS, M, dtype=dtype), normal(ROWS, N, dtype=dtype)
    a = POSITIVE.to(dtype)

    def loss(theta, shift):
        w = implicit_solution(
            lambda t, s: torch.linalg.solve(a, B.to(t) @ t + s),
            lambda w, t, s: a @ w + 0.1 * w**3 - B.to(t) @ t - s,
            theta,
            shift,
            adjoint=adjoint,
        )
        return outer(w)

    found = vmap(grad(loss))(thetas, shifts)
    assert found.dtype == dtype
    for row in range(ROWS):
        theta = thetas[row].clone().requires_grad_()
        (one,) = torch.autograd.grad(loss(theta, shifts[row]), theta)
        tolerance = 1e-10 if dtype == torch.float64 else 2e-4
        np.testing.assert_allclose(found[row], one, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("rule", [Exact(), ConjugateGradient(30, 1e-13), NORMAL, Neumann(3)])
def test_autograd_over_vmap_is_the_loop(rule):
    """Stacked problems of dicts, their solutions found under vmap, one backward over all."""
    problems = [network_problem(seed) for seed in range(3)]
    stacked = [
        {name: torch.stack([p[i][name] for p in problems]) for name in problems[0][i]}
        for i in (0, 1)
    ]
    data = [torch.stack([p[2][i] for p in problems]) for i in (0, 1)]
    leaves = {name: value.requires_grad_() for name, value in stacked[1].items()}

    def solution(theta, start, *data):
        return implicit_solution(
            solve_network, lambda w, t, start, *d: grad(ridge)(w, t, *d), theta, start, *data,
            adjoint=rule,
        )  # fmt: skip

    vmap(outer_of_network)(vmap(solution)(leaves, stacked[0], *data)).sum().backward()
    for row, (start, theta, given) in enumerate(problems):
        single = {name: value.clone().requires_grad_() for name, value in theta.items()}
        outer_of_network(solution(single, start, *given)).backward()
        for name in theta:
            np.testing.assert_allclose(
                leaves[name].grad[row], single[name].grad, rtol=1e-9, atol=1e-11
            )


def test_a_given_jacobian_solves_a_batch_of_problems_at_once():
    """One call on [ROWS, N], blocks in closed form, is ROWS calls."""
    thetas, damping = normal(ROWS, M), 0.1

    def condition(w, theta):
        return w @ POSITIVE.T + w**3 - theta @ B.T

    def jacobian(w, theta):
        return POSITIVE + torch.diag_embed(3 * w**2)

    def solve(theta):
        w = torch.zeros(*theta.shape[:-1], N, dtype=theta.dtype)
        for _ in range(30):
            w = w - torch.linalg.solve(jacobian(w, theta), condition(w, theta))
        return w

    together = thetas.clone().requires_grad_()
    w = implicit_solution(solve, condition, together, adjoint=Exact(jacobian), damping=damping)
    outer(w).backward()
    for row in range(ROWS):
        theta = thetas[row].clone().requires_grad_()
        outer(implicit_solution(solve, condition, theta, damping=damping)).backward()
        np.testing.assert_allclose(together.grad[row], theta.grad, rtol=1e-10)


def test_what_is_not_converged_has_the_gradient_of_the_formula():
    """K steps of gradient descent: -d<z, F(w_K; theta)>/dtheta at constant w_K and z."""
    theta = normal(M).requires_grad_()
    w_k = torch.zeros(N, dtype=torch.float64)
    for _ in range(2):
        w_k = w_k - 0.1 * (POSITIVE @ w_k - B @ theta.detach())

    def condition(w, theta):
        return (1 + theta.square().sum()) * (POSITIVE @ w - B @ theta)

    found = implicit_gradient(condition, w_k, theta.detach(), w_k - TARGET, adjoint=Identity())
    product = -(w_k - TARGET) @ condition(w_k, theta)
    (expected,) = torch.autograd.grad(product, theta)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert float((POSITIVE @ w_k - B @ theta.detach()).norm()) > 0.1  # indeed not converged


def test_networks_need_products_only():
    """Some 1e4 parameters, by functional_call: z = (H + damping)^-1 g, checked by its residual."""
    torch.manual_seed(0)
    network = torch.nn.Sequential(
        torch.nn.Linear(3, 96), torch.nn.Tanh(), torch.nn.Linear(96, 96), torch.nn.Tanh(),
        torch.nn.Linear(96, 1),
    ).double()  # fmt: skip
    w = {name: p.detach() for name, p in network.named_parameters()}
    inputs, theta = normal(32, 3), normal(32)

    def inner(w, theta):
        return (functional_call(network, w, (inputs,))[:, 0] - theta).square().mean()

    gradient = grad(inner)(w, normal(32))
    rule, found = ConjugateGradient(iterations=300, tolerance=1e-8, normal=True), {}

    def recorded(system, g):
        found["z"] = rule(system, g)
        found["residual"] = (system.times_transposed(found["z"]) - g).norm() / g.norm()
        return found["z"]

    by_theta = implicit_gradient(grad(inner), w, theta, gradient, adjoint=recorded, damping=1.0)
    assert found["residual"] < 1e-6
    parts = found["z"].split([value.numel() for value in w.values()])
    z = {name: part.reshape(w[name].shape) for name, part in zip(w, parts, strict=True)}
    _, along = torch.func.jvp(lambda w: functional_call(network, w, (inputs,))[:, 0], (w,), (z,))
    # d/dtheta of <z, dL/dw>, in which theta enters through -2 theta f / 32 alone.
    np.testing.assert_allclose(by_theta, 2 * along / 32, rtol=1e-9)


def test_nothing_flows_into_constants():
    theta, shift = normal(M).requires_grad_(), normal(N).requires_grad_()
    w = implicit_solution(
        lambda t, s: torch.linalg.solve(POSITIVE, B @ t + s),
        lambda w, t, s: POSITIVE @ w - B @ t - s,
        theta,
        shift,
    )
    assert torch.autograd.grad(outer(w), [theta, shift], allow_unused=True)[1] is None


def test_names_of_a_condition_may_come_in_another_order():
    theta = normal(2)
    w = {"a": 2 * theta[:1], "b": 3 * theta[1:]}

    def condition(w, theta):
        return {"b": w["b"] - 3 * theta[1:], "a": w["a"] - 2 * theta[:1]}

    upstream = {"b": normal(1), "a": normal(1)}
    for rule in (Exact(), Identity()):
        found = implicit_gradient(condition, w, theta, upstream, adjoint=rule)
        np.testing.assert_allclose(found, torch.cat([2 * upstream["a"], 3 * upstream["b"]]))


def test_second_derivatives_are_refused():
    solve, condition = linear(POSITIVE)
    theta = normal(M).requires_grad_()

    def loss(theta):
        return outer(implicit_solution(solve, condition, theta))

    (first,) = torch.autograd.grad(loss(theta), theta, create_graph=True)
    with pytest.raises(SecondDerivativeError, match="first derivatives only"):
        torch.autograd.grad(first.sum(), theta)
    with pytest.raises(SecondDerivativeError, match="first derivatives only"):
        jacrev(grad(loss))(theta.detach())
    with pytest.raises(ForwardModeError, match="first derivatives in reverse mode only"):
        torch.func.hessian(loss)(theta.detach())  # forward over reverse
    w = solve(theta.detach())
    direct = implicit_gradient(condition, w, theta, w - TARGET)
    with pytest.raises(SecondDerivativeError, match="first derivatives only"):
        torch.autograd.grad(direct.sum(), theta)


def test_forward_mode_is_refused():
    solve, condition = linear(POSITIVE)
    with pytest.raises(ForwardModeError, match="reverse mode only"):
        torch.func.jvp(lambda t: implicit_solution(solve, condition, t), (normal(M),), (normal(M),))


def test_wrong_forms_are_named():
    theta, w = normal(M), normal(N)
    with pytest.raises(ArgumentError, match=r"condition must have the form of w, \[5\], got \[4\]"):
        implicit_gradient(lambda w, t: w[:4] * t.sum(), w, theta, w)
    with pytest.raises(ArgumentError, match=r"gradient must have the form of w, \[5\], got \{'a'"):
        implicit_gradient(lambda w, t: w * t.sum(), w, theta, {"a": w})
