"""Stock tasks and smooth variants against Gymnasium's own step and reset in random episodes."""

import gymnasium
import numpy as np
import pytest
import torch

import mbrl
from mbrl.physics import quiet
from tests.tasks.stock.common import NAMES, SMOOTH, WITH_FORMULA, record

# Rewards that read body positions: MuJoCo leaves them one physics step behind the state, so that a
# function of (state, action, next state) differs by the way of a body in one such step. Largest
# and median difference, as the formulas' docstrings say.
LAG = {
    "InvertedDoublePendulum-v5": (3e-2, 1e-5),
    "Reacher-v5": (7e-3, 1e-6),
    "Pusher-v5": (8e-3, 1e-3),
}
EXACT = (1e-9, 1e-9)


@pytest.mark.parametrize("name", NAMES + SMOOTH)
def test_step_is_the_environments_own_from_a_set_state(name):
    points = record(name)
    task = mbrl.make_task(name, threads=1)
    ours = task.step(points.state, points.action)
    simulated = task.simulator.step(points.state.numpy(), points.action.numpy())
    assert torch.equal(ours.next_state, points.next_state)
    assert torch.equal(torch.from_numpy(simulated), points.next_state)
    assert torch.equal(ours.observation, points.observation)
    assert torch.equal(ours.reward, points.reward)
    assert torch.equal(ours.terminated, points.terminated)


@pytest.mark.parametrize("name", NAMES + SMOOTH)
def test_observe_is_what_a_reset_returns(name):
    task = mbrl.make_task(name, threads=1)
    state = task.reset(5, torch.Generator().manual_seed(11))
    seeds = torch.randint(2**31 - 1, (5,), generator=torch.Generator().manual_seed(11)).tolist()
    with quiet():
        env = gymnasium.make(name)
    observed = task.observe(state)
    for row, seed in enumerate(seeds):
        observation, _ = env.reset(seed=seed)
        data = env.unwrapped.data
        np.testing.assert_array_equal(state[row], np.concatenate([data.qpos, data.qvel]))
        np.testing.assert_allclose(observed[row], observation, rtol=0, atol=1e-9)
    assert task.max_episode_steps == env.spec.max_episode_steps
    assert task.make_env().spec.id == name


@pytest.mark.parametrize("name", WITH_FORMULA + SMOOTH)
def test_the_torch_reward_is_that_of_the_step_up_to_its_lag(name):
    points = record(name)
    task = mbrl.make_task(name, threads=1)
    error = (task.reward(points.state, points.action, points.next_state) - points.reward).abs()
    largest, median = LAG.get(name, EXACT)
    assert float(error.max()) <= largest
    assert float(error.median()) <= median


@pytest.mark.parametrize("name", NAMES + SMOOTH)
def test_torch_terminates_where_the_step_does(name):
    points = record(name)
    task = mbrl.make_task(name, threads=1)
    assert torch.equal(task.terminated(points.next_state), points.terminated)


def test_the_reward_of_an_ant_that_is_not_charged_lags_as_its_formula_says():
    points = record("Ant-v5")
    task = mbrl.make_task("Ant-v5", threads=1, contact_cost_weight=0.0)
    real = task.step(points.state, points.action)
    error = (task.reward(points.state, points.action, real.next_state) - real.reward).abs()
    assert float(error.max()) <= 0.11
    assert float(error.median()) <= 1e-3
