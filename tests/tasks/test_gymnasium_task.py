"""The adapter against the environments' own ``step`` and ``reset``."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv

import mbrl
from mbrl.errors import ArgumentError, DivergenceError, TaskError, UnknownNameError


def test_constructor_arguments_reach_environment_reward_and_dynamics():
    options = {"forward_reward_weight": 3.0, "ctrl_cost_weight": 0.7, "frame_skip": 2}
    task = mbrl.make_task("HalfCheetah-v5", threads=1, **options)
    assert task.simulator.frame_skip == 2
    state = task.reset(2, torch.Generator().manual_seed(0))
    action = torch.full((2, 6), 0.5, dtype=torch.float64)
    transition = task.step(state, action)
    torch.testing.assert_close(task.reward(state, action, transition.next_state), transition.reward)


def test_action_bounds_are_the_models_in_double_precision():
    # 0.4 is not representable in the single precision of the action space.
    from gymnasium.envs.mujoco.humanoid_v5 import HumanoidEnv

    from mbrl.tasks.wrappers import action_bounds

    env = HumanoidEnv()
    low, high = action_bounds(env)
    np.testing.assert_array_equal(low, env.model.actuator_ctrlrange[:, 0])
    np.testing.assert_array_equal(high, env.model.actuator_ctrlrange[:, 1])
    assert float(high[0]) == 0.4
    env.model.actuator_ctrllimited[2] = 0
    env.model.actuator_ctrlrange[2] = 0.0
    env._set_action_space()
    low, high = action_bounds(env)
    assert (float(low[2]), float(high[2])) == (-np.inf, np.inf)


class OwnReward(InvertedPendulumEnv):
    """A user's environment: the stock one with a reward of its own."""

    def tensor_reward(self, state, action, next_state):
        return -(next_state[:, 1] ** 2)

    def step(self, action):
        observation, _, _, truncated, info = super().step(action)
        return observation, -(self.data.qpos[1] ** 2), False, truncated, info


class NoFormula(InvertedPendulumEnv):
    def step(self, action):
        observation, reward, terminated, truncated, info = super().step(action)
        return observation, 2 * reward, terminated, truncated, info


class Contradiction(HalfCheetahEnv):
    """Overrides a piece of the stock step; the formula of the stock reward is wrong for it."""

    def _get_rew(self, x_velocity, action):
        reward, info = super()._get_rew(x_velocity, action)
        return -5 * reward - 1, info


class WrongReward(HalfCheetahEnv):
    def tensor_reward(self, state, action, next_state):
        return -(action**2).sum(-1)


class OtherObservation(OwnReward):
    def tensor_observation(self, state):
        return state + 7


class OtherAction(OwnReward):
    def step(self, action):
        return super().step(0.5 * np.asarray(action))


@pytest.fixture
def registered():
    names = []

    def register(entry, **options):
        name = f"test/{entry.__name__}-v0"
        gymnasium.register(name, entry_point=entry, max_episode_steps=50, **options)
        names.append(name)
        return name

    yield register
    for name in names:
        del gymnasium.registry[name]


def test_a_users_environment_with_its_own_tensor_reward(registered):
    task = mbrl.make_task(registered(OwnReward), threads=1)
    state = task.reset(3, torch.Generator().manual_seed(0))
    action = torch.ones(3, 1, dtype=torch.float64)
    transition = task.step(state, action)
    torch.testing.assert_close(task.reward(state, action, transition.next_state), transition.reward)
    assert not bool(task.terminated(transition.next_state).any())
    assert task.max_episode_steps == 50


def test_environments_that_cannot_serve_are_refused_by_name(registered):
    with pytest.raises(UnknownNameError, match=r"'HalfCheeta-v5' is registered.*'HalfCheetah-v5'"):
        mbrl.make_task("HalfCheeta-v5")
    with pytest.raises(TaskError, match=r"AcrobotEnv is not a gymnasium.envs.mujoco.MujocoEnv"):
        mbrl.make_task("Acrobot-v1")
    with pytest.raises(TaskError, match=r"cannot be made:.*unexpected keyword argument 'wight'"):
        mbrl.make_task("HalfCheetah-v5", wight=1)
    with pytest.raises(TaskError, match=r"tensor_reward contradicts its step: .* where the step"):
        mbrl.make_task(registered(WrongReward))
    with pytest.raises(TaskError, match="tensor_observation contradicts its step"):
        mbrl.make_task(registered(OtherObservation))
    with pytest.raises(ArgumentError, match="task must be a non-empty string"):
        mbrl.make_task("")
    with pytest.raises(UnknownNameError, match="names a module"):
        mbrl.make_task("antigravity:HalfCheetah-v5")


def test_shapes_are_checked():
    task = mbrl.make_task("Swimmer-v5", threads=1)
    with pytest.raises(ArgumentError, match=r"shapes \[B, 10\] and \[B, 2\], got \[3, 10\]"):
        task.step(torch.zeros(3, 10), torch.zeros(2, 2))


def test_an_environment_without_formulas_is_differentiated_in_its_own_step(registered):
    task = mbrl.make_task(registered(NoFormula), threads=1)
    state = task.reset(2, torch.Generator().manual_seed(0))
    action = torch.zeros(2, 1, dtype=torch.float64)
    transition = task.step(state, action)
    assert transition.reward.tolist() == [2.0, 2.0]
    assert task.observe(state).equal(state)
    assert task.reward(state, action, state).tolist() == [2.0, 2.0]


def test_a_diverged_row_is_named_and_never_reset():
    task = mbrl.make_task("HalfCheetah-v5", threads=1)
    state = task.reset(3, torch.Generator().manual_seed(0))
    state[1, 9:] = 1e12
    with pytest.raises(
        DivergenceError, match=r"HalfCheetah-v5: the simulation diverged in rows \[1\]"
    ):
        task.step(state, torch.zeros(3, 6, dtype=torch.float64))
