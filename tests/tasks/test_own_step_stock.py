"""Stock environments: formulas and the differentiated step against each other and differences."""

import gymnasium
import mujoco
import numpy as np
import pytest
import torch

import mbrl
from mbrl.physics import quiet
from tests.models import reference
from tests.tasks.common import ambient, stepped

EXACT = ["HalfCheetah-v5", "Swimmer-v5", "Hopper-v5", "Walker2d-v5"]
LAGGING = ["InvertedDoublePendulum-v5", "Reacher-v5", "Pusher-v5"]
FORCES = ["Ant-v5", "Humanoid-v5", "HumanoidStandup-v5"]


def made(name):
    with quiet():
        return mbrl.make_task(name, threads=1), gymnasium.make(name).unwrapped


def visited(task, rows, steps, seed=0):
    """States of random episodes after some steps, and actions clear of their bounds."""
    generator = torch.Generator().manual_seed(seed)
    state, middle = task.reset(rows, generator), (task.action_low + task.action_high) / 2
    half = (task.action_high - task.action_low) / 2
    for t in range(steps + 1):
        noise = torch.rand((rows, task.action_size), generator=generator, dtype=torch.float64)
        action = middle + 0.9 * half * (2 * noise - 1)
        if t < steps:
            state = task.step(state, action).next_state
    return state, action


def gradients(values, *inputs):
    return torch.cat(torch.autograd.grad(values.sum(), inputs, retain_graph=True), dim=1)


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("steps", [0, 25])
def test_formula_and_step_have_one_reward_and_one_total_gradient(name, steps):
    task, _ = made(name)
    state, action = visited(task, 6, steps)
    x, u = state.clone().requires_grad_(), action.clone().requires_grad_()
    formula = task.reward(x, u, task.dynamics()(x, u))
    own = task.advance(x, u).reward
    torch.testing.assert_close(formula, own, rtol=1e-9, atol=1e-9)
    found, expected = gradients(formula, x, u), gradients(own, x, u)
    error = (found - expected).norm(dim=1) / expected.norm(dim=1)
    assert error.max() < 1e-4


def points_of(name, data):
    """The bodies and sites whose positions the reward reads."""
    if "Double" in name:
        return data.site_xpos[0]
    if "Reacher" in name:
        return np.array([data.body("fingertip").xpos, data.body("target").xpos])
    return np.array([data.body(b).xpos for b in ("object", "tips_arm", "goal")])


def distance_part(name, points):
    if "Double" in name:
        return -(0.01 * points[0] ** 2 + (points[2] - 2) ** 2)
    if "Reacher" in name:
        return -np.linalg.norm(points[0] - points[1])
    thing, tip, goal = points
    return -np.linalg.norm(thing - goal) - 0.5 * np.linalg.norm(thing - tip)


@pytest.mark.parametrize("name", LAGGING)
def test_formulas_differ_from_the_step_by_the_lag_of_positions_alone(name):
    task, env = made(name)
    env.reset(seed=0)
    state, action = visited(task, 6, 5)
    for row in range(6):
        following, reward, *_ = stepped(env, state[row], action[row])
        lagging = distance_part(name, points_of(name, env.data))
        mujoco.mj_kinematics(env.model, env.data)
        lag = lagging - distance_part(name, points_of(name, env.data))
        one = slice(row, row + 1)
        formula = task.reward(state[one], action[one], torch.from_numpy(following)[None])
        assert float(formula) + lag == pytest.approx(reward, abs=1e-9)
        assert 0 < abs(lag) < 0.1


def converge(model):
    """As tests.models.reference does it, in place."""
    model.opt.solver = mujoco.mjtSolver.mjSOL_NEWTON
    model.opt.tolerance, model.opt.iterations = 0.0, 200


@pytest.mark.parametrize(
    ("name", "flying"),
    [(name, False) for name in [*EXACT, *LAGGING, *FORCES]] + [(name, True) for name in FORCES],
)
def test_the_differentiated_step_agrees_with_differences_of_gymnasiums(name, flying):
    """In random directions, by a random weighting of next state and reward.

    Steps are comparable only with their solver converged: Humanoid's PGS, stopped by its count of
    iterations, leaves noise of the size of the difference itself. And only where differences of two
    sizes agree: where a contact opens in between there is no derivative.
    """
    task, env = made(name)
    env.reset(seed=0)
    converge(env.model)
    rows = 3
    # Not at reset: Gymnasium's quaternions have no unit length there, and no tangent to move along.
    state, action = visited(task, rows, 3 if flying else 20)
    if flying:
        state[:, 2] += 3.0
    rng = np.random.default_rng(0)
    weight = rng.standard_normal(task.state_size + 1)
    x, u = state.clone().requires_grad_(), action.clone().requires_grad_()
    taken = task.advance(x, u)
    columns = torch.cat([taken.next_state, taken.reward[:, None]], dim=1)
    total = columns @ torch.from_numpy(weight)
    gx, gu = torch.autograd.grad(total.sum(), (x, u))
    touching, compared = 0, 0
    for row in range(rows):
        at, given = state[row].numpy(), action[row].numpy()
        stepped(env, at, given)
        touching += sum(0 in pair for pair in env.data.contact.geom.tolist())  # geom 0: the floor
        for _ in range(6):
            dx, du = rng.standard_normal(2 * env.model.nv), rng.standard_normal(len(given))

            def moved(h, at=at, given=given, dx=dx, du=du):
                x = reference.retract(env.model, at, h * dx)
                following, reward, *_ = stepped(env, x, given + h * du)
                return np.append(following, reward) @ weight

            fine, coarse = ((moved(h) - moved(-h)) / (2 * h) for h in (1e-6, 3e-6))
            found = gx[row].numpy() @ ambient(env.model, at, dx) + gu[row].numpy() @ du
            scale = np.linalg.norm(torch.cat([gx[row], gu[row]]))
            if abs(fine - coarse) < 1e-5 * scale:
                compared += 1
                assert found == pytest.approx(fine, rel=0, abs=1e-4 * scale)
    assert compared >= 12
    if name in FORCES:
        assert (touching > 0) == (not flying)
