"""Implicit gradients whose last product is given in closed form."""

import numpy as np
import torch

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
