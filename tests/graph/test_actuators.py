"""Maps into the bounds of actuators."""

import numpy as np
import torch

from mbrl.graph.actuators import Bounds

LOG_2 = torch.tensor([1.0, -1.0]).double() * np.log(2)


def test_bounds_leave_the_middle_where_it_is():
    low, high = torch.tensor([-1.0, -torch.inf]).double(), torch.tensor([3.0, torch.inf]).double()
    value = torch.tensor([[1.0, 7.0], [1.001, -7.0], [40.0, 0.0], [-40.0, 0.0]]).double()
    squashed = Bounds(low, high, "squash")(value)
    torch.testing.assert_close(squashed[:2], value[:2], rtol=1e-8, atol=1e-8)
    torch.testing.assert_close(squashed[2:, 0], torch.tensor([3.0, -1.0]).double())
    clipped = Bounds(low, high, "clip")(value)
    assert clipped.tolist() == [[1.0, 7.0], [value[1, 0], -7.0], [3.0, 0.0], [-1.0, 0.0]]


def test_a_single_bound_leaves_what_is_far_inside():
    inf = torch.inf
    low, high = torch.tensor([5.0, -inf]).double(), torch.tensor([inf, -2.0]).double()
    value = torch.tensor([[40.0, -40.0], [5.0, -2.0], [-40.0, 40.0]]).double()
    squashed = Bounds(low, high, "squash")(value)
    torch.testing.assert_close(squashed[0], value[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(squashed[1], torch.tensor([5.0, -2.0]).double() + LOG_2)
    torch.testing.assert_close(squashed[2], torch.tensor([5.0, -2.0]).double(), rtol=0, atol=1e-12)
    clipped = Bounds(low, high, "clip")(value)
    assert clipped.tolist() == [[40.0, -40.0], [5.0, -2.0], [5.0, -2.0]]
