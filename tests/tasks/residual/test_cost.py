"""Costs against sums written out, their expansions against autograd and differences."""

import copy
import pickle

import numpy as np
import pytest
import torch

from mbrl.errors import ArgumentError, ConfigError, DivergenceError, SecondDerivativeError
from mbrl.ops import MujocoDynamics
from mbrl.physics import Simulator
from mbrl.tasks.residual import ResidualCost
from tests import models
from tests.models import reference
from tests.tasks.residual.test_residuals import at, velocity

TERMS = {
    "height": {
        "residual": {"kind": "site_position", "site": "left", "axes": "z", "target": 1.2},
        "norm": {"kind": "l2", "p": 0.2},
        "weight": 3,
    },
    "still": {
        "residual": {"kind": "site_velocity", "site": "right"},
        "norm": {"kind": "smooth_abs", "p": 0.3},
        "weight": 0.5,
    },
    "pose": {"residual": {"kind": "posture"}, "norm": {"kind": "cosh", "p": 2.0}},
    "effort": {"residual": {"kind": "control"}, "weight": 0.1},
}


def written_out(model, x, u):
    """The same cost, from MjData."""
    data = at(model, x, u)
    height = data.site("left").xpos[2] - 1.2
    moving = velocity(model, data, 6, "right")
    pose = reference.difference(model, reference.read(at_rest(model)), x)[: model.nv]
    return (
        3 * (np.sqrt(height**2 + 0.2**2) - 0.2)
        + 0.5 * (np.sqrt(moving**2 + 0.3**2) - 0.3).sum()
        + (4 * (np.cosh(pose / 2) - 1)).sum()
        + 0.1 * 0.5 * (u @ u)
    )


def at_rest(model):
    return at(model, np.concatenate([model.qpos0, np.zeros(model.nv)]), np.zeros(model.nu))


def setting(n=4):
    model = models.own("free")
    rng = np.random.default_rng(0)
    states = reference.random_states(model, rng, n)
    ctrls = rng.uniform(-1, 1, (n, model.nu))
    return model, ResidualCost(Simulator(model, threads=1), TERMS), states, ctrls


def tensors(*arrays):
    return [torch.from_numpy(np.asarray(array)) for array in arrays]


def along(model, x, u, eps=1e-6):
    """Centred differences of the cost written out, along every tangent and every control."""
    found = []
    for j in range(2 * model.nv + model.nu):
        ends = []
        for h in (-eps, eps):
            dx, du = np.zeros(2 * model.nv), np.zeros(model.nu)
            (dx if j < 2 * model.nv else du)[j if j < 2 * model.nv else j - 2 * model.nv] = h
            ends.append(written_out(model, reference.retract(model, x, dx), u + du))
        found.append((ends[1] - ends[0]) / (2 * eps))
    return np.array(found)


def test_the_value_is_the_weighted_sum():
    model, cost, states, ctrls = setting()
    assert cost.size == 1 + 3 + 6 + model.nu
    assert cost.names == list(TERMS)
    found = cost(*tensors(states, ctrls))
    wanted = [written_out(model, x, u) for x, u in zip(states, ctrls, strict=True)]
    np.testing.assert_allclose(found, wanted, rtol=1e-12)
    np.testing.assert_allclose(cost.expand(*tensors(states, ctrls)).value, wanted, rtol=1e-12)
    assert found.dtype == torch.float64
    single = cost(*(value.float() for value in tensors(states, ctrls)))
    np.testing.assert_allclose(single, wanted, rtol=1e-5)


def test_gradients_of_value_and_expansion():
    model, cost, states, ctrls = setting()
    x, u = (value.requires_grad_() for value in tensors(states, ctrls))
    by_x, by_u = torch.autograd.grad(cost(x, u).sum(), (x, u))
    e = cost.expand(x, u)
    for i in range(len(states)):
        wanted = along(model, states[i], ctrls[i])
        tangent = e.gradient[i] @ torch.cat([e.jx[i], e.ju[i]], dim=1)
        np.testing.assert_allclose(tangent, wanted, rtol=1e-6, atol=1e-7)
        np.testing.assert_allclose(by_u[i], wanted[2 * model.nv :], rtol=1e-6, atol=1e-7)
        for j in range(2 * model.nv):
            ends = [
                reference.retract(model, states[i], h * np.eye(2 * model.nv)[j])
                for h in (-1e-6, 1e-6)
            ]
            direction = (ends[1] - ends[0]) / 2e-6
            assert by_x[i].numpy() @ direction == pytest.approx(wanted[j], rel=1e-6, abs=1e-6)


def test_the_hessian_is_that_of_the_norms():
    _, cost, states, ctrls = setting(2)
    e = cost.expand(*tensors(states, ctrls))
    residuals = cost.residuals(*tensors(states, ctrls))
    for i in range(2):

        def total(r):
            return torch.stack(cost.terms(r[None])).sum()

        wanted = torch.autograd.functional.hessian(total, residuals[i])
        torch.testing.assert_close(e.hessian[i], wanted, rtol=1e-10, atol=1e-12)
        wanted = torch.autograd.functional.jacobian(total, residuals[i])
        torch.testing.assert_close(e.gradient[i], wanted, rtol=1e-10, atol=1e-12)


def test_a_list_of_terms_is_the_same_cost():
    model, cost, states, ctrls = setting()
    listed = ResidualCost(Simulator(model, threads=1), list(TERMS.values()))
    np.testing.assert_array_equal(listed(*tensors(states, ctrls)), cost(*tensors(states, ctrls)))


def test_a_term_counts_after_its_time():
    model, _, states, ctrls = setting()
    simulator = Simulator(model, threads=1)
    late = {**TERMS, "height": {**TERMS["height"], "after": 2.5 * simulator.dt}}
    cost = ResidualCost(simulator, late)
    assert cost.uses_time
    whole = ResidualCost(simulator, TERMS)
    without = ResidualCost(simulator, {k: v for k, v in TERMS.items() if k != "height"})
    rows = tensors(states, ctrls)
    # States after steps 0 to 3 are at 1 to 4 control steps: those past 2.5 are the last two.
    steps = torch.arange(4)
    wanted = torch.where(steps >= 2, whole(*rows), without(*rows))
    assert (wanted[2:] != without(*rows)[2:]).all()
    torch.testing.assert_close(cost(*rows, steps), wanted, rtol=1e-14, atol=0)
    torch.testing.assert_close(cost(*rows, 1), without(*rows), rtol=1e-14, atol=0)
    expansion, full = cost.expand(*rows, steps), whole.expand(*rows)
    torch.testing.assert_close(expansion.value, wanted, rtol=1e-14, atol=0)
    part = cost.parts[0]
    for found, expected in (
        (expansion.gradient, full.gradient),
        (expansion.hessian, full.hessian),
    ):
        assert (found[:2, part] == 0).all()
        torch.testing.assert_close(found[2:], expected[2:], rtol=0, atol=0)


def test_jacobians_are_computed_in_backward_alone(monkeypatch):
    _, cost, states, ctrls = setting()
    calls = []
    expand = cost._map.expand
    monkeypatch.setattr(cost._map, "expand", lambda *a: calls.append(1) or expand(*a))
    x, u = (value.requires_grad_() for value in tensors(states, ctrls))
    value = cost(x, u).sum()
    assert not calls
    value.backward()
    assert calls == [1]


def test_a_gradient_through_the_physics():
    model = models.own("free")
    sim = Simulator(model, threads=1)
    cost, dynamics = ResidualCost(sim, TERMS), MujocoDynamics(sim)
    x, u = reference.samples(model, 1, length=20)
    action = torch.from_numpy(u).requires_grad_()
    cost(dynamics(torch.from_numpy(x), action), action).sum().backward()
    for j in range(model.nu):
        ends = []
        for h in (-1e-6, 1e-6):
            moved = u[0] + h * np.eye(model.nu)[j]
            ends.append(
                written_out(model, reference.step(model, at_rest(model), x[0], moved), moved)
            )
        wanted = (ends[1] - ends[0]) / 2e-6
        assert action.grad[0, j].item() == pytest.approx(wanted, rel=1e-5, abs=1e-8)


def test_second_derivatives_are_refused():
    _, cost, states, ctrls = setting(1)
    x, u = (value.requires_grad_() for value in tensors(states, ctrls))
    (by_x,) = torch.autograd.grad(cost(x, u).sum(), x, create_graph=True)
    with pytest.raises(SecondDerivativeError):
        torch.autograd.grad(by_x.sum(), x)


@pytest.mark.parametrize("again", [copy.deepcopy, lambda c: pickle.loads(pickle.dumps(c))])
def test_copies_are_the_same_cost(again):
    _, cost, states, ctrls = setting()
    np.testing.assert_array_equal(
        again(cost)(*tensors(states, ctrls)), cost(*tensors(states, ctrls))
    )


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({}, r"^cost must have a term, got none"),
        (3, r"^cost must be a mapping or a list of terms, got 3"),
        ({"a": 3}, r"^cost\.a must be a mapping, got 3"),
        ([3], r"^cost\[0\] must be a mapping, got 3"),
        ({"a": {}}, r"^missing key 'cost\.a\.residual'"),
        ({"a": {"residual": {"kind": "control"}, "weight": 0}}, r"^cost\.a\.weight must be pos"),
        (
            {"a": {"residual": {"kind": "control"}, "weight": -1}},
            r"weight must be positive, got -1",
        ),
        ({"a": {"residual": {"kind": "control"}, "wieght": 1}}, r"cost\.a\.wieght'.*'weight'"),
        ({"a": {"residual": {"kind": "control"}, "norm": "l3"}}, r"^cost\.a\.norm\.kind: unknown"),
    ],
)
def test_bad_terms(terms, message):
    with pytest.raises(ConfigError, match=message):
        ResidualCost(Simulator(models.own("free"), threads=1), terms)


def test_bad_arguments():
    _, cost, states, ctrls = setting()
    x, u = tensors(states, ctrls)
    with pytest.raises(ArgumentError, match=r"^state and action must have widths 13 and 2"):
        cost(x[:, :3], u)
    with pytest.raises(ArgumentError, match=r"^t must be an integer or 4 of them, got 0\.5"):
        cost(x, u, 0.5)
    with pytest.raises(ArgumentError, match=r"^t must be an integer or 4"):
        cost(x, u, torch.arange(3))
    x[2, 0] = torch.nan
    with pytest.raises(DivergenceError, match=r"^state must be finite, got NaN .* rows \[2\]"):
        cost(x, u)
