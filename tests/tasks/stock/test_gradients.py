"""Derivatives of the torch formulas against differences, with the environment as oracle."""

import mujoco
import numpy as np
import pytest
import torch
from torch.func import grad, grad_and_value, jvp, vmap

from tests.models import reference
from tests.tasks.stock.common import NAMES, WITH_FORMULA, place, shuffled, stock, teleport

# torch itself, when forward mode is first used.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


def derivative(function):
    """Derivative at 0 by Richardson's extrapolation, and how far the finest two sizes disagree."""
    fourth = []
    for h in (2e-4, 1e-4):
        f = [np.asarray(function(k * h)) for k in (-2, -1, 1, 2)]
        fourth.append((8.0 * (f[2] - f[1]) - (f[3] - f[0])) / (12.0 * h))
    best = (16.0 * fourth[1] - fourth[0]) / 15.0
    return best, np.abs(best - fourth[1]).max()


def tangent_of(model, x, dx):
    """The velocity of x (+) t dx at t = 0 in coordinates."""
    return derivative(lambda t: reference.retract(model, x, t * dx))[0]


@pytest.mark.parametrize("name", WITH_FORMULA)
def test_reward_gradients_are_those_of_the_environments_own_code(name):
    env, formulas = stock(name)
    points = shuffled(name, 8)
    gradients = grad(lambda *p: formulas.reward(*p).sum(), (0, 1, 2))(*points)
    rng = np.random.default_rng(0)
    for row in range(8):
        x, u, y = (part[row].numpy() for part in points)
        dx, du, dy = (rng.standard_normal(len(part)) for part in (x, u, y))

        def reward(t, x=x, u=u, y=y, dx=dx, du=du, dy=dy):
            return teleport(env, x + t * dx, u + t * du, y + t * dy)[1]

        expected, uncertain = derivative(reward)
        found = sum(
            float(gradient[row].numpy() @ d)
            for gradient, d in zip(gradients, (dx, du, dy), strict=True)
        )
        assert uncertain < 1e-6 * (1 + abs(expected))
        assert found == pytest.approx(expected, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_observation_derivatives_are_those_of_the_environments_own_code(name):
    env, formulas = stock(name)
    state, _, _ = shuffled(name, 4)
    rng = np.random.default_rng(0)
    for row, x in enumerate(state.numpy()):
        dx = rng.standard_normal(2 * env.model.nv)

        def observe(t, x=x, dx=dx):
            place(env, reference.retract(env.model, x, t * dx))
            return env._get_obs()

        expected, uncertain = derivative(observe)
        tangent = torch.from_numpy(tangent_of(env.model, x, dx))
        _, found = jvp(formulas.observation, (state[row][None],), (tangent[None],))
        scale = 1 + np.abs(expected).max()
        assert uncertain < 1e-6 * scale
        np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-6 * scale)


def loss(values):
    weight = torch.linspace(-1.0, 2.0, values.shape[-1], dtype=values.dtype)
    return (weight * values).sum()


@pytest.mark.parametrize("name", NAMES)
def test_observations_work_under_vmap_and_in_reverse_mode(name):
    _, formulas = stock(name)
    state, _, _ = shuffled(name, 3)
    together = grad(lambda x: loss(formulas.observation(x)))(state)
    one_by_one = vmap(grad(lambda x: loss(formulas.observation(x[None]))))(state)
    torch.testing.assert_close(one_by_one, together, rtol=1e-9, atol=1e-9)
    tangent = torch.randn_like(state)
    _, forward = jvp(lambda x: loss(formulas.observation(x)), (state,), (tangent,))
    # Forward mode sees the tangent plane alone, in which all gradients lie.
    assert float(forward) == pytest.approx(float((together * tangent).sum()), rel=1e-8)


@pytest.mark.parametrize(
    ("cart", "clipped"), [(0.9901, False), (-0.9902, False), (0.995, True), (-0.995, True)]
)
def test_the_force_of_the_rails_end_is_observed_without_a_gradient(cart, clipped):
    env, formulas = stock("InvertedDoublePendulum-v5")
    state = np.array([cart, 0.0, 0.0, 0.0, 0.0, 0.0])
    place(env, state)
    row = torch.from_numpy(state)[None]
    observed = formulas.observation(row)[0]
    assert float(observed[-1]) * cart < 0
    assert (abs(float(observed[-1])) == 10.0) == clipped
    np.testing.assert_allclose(observed, env._get_obs(), rtol=1e-9)
    jacobian = torch.func.jacrev(lambda x: formulas.observation(x)[0])(row)[:, 0]
    assert not bool(jacobian[-1].any())
    assert float(jacobian[0, 0]) == 1.0


def test_the_distance_at_its_kink_has_a_finite_gradient():
    env, formulas = stock("Reacher-v5")
    mujoco.mj_resetData(env.model, env.data)
    env.set_state(np.array([0.0, 0.0, 0.21, 0.0]), np.zeros(4))  # fingertip on the target
    x = torch.from_numpy(np.concatenate([env.data.qpos, env.data.qvel]))[None]
    gradient, reward = grad_and_value(lambda y: formulas.reward(x, torch.zeros(1, 2), y).sum())(x)
    assert float(reward) == pytest.approx(0.0, abs=1e-12)
    assert bool(gradient.isfinite().all())
