"""E(x) against differences along mj_integratePos, and the identities that define its inverse."""

import numpy as np
import pytest
import torch

from mbrl.ops.tangent import TangentMap
from mbrl.physics import StateSpec
from tests import models
from tests.models import reference

MODEL = models.own("mixed")
SPEC = StateSpec(MODEL)
MAP = TangentMap(SPEC)


def states(n, seed=0):
    return torch.from_numpy(reference.random_states(MODEL, np.random.default_rng(seed), n))


def explicit(x, h=1e-6):
    """E(x) (nx, ndx), by differences."""
    columns = [
        (reference.retract(MODEL, x, h * e) - reference.retract(MODEL, x, -h * e)) / (2.0 * h)
        for e in np.eye(SPEC.ndx)
    ]
    return np.stack(columns, axis=1)


def test_push_is_the_derivative_of_integrate_pos():
    x = states(4)
    dx = torch.randn(4, SPEC.ndx, dtype=torch.float64)
    expected = np.stack([explicit(a) @ b for a, b in zip(x.numpy(), dx.numpy(), strict=True)])
    np.testing.assert_allclose(MAP.push(x, dx), expected, rtol=0.0, atol=1e-9)


def test_pull_is_the_pseudo_inverse():
    x, change = states(4), torch.randn(4, SPEC.nx, dtype=torch.float64)
    expected = np.stack(
        [np.linalg.pinv(explicit(a)) @ b for a, b in zip(x.numpy(), change.numpy(), strict=True)]
    )
    np.testing.assert_allclose(MAP.pull(x, change), expected, rtol=0.0, atol=1e-8)


@pytest.mark.parametrize("scale", [1.0, 1.7])  # quaternions need not be normalised
def test_pull_undoes_push(scale):
    x, dx = states(5), torch.randn(5, SPEC.ndx, dtype=torch.float64)
    for q in SPEC.quaternion_x:
        x[:, q] *= scale
    torch.testing.assert_close(MAP.pull(x, MAP.push(x, dx)), dx, rtol=0.0, atol=1e-13)
    torch.testing.assert_close(
        MAP.push_transposed(x, MAP.pull_transposed(x, dx)), dx, rtol=0.0, atol=1e-13
    )


def test_transposes_are_adjoint():
    x = states(5)
    dx, g = torch.randn(5, SPEC.ndx).double(), torch.randn(5, SPEC.nx).double()
    for one, other in (
        ((g * MAP.push(x, dx)).sum(1), (MAP.push_transposed(x, g) * dx).sum(1)),
        ((dx * MAP.pull(x, g)).sum(1), (MAP.pull_transposed(x, dx) * g).sum(1)),
    ):
        torch.testing.assert_close(one, other, rtol=0.0, atol=1e-12)


def test_what_pull_transposed_gives_is_tangent():
    x, costate = states(5), torch.randn(5, SPEC.ndx).double()
    gradient = MAP.pull_transposed(x, costate)
    for q in SPEC.quaternion_x:
        assert gradient[:, q].abs().sum() > 1.0
        assert (gradient[:, q] * x[:, q]).sum(1).abs().max() < 1e-14


def test_without_quaternions_every_map_is_the_identity():
    tangent = TangentMap(StateSpec(models.own("muscle")))
    x, v = torch.randn(3, 7), torch.randn(3, 7)
    assert tangent.is_identity
    assert not MAP.is_identity
    for apply in (tangent.push, tangent.pull, tangent.push_transposed, tangent.pull_transposed):
        assert apply(x, v) is v
