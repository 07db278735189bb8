"""The half-cheetah that tells where it is, against MuJoCo, Gymnasium and formulas by hand."""

import os
import pickle
import subprocess
import sys

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from gymnasium.utils import seeding
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import RescaleAction

import mbrl
from mbrl.errors import ArgumentError, TaskError
from mbrl.tasks.torso import HalfCheetahTorsoEnv
from tests.tasks.common import place, points, stepped

NAME = "mbrl/HalfCheetahTorso-v0"


@pytest.fixture(scope="module")
def task():
    return mbrl.make_task(NAME, threads=1)


def centre_of_mass(model, qpos):
    data = mujoco.MjData(model)
    data.qpos[:] = qpos
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    return data.subtree_com[model.body("torso").id].copy()


def test_what_it_is(task):
    assert (task.observation_size, task.state_size, task.action_size) == (20, 18, 6)
    assert task.simulator.dt == 0.01
    assert task.action_low.tolist() == [-1.0] * 6
    assert task.action_high.tolist() == [1.0] * 6
    assert task.max_episode_steps == 1000
    assert task.has_plain_dynamics
    assert task.has_reward_formula
    assert not task.uses_time
    short = mbrl.make_task(NAME, threads=1, max_episode_steps=7)
    assert short.max_episode_steps == 7
    assert gymnasium.make(NAME, max_episode_steps=8).spec.max_episode_steps == 8


def test_episodes_begin_as_they_are_said_to():
    env = gymnasium.make(NAME)
    for seed in range(3):
        observation, _ = env.reset(seed=seed)
        rng, _ = seeding.np_random(seed)
        qpos, qvel = rng.uniform(-0.1, 0.1, 9), 0.1 * rng.standard_normal(9)
        np.testing.assert_array_equal(observation[:8], qpos[1:])
        np.testing.assert_array_equal(observation[8:17], qvel)
        model = env.unwrapped.model
        np.testing.assert_allclose(observation[17:], centre_of_mass(model, qpos), atol=1e-14)


def test_an_episode_is_that_of_mujoco():
    env = gymnasium.make(NAME, max_episode_steps=60)
    observation, _ = env.reset(seed=1)
    model = mujoco.MjModel.from_xml_path(env.unwrapped.fullpath)
    data = mujoco.MjData(model)
    data.qpos[:], data.qvel[:] = env.unwrapped.data.qpos, env.unwrapped.data.qvel
    mujoco.mj_forward(model, data)  # as a reset does: the solver starts from here
    rng = np.random.default_rng(2)
    for t in range(60):
        action, before = rng.uniform(-1, 1, 6), data.qpos[0]
        observation, reward, terminated, truncated, _ = env.step(action)
        data.ctrl[:] = action
        mujoco.mj_step(model, data)
        expected = np.concatenate([data.qpos[1:], data.qvel])
        np.testing.assert_array_equal(observation[:17], expected)
        np.testing.assert_allclose(observation[17:], centre_of_mass(model, data.qpos), atol=1e-13)
        assert reward == pytest.approx(
            (data.qpos[0] - before) / 0.01 - 0.1 * (action**2).sum(), abs=1e-12
        )
        assert not terminated
        assert truncated == (t == 59)


def test_a_step_of_the_task_is_that_of_the_environment(task):
    env = gymnasium.make(NAME).unwrapped
    state, action, _ = points(task, 6)
    found = task.step(state, action)
    for row in range(6):
        after, reward, terminated, observation = stepped(env, state[row], action[row])
        np.testing.assert_array_equal(found.next_state[row], after)
        np.testing.assert_array_equal(found.observation[row], observation)
        assert float(found.reward[row]) == reward
        assert bool(found.terminated[row]) is terminated is False
    assert not task.terminated(found.next_state).any()


@pytest.mark.parametrize("torso", ["centre_of_mass", "frame"])
def test_an_observation_follows_from_the_state_wherever_it_is_asked(torso):
    task = mbrl.make_task(NAME, threads=1, torso=torso)
    env, other = task.make_env(), task.make_env().unwrapped
    observation, _ = env.reset(seed=4)
    for _ in range(5):
        state = task.state_of(env)
        seen = task.observe(torch.from_numpy(state)[None])[0]
        np.testing.assert_allclose(seen, observation, rtol=0, atol=1e-14)
        place(other, state)
        np.testing.assert_array_equal(other._get_obs(), observation)
        observation, *_ = env.step(env.action_space.sample())


def test_the_torso_may_be_its_frame(task):
    frame = mbrl.make_task(NAME, threads=1, torso="frame")
    state, action, _ = points(frame, 4)
    ours, theirs = frame.step(state, action), task.step(state, action)
    assert torch.equal(ours.next_state, theirs.next_state)
    assert torch.equal(ours.reward, theirs.reward)
    after = ours.next_state
    # The frame's body is placed 0.7 m above the origin.
    expected = torch.stack([after[:, 0], torch.zeros(4), after[:, 1] + 0.7], dim=-1)
    torch.testing.assert_close(ours.observation[:, 17:], expected, rtol=0, atol=1e-14)
    assert torch.equal(ours.observation[:, :17], theirs.observation[:, :17])
    with pytest.raises(ArgumentError, match="torso: unknown value 'com'; legal: centre_of_mass"):
        mbrl.make_task(NAME, threads=1, torso="com")


def test_observation_and_reward_have_their_derivatives(task):
    state, action, _ = points(task, 2, seed=3)
    after = task.step(state, action).next_state
    for function, at in (
        (task.observe, state),
        (lambda x: task.reward(x, action, after), state),
        (lambda u: task.reward(state, u, after), action),
        (lambda y: task.reward(state, action, y), after),
    ):
        (found,) = torch.autograd.functional.jvp(function, at, torch.ones_like(at))[1:]
        h = 1e-6
        expected = (function(at + h) - function(at - h)) / (2 * h)
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)


def cost_by_hand(o, following):
    cost = 0.0
    if o[5] >= 0.2:
        cost += 10
    if o[6] >= 0:
        cost += 10
    if o[7] >= 0:
        cost += 10
    return cost - (following[17] - o[17]) / 0.01


def test_what_a_plan_costs(task):
    rng = np.random.default_rng(5)
    o, following = rng.standard_normal((2, 200, 20))
    o[:8, 5:8] = [[0.2 if i & 1 else 0.1, -0.0 if i & 2 else -1e-9, -(i >> 2)] for i in range(8)]
    action = rng.uniform(-1, 1, (200, 6))
    found = task.observed_cost(*map(torch.from_numpy, (o, action, following)))
    expected = [cost_by_hand(*row) for row in zip(o, following, strict=True)]
    np.testing.assert_allclose(found, expected, rtol=1e-13)
    single = task.observed_cost(*(torch.from_numpy(x).float() for x in (o, action, following)))
    assert single.dtype == torch.float32, "a model's precision is kept"
    np.testing.assert_allclose(single, found, rtol=1e-4, atol=1e-4)


def test_what_else_a_plan_may_cost(task):
    other = mbrl.make_task(NAME, threads=1, leg_penalty=0.5, effort=0.25)
    rng = np.random.default_rng(6)
    o, following = (torch.from_numpy(x) for x in rng.standard_normal((2, 50, 20)))
    action = torch.from_numpy(rng.uniform(-1, 1, (50, 6)))
    legs = (o[:, 5] >= 0.2).double() + (o[:, 6] >= 0) + (o[:, 7] >= 0)
    speed = (following - o)[:, 17] / 0.01
    expected = 0.5 * legs + 0.25 * (action**2).sum(1) - speed
    torch.testing.assert_close(other.observed_cost(o, action, following), expected)
    state, action, _ = points(task, 4)
    assert torch.equal(other.step(state, action).reward, task.step(state, action).reward)
    with pytest.raises(ArgumentError, match="effort must be finite and not negative, got -1"):
        mbrl.make_task(NAME, threads=1, effort=-1)


def test_a_plans_cost_has_the_slope_of_the_speed(task):
    o, following = torch.zeros(2, 1, 20, dtype=torch.float64).requires_grad_()
    cost = task.observed_cost(o, torch.zeros(1, 6), following)
    slope, after = torch.autograd.grad(cost.sum(), (o, following))
    expected = torch.zeros(1, 20, dtype=torch.float64)
    expected[0, 17] = 100
    assert torch.equal(slope, expected)
    assert torch.equal(after, -expected)


def test_tasks_without_such_a_cost_say_so():
    assert mbrl.make_task("HalfCheetah-v5", threads=1).observed_cost is None
    assert mbrl.make_task("InvertedPendulum-v5", threads=1).observed_cost is None


def test_a_cost_of_the_wrong_shape_is_refused(registered):
    class Summed(HalfCheetahTorsoEnv):
        def tensor_planning_cost(self, observation, action, next_observation):
            return observation.sum()

    with pytest.raises(TaskError, match=r"tensor_planning_cost of two rows must have shape \[2\]"):
        mbrl.make_task(registered(Summed), threads=1)

    class Broken(HalfCheetahTorsoEnv):
        def tensor_planning_cost(self, observation, action, next_observation):
            return observation[:, 20]

    with pytest.raises(TaskError, match="Broken-v0: tensor_planning_cost raised IndexError"):
        mbrl.make_task(registered(Broken), threads=1)


def test_a_cost_is_given_the_action_that_the_environment_takes(registered):
    class Effort(HalfCheetahTorsoEnv):
        def tensor_planning_cost(self, observation, action, next_observation):
            return action.square().sum(-1)

    def wrapped(**kwargs):
        return RescaleAction(Effort(**kwargs), np.float32(-4), np.float32(4))

    wrapped.__name__ = "Wrapped"
    task = mbrl.make_task(registered(wrapped), threads=1)
    action = torch.tensor([[4.0, -4, 2, 0, 0, 0], [0, 0, 0, 0, 0, 1]])
    observation = torch.zeros(2, 20)
    found = task.observed_cost(observation, action, observation)
    assert found.dtype == torch.float32
    assert found.tolist() == [2.25, 0.0625]


def test_gymnasiums_checker_passes():
    found = []
    for name in (NAME, "HalfCheetah-v5"):  # which is warned of for its unbounded observations
        with pytest.warns(UserWarning, match="Box observation space") as warnings:
            check_env(gymnasium.make(name).unwrapped, skip_render_check=True)
        found.append({str(warning.message) for warning in warnings})
    assert found[0] == found[1]


def test_a_pickled_environment_is_the_same_environment():
    env = gymnasium.make(
        NAME, frame_skip=2, torso="frame", effort=0.5, ctrl_cost_weight=0.3
    ).unwrapped
    copy = pickle.loads(pickle.dumps(env))
    assert type(copy) is HalfCheetahTorsoEnv
    found = []
    for one in (env, copy):
        one.reset(seed=0)
        found.append(one.step(np.full(6, 0.5)))
    np.testing.assert_array_equal(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    assert copy.dt == 0.02
    o = torch.zeros(1, 20)
    costs = [one.tensor_planning_cost(o, torch.ones(1, 6), o) for one in (env, copy)]
    assert costs[0].tolist() == costs[1].tolist() == [10 * 2 + 3.0]


def test_frames_are_those_of_real_time():
    env = gymnasium.make(NAME, render_mode="rgb_array")
    assert env.metadata["render_fps"] == 100
    assert "rgb_array" in env.metadata["render_modes"]
    env.close()


@pytest.mark.slow
def test_a_frame_is_drawn():
    # MuJoCo reads what draws when it is imported: a process of its own. Needs EGL.
    code = f"""
import gymnasium, mbrl
env = gymnasium.make({NAME!r}, render_mode="rgb_array", width=64, height=48)
env.reset(seed=0)
frame = env.render()
print(frame.shape, frame.std() > 1)
"""
    found = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "MUJOCO_GL": "egl"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip().splitlines()[-1] == "(48, 64, 3) True"
