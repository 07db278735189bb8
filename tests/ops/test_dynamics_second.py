"""Every way to a second derivative of the dynamics op raises, none gives a number."""

import pytest
import torch
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vmap

from mbrl.errors import SecondDerivativeError
from mbrl.ops import first_order
from tests.ops.common import DYNAMICS, NX, following, loss_of, points

# torch itself, when forward mode is first used.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


def scalar(z):
    return loss_of(DYNAMICS(z[..., :NX], z[..., NX:]))


def twice(z):
    """Loss after two steps: its second derivative would go through the saved Jacobians too."""
    return loss_of(DYNAMICS(DYNAMICS(z[..., :NX], z[..., NX:]), z[..., NX:]))


SECOND = {
    "hessian": hessian,
    "jacrev(jacrev)": lambda f: jacrev(jacrev(f)),
    "jacfwd(jacrev)": lambda f: jacfwd(jacrev(f)),
    "jacrev(jacfwd)": lambda f: jacrev(jacfwd(f)),
    "jacfwd(jacfwd)": lambda f: jacfwd(jacfwd(f)),
    "grad(grad)": lambda f: grad(lambda z: grad(lambda w: f(w).sum())(z).sum()),
    "jvp of grad": lambda f: lambda z: jvp(grad(lambda w: f(w).sum()), (z,), (torch.ones_like(z),)),
    "grad of jvp": lambda f: grad(lambda z: jvp(f, (z,), (torch.ones_like(z),))[1].sum()),
    "jvp of jvp": lambda f: (
        lambda z: jvp(lambda w: jvp(f, (w,), (torch.ones_like(w),))[1], (z,), (torch.ones_like(z),))
    ),
}


@pytest.mark.parametrize("function", [scalar, following, twice], ids=lambda f: f.__name__)
@pytest.mark.parametrize("mapped", [False, True], ids=["one", "vmap"])
@pytest.mark.parametrize("second", SECOND)
def test_second_derivatives_raise(second, mapped, function):
    z = torch.cat(points(2), dim=1)
    call = SECOND[second](function)
    with pytest.raises(SecondDerivativeError, match="have first derivatives only"):
        vmap(call)(z) if mapped else call(z[0])


def test_second_derivatives_raise_before_anything_large_is_formed(monkeypatch):
    def late(*_):
        raise AssertionError("the products that lead to A and B were formed")

    monkeypatch.setattr(first_order._Linearize, "backward", staticmethod(late))
    with pytest.raises(SecondDerivativeError):
        vmap(jacrev(jacrev(scalar)))(torch.cat(points(2), dim=1))


@pytest.mark.parametrize("vectorize", [False, True])
def test_functional_hessian_raises(vectorize):
    z = torch.cat(points(1), dim=1)[0]
    with pytest.raises(SecondDerivativeError):
        torch.autograd.functional.hessian(scalar, z, vectorize=vectorize)


@pytest.mark.parametrize("argument", [0, 1], ids=["state", "action"])
def test_differentiating_a_recorded_gradient_raises(argument):
    leaves = [value.clone().requires_grad_() for value in points(2)]
    loss = loss_of(DYNAMICS(*leaves))
    (first,) = torch.autograd.grad(loss, leaves[argument], create_graph=True)
    with pytest.raises(SecondDerivativeError):
        (first**2).sum().backward()


def test_a_gradient_penalty_raises_instead_of_vanishing():
    u = points(2)[1].requires_grad_()
    (first,) = torch.autograd.grad(loss_of(DYNAMICS(points(2)[0], u)), u, create_graph=True)
    with pytest.raises(SecondDerivativeError):
        torch.autograd.grad(first.norm(), u)


def test_dual_numbers_over_a_recorded_gradient_raise():
    states, ctrls = points(2)
    with torch.autograd.forward_ad.dual_level():
        u = torch.autograd.forward_ad.make_dual(
            ctrls.clone().requires_grad_(), torch.ones_like(ctrls)
        )
        with pytest.raises(SecondDerivativeError):
            torch.autograd.grad(loss_of(DYNAMICS(states, u)), u)


def test_a_recorded_gradient_that_nobody_differentiates_is_the_gradient():
    states, ctrls = points(2)
    u = ctrls.clone().requires_grad_()
    (found,) = torch.autograd.grad(loss_of(DYNAMICS(states, u)), u, create_graph=True)
    (expected,) = torch.autograd.grad(loss_of(DYNAMICS(states, u)), u)
    torch.testing.assert_close(found.detach(), expected, rtol=0.0, atol=0.0)
