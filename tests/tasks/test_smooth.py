"""The smooth variants: stock physics, the reward they say."""

import math
import pickle

import mujoco
import numpy as np
import pytest
import torch

import mbrl

PAIRS = [
    ("mbrl/SmoothInvertedPendulum-v0", "InvertedPendulum-v5"),
    ("mbrl/SmoothInvertedDoublePendulum-v0", "InvertedDoublePendulum-v5"),
    ("mbrl/SmoothHopper-v0", "Hopper-v5"),
    ("mbrl/SmoothWalker2d-v0", "Walker2d-v5"),
]


@pytest.mark.parametrize(("smooth", "stock"), PAIRS)
def test_they_move_exactly_like_the_stock_ones(smooth, stock):
    ours, theirs = mbrl.make_task(smooth, threads=1), mbrl.make_task(stock, threads=1)
    rng = np.random.default_rng(0)
    state = rng.uniform(-1.2, 1.2, (40, ours.state_size))  # past the rail's ends as well
    ctrls = rng.uniform(-4, 4, (10, 40, ours.action_size))
    np.testing.assert_array_equal(
        ours.simulator.rollout(state, ctrls), theirs.simulator.rollout(state, ctrls)
    )
    assert ours.simulator.dt == theirs.simulator.dt
    assert torch.equal(ours.action_high, theirs.action_high)
    assert torch.equal(
        ours.observe(torch.from_numpy(state)), theirs.observe(torch.from_numpy(state))
    )


@pytest.mark.parametrize(("name", "aim"), [(PAIRS[0][0], 1.0), (PAIRS[1][0], 2.0)])
def test_the_reward_is_that_of_the_models_own_tip(name, aim):
    task = mbrl.make_task(name, threads=1)
    model = task.simulator.model
    data = mujoco.MjData(model)
    rng = np.random.default_rng(1)
    state = torch.from_numpy(rng.uniform(-1, 1, (20, task.state_size)))
    rewards = task.reward(state, torch.zeros(20, 1), state)
    for row in range(20):
        data.qpos, data.qvel, _ = task.simulator.spec.split(state[row].numpy())
        mujoco.mj_forward(model, data)
        x, _, y = data.site("tip").xpos
        expected = -(0.01 * x**2 + (y - aim) ** 2)
        if aim == 1.0:
            expected -= 1e-3 * data.qvel[1] ** 2
        else:
            expected += 10 - 1e-3 * data.qvel[1] ** 2 - 5e-3 * data.qvel[2] ** 2
        assert float(rewards[row]) == pytest.approx(expected, abs=1e-12)


def folded(pitch):
    """Angle to upright in [0, pi], turn by turn."""
    while pitch > math.pi:
        pitch -= 2 * math.pi
    while pitch < -math.pi:
        pitch += 2 * math.pi
    return abs(pitch)


def hopper(height, pitch):
    def c(z):
        return 1 / (1 + 200 ** (0.5 - z))

    return c(height / 1.25) + c((math.pi - folded(pitch)) / math.pi)


def walker(height, pitch):
    return 0.5 * min(max(height / 0.8, 0), 1) + 0.5 * (math.pi - folded(pitch)) / math.pi


PITCHES = (0.0, 0.3, -0.3, 1.5, math.pi, -math.pi, 3.5, -4.0, 6.0, 2 * math.pi, -20.0)


@pytest.mark.parametrize(
    ("name", "posture", "frame_skip"),
    [(PAIRS[2][0], hopper, 4), (PAIRS[2][0], hopper, 10), (PAIRS[3][0], walker, 25)],
)
def test_rewards_of_the_runners_in_closed_form(name, posture, frame_skip):
    task = mbrl.make_task(name, threads=1, frame_skip=frame_skip)
    assert task.simulator.frame_skip == frame_skip
    rng = np.random.default_rng(2)
    for pitch in PITCHES:
        for height in (-0.5, 0.0, 0.4, 0.9, 1.25, 3.0):
            state, after = rng.standard_normal((2, 1, task.state_size))
            action = rng.standard_normal((1, task.action_size))
            after[0, 1:3] = height, pitch
            seconds = frame_skip * task.simulator.model.opt.timestep
            expected = (after[0, 0] - state[0, 0]) / seconds - 1e-3 * (action**2).sum()
            found = task.reward(*map(torch.from_numpy, (state, action, after)))
            assert float(found) == pytest.approx(expected + posture(height, pitch), abs=1e-12)


@pytest.mark.parametrize("name", [PAIRS[2][0], PAIRS[3][0]])
def test_pitching_away_from_upright_costs_at_every_turn(name):
    task = mbrl.make_task(name, threads=1)
    for turns in (-2, 0, 1, 3):
        for pitch in (-3.1, -1.0, -0.1, 0.1, 1.0, 3.1):
            after = torch.zeros(1, task.state_size, dtype=torch.float64)
            after[0, 2] = pitch + 2 * math.pi * turns
            after.requires_grad_()
            zeros = torch.zeros_like(after), torch.zeros(1, task.action_size)
            (slope,) = torch.autograd.grad(task.reward(zeros[0], zeros[1], after).sum(), after)
            assert float(slope[0, 2]) * pitch < 0
            if name == PAIRS[3][0]:
                assert abs(float(slope[0, 2])) == pytest.approx(0.5 / math.pi)


@pytest.mark.parametrize(("name", "limit"), [(PAIRS[0][0], 3.0), (PAIRS[2][0], 1.0)])
def test_they_never_terminate_and_are_cut_after_a_thousand_steps(name, limit):
    env = mbrl.make_task(name, threads=1).make_env()
    env.reset(seed=0)
    for step in range(1000):
        _, _, terminated, truncated, _ = env.step(np.full(env.action_space.shape, limit))
        assert not terminated
        assert truncated == (step == 999)


@pytest.mark.parametrize("name", [smooth for smooth, _ in PAIRS])
def test_a_pickled_environment_is_the_same_environment(name):
    env = mbrl.make_task(name, threads=1, frame_skip=3).make_env().unwrapped
    copy = pickle.loads(pickle.dumps(env))
    assert type(copy) is type(env)
    assert (copy.fullpath, copy.frame_skip) == (env.fullpath, 3)


@pytest.mark.parametrize("name", ["Hopper", "Walker2d"])
def test_weights_and_ends_are_those_of_the_arguments(name):
    plain = mbrl.make_task(f"mbrl/Smooth{name}-v0", threads=1)
    rng = np.random.default_rng(3)
    state, following = torch.from_numpy(rng.uniform(-1, 1, (2, 40, plain.state_size)))
    action = torch.from_numpy(rng.uniform(-1, 1, (40, plain.action_size)))
    velocity = (following[:, 0] - state[:, 0]) / plain.simulator.dt
    cost = 1e-3 * action.square().sum(-1)
    posture = plain.reward(state, action, following) - velocity + cost
    weighed = mbrl.make_task(
        f"mbrl/Smooth{name}-v0",
        threads=1,
        forward_reward_weight=0.3,
        posture_weight=2.0,
        ctrl_cost_weight=0.5,
        terminate_when_unhealthy=True,
    )
    torch.testing.assert_close(
        weighed.reward(state, action, following), 0.3 * velocity + 2 * posture - 500 * cost
    )
    assert not bool(plain.terminated(following).any())
    stock = mbrl.make_task(f"{name}-v5", threads=1)
    assert torch.equal(weighed.terminated(following), stock.terminated(following))
    assert int(stock.terminated(following).sum()) > 0
    start = weighed.reset(3, torch.Generator().manual_seed(0))
    start[1, 1] = 0.1  # lies on the ground
    ended = weighed.step(start, torch.zeros(3, weighed.action_size, dtype=torch.float64)).terminated
    assert ended.tolist() == [False, True, False]
