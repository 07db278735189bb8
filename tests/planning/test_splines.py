"""Splines: what interpolation promises, and the algebra of knots and actions."""

import numpy as np
import pytest
import torch

from mbrl.errors import ArgumentError
from mbrl.planning.splines import Spline

KINDS = ["zero", "linear", "cubic"]
SIZES = [(1, 1), (5, 1), (5, 2), (7, 3), (9, 5), (10, 4), (12, 11), (6, 6), (25, None)]


def random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("horizon", "knots"), SIZES)
class TestAlgebra:
    def test_weights_of_every_step_sum_to_one(self, kind, horizon, knots):
        matrix = Spline(horizon, knots, kind).matrix
        torch.testing.assert_close(matrix.sum(1), torch.ones(horizon, dtype=torch.float64))

    def test_constants_are_reproduced(self, kind, horizon, knots):
        spline = Spline(horizon, knots, kind)
        actions = spline(torch.full((spline.knots, 3), 0.7, dtype=torch.float64))
        torch.testing.assert_close(actions, torch.full((horizon, 3), 0.7, dtype=torch.float64))

    def test_fitting_undoes_interpolation(self, kind, horizon, knots):
        spline = Spline(horizon, knots, kind)
        theta = random(spline.knots, 4, 2)
        torch.testing.assert_close(spline.fit(spline(theta)), theta, rtol=1e-10, atol=1e-10)

    def test_pull_is_the_adjoint(self, kind, horizon, knots):
        spline = Spline(horizon, knots, kind)
        theta = random(spline.knots, 3).requires_grad_()
        weights = random(horizon, 3)
        (expected,) = torch.autograd.grad((spline(theta) * weights).sum(), theta)
        torch.testing.assert_close(spline.pull(weights), expected)

    def test_actions_are_the_matrix_times_the_knots(self, kind, horizon, knots):
        spline = Spline(horizon, knots, kind)
        theta = random(spline.knots, 3)
        torch.testing.assert_close(spline(theta), spline.matrix @ theta)

    def test_the_fit_leaves_a_residual_orthogonal_to_every_spline(self, kind, horizon, knots):
        spline = Spline(horizon, knots, kind)
        actions = random(horizon, 2)
        rest = actions - spline(spline.fit(actions))
        inner = spline.matrix.mT @ rest
        torch.testing.assert_close(inner, torch.zeros_like(inner), rtol=0, atol=1e-12)


@pytest.mark.parametrize("kind", ["linear", "cubic"])
@pytest.mark.parametrize(("horizon", "knots"), [(5, 2), (9, 5), (10, 4), (13, 4)])
def test_lines_are_reproduced(kind, horizon, knots):
    theta = 2.0 - 3.0 * torch.linspace(0, 1, knots, dtype=torch.float64)
    expected = 2.0 - 3.0 * torch.linspace(0, 1, horizon, dtype=torch.float64)
    torch.testing.assert_close(Spline(horizon, knots, kind)(theta), expected)


@pytest.mark.parametrize("kind", ["linear", "cubic"])
def test_knots_are_interpolated(kind):
    theta = random(5, 2)
    torch.testing.assert_close(Spline(13, 5, kind)(theta)[::3], theta)  # (13 - 1) / (5 - 1) = 3


@pytest.mark.parametrize("kind", KINDS)
def test_with_a_knot_for_every_action_nothing_is_interpolated(kind):
    torch.testing.assert_close(
        Spline(6, None, kind).matrix, torch.eye(6, dtype=torch.float64), rtol=0, atol=0
    )


def test_zero_order_holds_each_knot_for_an_equal_share():
    theta = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    assert Spline(6, 3, "zero")(theta).tolist() == [1, 1, 2, 2, 3, 3]


def test_linear_is_what_numpy_interpolates():
    theta = random(4).numpy()
    expected = np.interp(np.linspace(0, 3, 11), np.arange(4), theta)
    found = Spline(11, 4, "linear")(torch.from_numpy(theta))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


def test_cubic_reproduces_parabolas_between_inner_knots():
    # Central differences are the exact slopes of a parabola, and Hermite's cubic is exact then.
    place = torch.linspace(0, 4, 17, dtype=torch.float64)
    found = Spline(17, 5, "cubic")(torch.arange(5, dtype=torch.float64) ** 2)
    torch.testing.assert_close(found[4:13], (place**2)[4:13])
    assert (found[:4] - (place**2)[:4]).abs().max() > 0.05  # one-sided slopes at the ends


@pytest.mark.parametrize("knots", [0, -1, 6])
def test_a_number_of_knots_that_cannot_be(knots):
    with pytest.raises(ArgumentError, match=f"knots must lie between 1 and .* 5, got {knots}"):
        Spline(5, knots)


def test_an_unknown_interpolation():
    with pytest.raises(
        ArgumentError, match=r"^interpolation: unknown value 'cubik'.*; did you mean 'cubic'\?$"
    ):
        Spline(5, 2, "cubik")
