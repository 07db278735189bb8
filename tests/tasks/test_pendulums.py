"""The smooth pendulums: stock physics, the reward they say."""

import mujoco
import numpy as np
import pytest
import torch

import mbrl

PAIRS = [
    ("mbrl/SmoothInvertedPendulum-v0", "InvertedPendulum-v5"),
    ("mbrl/SmoothInvertedDoublePendulum-v0", "InvertedDoublePendulum-v5"),
]


@pytest.mark.parametrize(("smooth", "stock"), PAIRS)
def test_our_models_move_exactly_like_the_stock_ones(smooth, stock):
    ours, theirs = mbrl.make_task(smooth, threads=1), mbrl.make_task(stock, threads=1)
    rng = np.random.default_rng(0)
    state = rng.uniform(-1.2, 1.2, (40, ours.state_size))  # past the rail's ends as well
    ctrls = rng.uniform(-4, 4, (10, 40, 1))
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


def test_they_never_terminate_and_are_cut_after_a_thousand_steps():
    task = mbrl.make_task(PAIRS[0][0], threads=1)
    env = task.make_env()
    env.reset(seed=0)
    for step in range(1000):
        _, _, terminated, truncated, _ = env.step(np.array([3.0]))
        assert not terminated
        assert truncated == (step == 999)
