"""Errors of models, against errors made on purpose."""

import pytest
import torch

from mbrl.errors import ArgumentError
from mbrl.nn import MLPDynamics, one_step_error, open_loop_error
from tests.nn.systems import A, B, affine, normal, seeded, standardize


def exact(wrong_by):
    """x' = A x + B u, and a constant error."""
    model = MLPDynamics(3, 2, seeded(), hidden=(), dtype="float64")
    (layer,) = model.network
    with torch.no_grad():
        layer.weight.copy_(torch.cat([A - torch.eye(3), B], dim=1))
        layer.bias.copy_(torch.tensor(wrong_by))
    return model


def test_one_step_errors_are_root_mean_squares_by_coordinate():
    data = affine(10_000)
    model = exact([0.0, 0.0, 0.0])
    data = data._replace(
        next_states=data.states @ A.T + data.actions @ B.T + normal(3, 10_000, 3) * 0.3 + 0.4
    )
    report = one_step_error(model, data)
    torch.testing.assert_close(report.rmse, torch.full((3,), 0.5).double(), rtol=0.03, atol=0)
    torch.testing.assert_close(report.normalized, report.rmse)  # deviations are one so far


def test_predicting_the_mean_change_is_an_error_of_one():
    model, data = MLPDynamics(3, 2, seeded(), hidden=(), dtype="float64"), affine(5000)
    standardize(model, data)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    report = one_step_error(model, data)
    torch.testing.assert_close(report.normalized, torch.ones(3).double(), rtol=1e-3, atol=0)
    spread = (data.next_states - data.states).std(0)
    torch.testing.assert_close(report.rmse, spread, rtol=1e-3, atol=0)


def test_open_loop_errors_add_up_as_theory_says():
    """A constant error c of a linear model grows as (I + A + ... + A^(t-1)) c."""
    wrong_by = [0.01, -0.02, 0.03]
    model, steps, windows = exact(wrong_by), 5, 7
    states, actions = [normal(0, windows, 3)], normal(1, steps, windows, 2)
    for action in actions:
        states.append(states[-1] @ A.T + action @ B.T)
    report = open_loop_error(model, torch.stack(states), actions)
    grown = torch.zeros(3).double()
    for t in range(steps):
        grown = A @ grown + torch.tensor(wrong_by)
        expected = grown.expand(windows, 3)
        torch.testing.assert_close(report.errors[t], expected, rtol=0, atol=1e-12)
        torch.testing.assert_close(report.rmse[t], grown.abs(), rtol=0, atol=1e-12)
        whole = grown.square().mean().sqrt()
        torch.testing.assert_close(report.normalized[t], whole, rtol=0, atol=1e-12)


def test_normalized_open_loop_errors_are_in_deviations_of_the_states():
    model, data = MLPDynamics(3, 2, seeded(), hidden=(4,), dtype="float64"), affine(50)
    standardize(model, data)
    states, actions = normal(0, 3, 6, 3), normal(1, 2, 6, 2)
    report = open_loop_error(model, states, actions)
    expected = (report.rmse / data.states.std(0)).square().mean(1).sqrt()
    torch.testing.assert_close(report.normalized, expected, rtol=1e-5, atol=0)


def test_windows_and_actions_must_fit():
    with pytest.raises(ArgumentError, match=r"got \[4, 6, 3\] and \[4, 6, 2\]"):
        open_loop_error(exact([0.0] * 3), normal(0, 4, 6, 3), normal(1, 4, 6, 2))
