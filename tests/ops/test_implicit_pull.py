"""Implicit gradients whose last product is given in closed form."""

import numpy as np
import pytest
import torch

from mbrl.errors import ArgumentError
from mbrl.ops import Identity, implicit_gradient


def test_a_pull_in_closed_form_stands_for_differentiating_the_condition():
    rng = np.random.default_rng(0)
    matrix, w, theta, gradient = (
        torch.from_numpy(rng.standard_normal(shape)) for shape in ((5, 3), 5, 3, 5)
    )
    scale = torch.tensor(3.0, dtype=torch.float64)

    def unknown(w, theta, scale):
        raise AssertionError

    def pull(z, w, theta, scale):
        return -scale * (z @ matrix)

    found = implicit_gradient(unknown, w, theta, gradient, scale, adjoint=Identity(), pull=pull)
    # F = w - 3 M theta, so that dL/dtheta = 3 M' dL/dw.
    np.testing.assert_allclose(found, 3 * matrix.T @ gradient, rtol=1e-12)


def test_what_a_pull_returns_is_known_by_its_names():
    w, gradient = torch.ones(2).double(), torch.tensor([2.0, 5.0]).double()
    theta = {"a": torch.zeros(()).double(), "b": torch.zeros(()).double()}

    def pull(z, w, theta):  # of F = w - (a, b)
        return {"b": -z[1], "a": -z[0]}

    found = implicit_gradient(lambda w, t: w, w, theta, gradient, adjoint=Identity(), pull=pull)
    assert {name: float(value) for name, value in found.items()} == {"a": 2.0, "b": 5.0}
    words = r"what pull returns must have the form of theta, .*, got \{'a': \[\]\}"
    with pytest.raises(ArgumentError, match=words):
        implicit_gradient(
            lambda w, t: w, w, theta, gradient, adjoint=Identity(), pull=lambda z, w, t: {"a": z[0]}
        )
