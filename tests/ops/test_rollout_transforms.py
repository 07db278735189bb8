"""The rollout op under torch.func, and clear refusals of what it has no derivatives for."""

import numpy as np
import pytest
import torch
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

from mbrl.errors import ForwardModeError, SecondDerivativeError
from tests.ops.common import EXACT
from tests.ops.rollouts import BATCH, NAMES, ROLLOUT, loss_of, problem

# torch itself, when forward mode is first used.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


def numbers(*arguments):
    return loss_of(*ROLLOUT(*arguments))


def detached(*shape):
    """Arguments with leading dimensions folded out of the batch: [..., T, B, n]."""
    arguments = [v.detach() for v in problem(batch=int(np.prod(shape)) * BATCH)]
    state, *rest = arguments
    folded = [v.unflatten(1, (*shape, BATCH)) for v in rest]
    for _ in shape:
        folded = [v.movedim(len(shape), 0) for v in folded]
    return state.unflatten(0, (*shape, BATCH)), *folded


@pytest.mark.parametrize("count", [2, 4], ids=["open loop", "feedback"])
def test_vmap_is_a_loop(count):
    arguments = detached(2)[:count]
    for k, one in enumerate(zip(*arguments, strict=True)):
        expected = ROLLOUT(*one)
        for found, wanted in zip(vmap(ROLLOUT)(*arguments), expected, strict=True):
            assert torch.equal(found[k], wanted)


def test_vmap_of_one_argument():
    state, actions, *_ = detached(2)
    found = vmap(ROLLOUT, in_dims=(None, 0))(state[0], actions)
    for k in range(2):
        assert torch.equal(found.states[k], ROLLOUT(state[0], actions[k]).states)
    turned = vmap(ROLLOUT, in_dims=(1, 2), out_dims=1)(state.movedim(0, 1), actions.movedim(0, 2))
    for k in range(2):
        assert torch.equal(turned.states[:, k], ROLLOUT(state[k], actions[k]).states)


@pytest.mark.parametrize("count", [2, 4], ids=["open loop", "feedback"])
def test_vmap_of_grad_is_the_gradient_of_each(count):
    arguments = detached(2)[:count]
    found = vmap(grad(numbers, tuple(range(count))))(*arguments)
    for k, one in enumerate(zip(*arguments, strict=True)):
        expected = grad(numbers, tuple(range(count)))(*one)
        for gradient, wanted in zip(found, expected, strict=True):
            torch.testing.assert_close(gradient[k], wanted, **EXACT)


@pytest.mark.parametrize("argument", range(4), ids=NAMES)
def test_jacrev_is_made_of_gradients(argument):
    leaves = problem(steps=2, batch=1)
    found = jacrev(lambda *v: ROLLOUT(*v).states, argument)(*(v.detach() for v in leaves))
    states = ROLLOUT(*leaves).states
    for number, row in zip(states.flatten(), found.flatten(0, 2), strict=True):
        (expected,) = torch.autograd.grad(number, leaves[argument], retain_graph=True)
        torch.testing.assert_close(row, expected, **EXACT)


def test_batched_gradients_of_autograd_raise():
    state, actions, *_ = problem()
    states = ROLLOUT(state, actions).states
    upstream = torch.randn(4, *states.shape).double()
    with pytest.raises(RuntimeError):
        torch.autograd.grad(states, actions, upstream, is_grads_batched=True)


def test_forward_mode_raises():
    state, actions, gains, beside = (v.detach() for v in problem())

    def rolled(u):
        return ROLLOUT(state, u, gains, beside).states

    for call in (
        lambda: jvp(rolled, (actions,), (torch.ones_like(actions),)),
        lambda: jacfwd(rolled)(actions),
    ):
        with pytest.raises(ForwardModeError, match="step MujocoDynamics"):
            call()
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(actions, torch.ones_like(actions))
        with pytest.raises(ForwardModeError):
            rolled(dual)


SECOND = {
    "jacrev(jacrev)": lambda f: jacrev(jacrev(f)),
    "grad(grad)": lambda f: grad(lambda z: grad(f)(z).sum()),
    "grad of vjp": lambda f: grad(lambda z: vjp(f, z)[1](torch.ones(()).double())[0].sum()),
}


@pytest.mark.parametrize("argument", range(4), ids=NAMES)
@pytest.mark.parametrize("second", SECOND)
def test_second_derivatives_raise(second, argument):
    arguments = [v.detach() for v in problem(steps=2, batch=1)]

    def scalar(z):
        return numbers(*arguments[:argument], z, *arguments[argument + 1 :])

    with pytest.raises(SecondDerivativeError, match="have first derivatives only"):
        SECOND[second](scalar)(arguments[argument])


def test_hessian_raises():
    arguments = [v.detach() for v in problem(steps=2, batch=1)]
    with pytest.raises((SecondDerivativeError, ForwardModeError)):
        hessian(lambda u: numbers(arguments[0], u))(arguments[1])


@pytest.mark.parametrize("argument", range(4), ids=NAMES)
def test_differentiating_a_recorded_gradient_raises(argument):
    leaves = problem()
    linear = sum(v.sum() for v in ROLLOUT(*leaves))
    (first,) = torch.autograd.grad(linear, leaves[argument], create_graph=True)
    with pytest.raises(SecondDerivativeError):
        (first**2).sum().backward()


def test_a_recorded_gradient_that_nobody_differentiates_is_the_gradient():
    leaves = problem()
    found = torch.autograd.grad(numbers(*leaves), leaves, create_graph=True)
    expected = torch.autograd.grad(numbers(*leaves), leaves)
    assert all(map(torch.equal, found, expected))
