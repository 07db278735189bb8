"""The fields op: values of plain MuJoCo, gradients in every mode, and clear refusals."""

import copy

import mujoco
import numpy as np
import pytest
import torch
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

from mbrl.errors import ArgumentError, DivergenceError, NotFiniteError, SecondDerivativeError
from mbrl.ops import MujocoFields, fields
from mbrl.physics import Simulator
from tests import models
from tests.models import reference

# torch itself, when forward mode is first used.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")

MODEL = models.own("mixed")  # ball, free, hinge, slide, two activations
NAMES = ("xpos", "cvel", "qfrc_actuator", "qfrc_bias")
NX, NDX = 28, 26
OP = MujocoFields(Simulator(MODEL, threads=1), NAMES)


def plain(x):
    """The fields at one state (nx,) by plain MuJoCo: (m,)."""
    data = mujoco.MjData(MODEL)
    reference.load(MODEL, data, x, np.zeros(MODEL.nu))
    mujoco.mj_forward(MODEL, data)
    return np.concatenate([getattr(data, name).flatten() for name in NAMES])


def states(n, seed=0):
    return torch.from_numpy(reference.random_states(MODEL, np.random.default_rng(seed), n))


def along(function, x, dx, h=1e-4):
    """Fourth-order difference quotient of a function of a state along mj_integratePos."""
    f = [function(reference.retract(MODEL, x, k * h * dx)) for k in (-2, -1, 1, 2)]
    return (8.0 * (f[2] - f[1]) - (f[3] - f[0])) / (12.0 * h)


def weighted(values):
    weight = torch.linspace(-1.0, 2.0, values.shape[-1], dtype=values.dtype)
    return (weight * values + 0.1 * values.sin()).sum()


def test_values_are_those_of_mj_forward_without_control():
    x = states(5)
    found = OP(x)
    for row in range(5):
        np.testing.assert_allclose(found[row], plain(x[row].numpy()), rtol=1e-12, atol=1e-12)
    assert sum(OP.sizes) == found.shape[1]
    assert OP.sizes == (3 * MODEL.nbody, 6 * MODEL.nbody, MODEL.nv, MODEL.nv)
    assert torch.equal(OP(x[0]), found[0])
    single = OP(x.float())
    assert single.dtype == torch.float64
    torch.testing.assert_close(single, found, rtol=0, atol=1e-4)


def test_gradients_along_integrate_pos():
    x = states(4)
    (gradient,) = torch.autograd.grad(weighted(OP(x.requires_grad_())), x)
    rng = np.random.default_rng(1)
    for row, start in enumerate(x.detach().numpy()):
        for _ in range(5):
            dx = rng.standard_normal(NDX)
            expected = along(lambda y: weighted(torch.from_numpy(plain(y))).item(), start, dx)
            terms = gradient[row].numpy() * along(lambda y: y, start, dx)
            assert terms.sum() == pytest.approx(expected, abs=1e-8 * np.abs(terms).sum())


def test_forward_mode_along_integrate_pos():
    x = states(4)
    rng = np.random.default_rng(2)
    dx = rng.standard_normal((4, NDX))
    pairs = list(zip(x.numpy(), dx, strict=True))
    tangent = torch.from_numpy(np.stack([along(lambda y: y, a, b) for a, b in pairs]))
    values, found = jvp(OP, (x,), (tangent,))
    assert torch.equal(values, OP(x))
    expected = np.stack([along(plain, a, b) for a, b in pairs])
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7 * np.abs(expected).max())


def test_transforms_agree_with_each_other():
    x = states(3)
    by_reverse = vmap(jacrev(OP))(x)
    torch.testing.assert_close(vmap(jacfwd(OP))(x), by_reverse, rtol=0, atol=1e-12)
    plain_gradient = grad(lambda y: weighted(OP(y)))(x)
    mapped = vmap(grad(lambda y: weighted(OP(y))))(x)
    torch.testing.assert_close(mapped, plain_gradient, rtol=0, atol=1e-12)
    torch.testing.assert_close(vmap(OP, in_dims=1)(x.T), OP(x), rtol=0, atol=0)


def test_chunks_are_put_together_and_name_their_own_rows(monkeypatch):
    x = states(5)
    expected = vmap(jacrev(OP))(x)
    monkeypatch.setattr(fields, "_ROWS_PER_CALL", 2 * 2 * NDX)
    torch.testing.assert_close(vmap(jacrev(OP))(x), expected, rtol=0, atol=0)
    broken = x.numpy().copy()
    broken[3, 0] = np.nan
    source = fields._Fields(Simulator(MODEL, threads=1), NAMES)
    with pytest.raises(DivergenceError, match=r"differencing states \[3\]") as caught:
        source.linearize(broken, np.zeros((5, MODEL.nu)), None)
    assert caught.value.rows == (3,)


@pytest.mark.parametrize(
    "second",
    [
        hessian,
        lambda f: jacfwd(jacfwd(f)),
        lambda f: jacrev(jacrev(f)),
        lambda f: grad(lambda y: grad(f)(y).sum()),
    ],
)
def test_second_derivatives_raise(second):
    with pytest.raises(SecondDerivativeError, match="first derivatives only"):
        second(lambda y: weighted(OP(y)))(states(1)[0])


def test_a_copy_computes_the_same():
    x = states(2)
    assert torch.equal(copy.deepcopy(OP)(x), OP(x))


def test_wrong_arguments_are_refused():
    simulator = Simulator(MODEL, threads=1)
    with pytest.raises(ArgumentError, match="names must name at least one MjData field"):
        MujocoFields(simulator, [])
    with pytest.raises(ArgumentError, match=r"unknown MjData field 'xposs'.*did you mean 'xpos'"):
        MujocoFields(simulator, ["xposs"])
    with pytest.raises(ArgumentError, match=rf"state must have width {NX}, got shape \[2, 3\]"):
        OP(torch.zeros(2, 3))
    with pytest.raises(NotFiniteError, match=r"in rows \[1\]"):
        OP(states(2) * torch.tensor([[1.0], [torch.nan]]))
