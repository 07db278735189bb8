"""Learned maps in the place of a step: values to the bit, derivatives against differences."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import jvp, vjp, vmap

from mbrl.nn import unit_quaternions
from mbrl.ops import MujocoDynamics, SurrogateDynamics
from mbrl.physics import Simulator
from tests.models import reference
from tests.ops.common import MODEL, NDX, NU, NX, SKIP, loss_of, points

# torch itself, when forward mode is first used.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")

SIMULATOR = Simulator(MODEL, frame_skip=SKIP, threads=1)
SPEC = SIMULATOR.spec


class Network(nn.Module):
    """x + a smooth function of x and u, whose quaternions are of no particular length."""

    def __init__(self, state_size=NX, action_size=NU):
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        size = state_size + action_size
        self.first = torch.randn(size, 16, generator=generator, dtype=torch.float64) / size**0.5
        self.second = torch.randn(16, state_size, generator=generator, dtype=torch.float64) / 8
        self.calls = 0

    def forward(self, state, action):
        self.calls += 1
        joint = torch.cat([state, action], dim=-1)
        return state + torch.tanh(joint @ self.first) @ self.second


class OnManifold(nn.Module):
    """The network, its quaternions scaled."""

    def forward(self, state, action):
        return unit_quaternions(NETWORK(state, action), torch.from_numpy(SPEC.quaternion_x))


NETWORK = Network()
MODEL_OF_STATES = OnManifold()
SURROGATE = SurrogateDynamics(MujocoDynamics(SIMULATOR), MODEL_OF_STATES, SPEC)


def slope(function, h=1e-5):
    """Fourth-order difference quotient at 0."""
    return (8.0 * (function(h) - function(-h)) - (function(2 * h) - function(-2 * h))) / (12.0 * h)


def directions(count=6):
    rng = np.random.default_rng(0)
    for _ in range(count):
        yield rng.standard_normal(NDX), rng.standard_normal(NU)


def moved(x, u, dx, du, h):
    """The point on the curve x (+) h dx, u + h du, as rows of tensors."""
    state = reference.retract(MODEL, x, h * dx)
    return torch.from_numpy(state)[None], torch.from_numpy(u + h * du)[None]


def learned(x, u, dx, du, h):
    """Where the network, its quaternions scaled by hand, leads from there."""
    (following,) = NETWORK(*moved(x, u, dx, du, h)).numpy()
    for q in SPEC.quaternion_x:
        following[q] /= np.linalg.norm(following[q])
    return following


def stepped(x, u, dx, du):
    """The tangent vector by which the network moves with x and u."""
    base = learned(x, u, dx, du, 0.0)
    return slope(lambda h: reference.difference(MODEL, base, learned(x, u, dx, du, h)))


def velocity(x, dx):
    return slope(lambda h: reference.retract(MODEL, x, h * dx))


def test_quaternions_have_unit_length_and_the_rest_is_untouched():
    states, actions = points(5)
    raw, found = NETWORK(states, actions), MODEL_OF_STATES(states, actions)
    euclidean = SPEC.euclidean_x
    assert torch.equal(found[:, euclidean], raw[:, euclidean])
    assert len(SPEC.quaternion_x) == 2
    for q in SPEC.quaternion_x:
        torch.testing.assert_close(found[:, q].norm(dim=-1), torch.ones(5, dtype=torch.float64))
        direction = raw[:, q] / raw[:, q].norm(dim=-1, keepdim=True)
        torch.testing.assert_close(found[:, q], direction)
        assert float((raw[:, q].norm(dim=-1) - 1).abs().min()) > 1e-3


def test_without_quaternions_nothing_is_touched():
    states, actions = points(3)
    expected = NETWORK(states, actions)
    assert unit_quaternions(expected, torch.zeros(0, 4, dtype=torch.long)) is expected


def test_gradients_of_the_model_by_differences():
    states, actions = points(3, seed=1)
    state, action = states.clone().requires_grad_(), actions.clone().requires_grad_()
    loss_of(MODEL_OF_STATES(state, action)).backward()
    for i in range(3):
        x, u = states[i].numpy(), actions[i].numpy()
        for dx, du in directions():
            expected = slope(
                lambda h, x=x, u=u, dx=dx, du=du: float(
                    loss_of(torch.from_numpy(learned(x, u, dx, du, h))[None])
                )
            )
            found = state.grad[i] @ torch.from_numpy(velocity(x, dx))
            found = found + action.grad[i] @ torch.from_numpy(du)
            assert float(found) == pytest.approx(expected, rel=1e-7, abs=1e-8)


def test_values_are_the_simulators_to_the_bit():
    states, actions = points(4)
    expected = SIMULATOR.step(states.numpy(), actions.numpy())
    state = states.clone().requires_grad_()
    for found in (SURROGATE(states, actions), SURROGATE(state, actions)):
        np.testing.assert_array_equal(found.detach().numpy(), expected)
    assert not np.allclose(expected, MODEL_OF_STATES(states, actions), atol=1e-3)


def test_gradients_are_the_models_carried_over():
    """The loss moves as the simulator's next state does when moved as the network moves."""
    states, actions = points(3, seed=2)
    state, action = states.clone().requires_grad_(), actions.clone().requires_grad_()
    following = SURROGATE(state, action)
    loss_of(following).backward()
    for i in range(3):
        x, u, y = states[i].numpy(), actions[i].numpy(), following[i].detach().numpy()
        for dx, du in directions():
            dy = stepped(x, u, dx, du)
            expected = slope(
                lambda h, y=y, dy=dy: float(
                    loss_of(torch.from_numpy(reference.retract(MODEL, y, h * dy))[None])
                )
            )
            found = state.grad[i] @ torch.from_numpy(velocity(x, dx))
            found = found + action.grad[i] @ torch.from_numpy(du)
            assert float(found) == pytest.approx(expected, rel=1e-6, abs=1e-7)


def test_forward_mode_by_differences():
    states, actions = points(2, seed=4)
    x, u = states[0].numpy(), actions[0].numpy()
    y = SIMULATOR.step(x[None], u[None])[0]
    for dx, du in directions(3):
        tangents = velocity(x, dx), du
        rows = (states[:1], actions[:1]), tuple(torch.from_numpy(v)[None] for v in tangents)
        value, found = jvp(SURROGATE, *rows)
        np.testing.assert_array_equal(value[0].numpy(), y)
        expected = velocity(y, stepped(x, u, dx, du))
        np.testing.assert_allclose(found[0].numpy(), expected, rtol=1e-6, atol=1e-7)


def test_transforms_agree_with_single_rows():
    states, actions = points(3, 2, seed=5)
    expected = torch.stack([SURROGATE(*row) for row in zip(states, actions, strict=True)])
    assert torch.equal(vmap(SURROGATE)(states, actions), expected)

    def pulled(state, action, gradient):
        return vjp(SURROGATE, state, action)[1](gradient)

    weights = torch.linspace(-1, 1, states.numel(), dtype=torch.float64).reshape(states.shape)
    found = vmap(pulled)(states, actions, weights)
    for i in range(3):
        single = pulled(states[i], actions[i], weights[i])
        for one, other in zip(single, found, strict=True):
            torch.testing.assert_close(other[i], one, rtol=1e-12, atol=1e-14)


class Point(nn.Module):
    """A map without quaternions that is told the time."""

    def forward(self, state, action, t=0):
        return state + action + t


def test_on_a_euclidean_space_gradients_are_autograds_own():
    network = Network(3, 3)
    op = SurrogateDynamics(Point(), network, None)
    states, actions = torch.randn(2, 4, 3, dtype=torch.float64)
    state, action = states.clone().requires_grad_(), actions.clone().requires_grad_()
    following = op(state, action, t=2)
    assert torch.equal(following, states + actions + 2)
    weights = torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(4, 3)
    found = torch.autograd.grad((weights * following).sum(), (state, action))
    learnt = (weights * network(state, action)).sum()
    expected = torch.autograd.grad(learnt, (state, action))
    assert all(map(torch.equal, found, expected))


def test_parameters_of_the_surrogate_may_be_trained_through_it():
    network = nn.Linear(3, 3, dtype=torch.float64)

    class Add(nn.Module):
        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, state, action):
            return self.network(state) + action

    states, actions = torch.randn(2, 4, 3, dtype=torch.float64)
    SurrogateDynamics(Point(), Add(), None)(states, actions).sum().backward()
    torch.testing.assert_close(network.weight.grad, states.sum(0).expand(3, 3))


def test_the_surrogate_is_not_evaluated_for_values_alone():
    network = Network(3, 3)
    op = SurrogateDynamics(Point(), network, None)
    states, actions = torch.randn(2, 4, 3, dtype=torch.float64)
    op(states, actions)
    assert network.calls == 0
    op(states.requires_grad_(), actions)
    assert network.calls == 1
