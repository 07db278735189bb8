"""Norms against their formulas as written, and autograd."""

import pytest
import torch

from mbrl.errors import ArgumentError, ConfigError
from mbrl.tasks.residual import NORMS
from mbrl.tasks.residual.norms import norm_of

P = 0.3
FORMULAS = {
    "quadratic": lambda r: 0.5 * (r * r).sum(),
    "l2": lambda r: torch.sqrt((r * r).sum() + P**2) - P,
    "smooth_abs": lambda r: (torch.sqrt(r * r + P**2) - P).sum(),
    "cosh": lambda r: (P**2 * (torch.cosh(r / P) - 1)).sum(),
}


def made(kind):
    return norm_of(kind if kind == "quadratic" else {"kind": kind, "p": P}, "norm")


def points():
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(6, 4, generator=generator, dtype=torch.float64)
    rows[0] = 0
    return rows


def test_every_norm_is_tested():
    assert set(FORMULAS) == set(NORMS)


@pytest.mark.parametrize("kind", FORMULAS)
def test_values_gradients_and_hessians(kind):
    norm, rows = made(kind), points()
    value, gradient, hessian = norm.value(rows), norm.gradient(rows), norm.hessian(rows)
    assert value.shape == (6,)
    assert gradient.shape == (6, 4)
    assert hessian.shape == (6, 4, 4)
    for i, r in enumerate(rows):
        close = {"rtol": 1e-12, "atol": 1e-13}
        torch.testing.assert_close(value[i], FORMULAS[kind](r), **close)
        wanted = torch.autograd.functional.jacobian(FORMULAS[kind], r)
        torch.testing.assert_close(gradient[i], wanted, **close)
        wanted = torch.autograd.functional.hessian(FORMULAS[kind], r)
        torch.testing.assert_close(hessian[i], wanted, **close)
    assert torch.linalg.eigvalsh(hessian).min() >= -1e-14


@pytest.mark.parametrize("kind", FORMULAS)
def test_values_are_differentiable(kind):
    rows = points().requires_grad_()
    (found,) = torch.autograd.grad(made(kind).value(rows).sum(), rows)
    torch.testing.assert_close(found, made(kind).gradient(rows.detach()), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", ["l2", "smooth_abs", "cosh"])
def test_small_residuals_keep_their_digits(kind):
    r = torch.full((1, 1), 1e-9, dtype=torch.float64)
    wanted = 0.5e-18 * {"l2": 1 / P, "smooth_abs": 1 / P, "cosh": 1.0}[kind]
    assert made(kind).value(r).item() == pytest.approx(wanted, rel=1e-12)


def test_names_alone_and_none():
    assert type(norm_of("l2", "norm")) is NORMS["l2"]
    assert type(norm_of(None, "norm")) is NORMS["quadratic"]


@pytest.mark.parametrize(
    ("declared", "error", "message"),
    [
        ("l3", ConfigError, r"^cost\.a\.norm\.kind: unknown value 'l3'; legal: .*mean 'l2'\?$"),
        ({"kind": "l2", "q": 1}, ConfigError, r"^unknown key 'cost\.a\.norm\.q'; legal: p"),
        ({"kind": "l2", "p": 0}, ArgumentError, r"^cost\.a\.norm\.p must be positive, got 0"),
        ({"kind": "cosh", "p": "x"}, ConfigError, r"^cost\.a\.norm\.p must be a finite number"),
        (3, ConfigError, r"^cost\.a\.norm must be a name or a mapping, got 3$"),
    ],
)
def test_bad_norms(declared, error, message):
    with pytest.raises(error, match=message):
        norm_of(declared, "cost.a.norm")
