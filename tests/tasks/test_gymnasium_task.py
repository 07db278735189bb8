"""The adapter against the environments' own ``step`` and ``reset``."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv

import mbrl
from mbrl.errors import ArgumentError, DivergenceError, TaskError, UnknownNameError

STOCK = [
    "InvertedPendulum-v5",
    "InvertedDoublePendulum-v5",
    "HalfCheetah-v5",
    "Swimmer-v5",
    "Hopper-v5",
    "Walker2d-v5",
]
OWN = ["mbrl/SmoothInvertedPendulum-v0", "mbrl/SmoothInvertedDoublePendulum-v0"]
# After mj_step the tip of the double pendulum lags one physics step behind the state, so a reward
# that is a function of (state, action, next state) differs by the tip's way in one step.
REWARD_LAG = {"InvertedDoublePendulum-v5": 5e-2}


def walk(env, steps, seed):
    """(qpos, qvel, action) along a random episode; restarted when it ends."""
    env.reset(seed=seed)
    env.action_space.seed(seed)
    bare, points = env.unwrapped, []
    for _ in range(steps):
        action = env.action_space.sample().astype(np.float64)
        points.append((bare.data.qpos.copy(), bare.data.qvel.copy(), action))
        if any(env.step(action)[2:4]):
            env.reset(seed=seed)
    return points


@pytest.mark.parametrize("name", STOCK + OWN)
def test_step_is_the_environments_own_from_a_set_state(name):
    task = mbrl.make_task(name, threads=1)
    env = gymnasium.make(name)
    points = walk(env, 150, seed=3)
    state = torch.from_numpy(np.array([np.concatenate(p[:2]) for p in points]))
    action = torch.from_numpy(np.array([p[2] for p in points]))
    ours = task.step(state, action)
    simulated = task.simulator.step(state.numpy(), action.numpy())
    lag = 0.0
    for row, (qpos, qvel, u) in enumerate(points):
        bare = env.unwrapped
        bare.set_state(qpos, qvel)
        observation, reward, terminated, _, _ = bare.step(u)
        following = np.concatenate([bare.data.qpos, bare.data.qvel])
        np.testing.assert_allclose(ours.next_state[row], following, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(simulated[row], following, rtol=1e-6, atol=1e-6)
        np.testing.assert_allclose(ours.observation[row], observation, rtol=1e-6, atol=1e-6)
        assert float(ours.reward[row]) == pytest.approx(reward, rel=1e-6, abs=1e-6)
        assert bool(ours.terminated[row]) == terminated
        formula = task.reward(
            state[row : row + 1], action[row : row + 1], ours.next_state[row : row + 1]
        )
        lag = max(lag, abs(float(formula[0] - ours.reward[row])))
    assert lag <= REWARD_LAG.get(name, 1e-9)
    differs = task.terminated(ours.next_state) != ours.terminated
    # Where the tip lags, only a state next to the threshold may differ.
    assert float(differs.double().mean()) <= (0.03 if name in REWARD_LAG else 0.0)


@pytest.mark.parametrize("name", STOCK + OWN)
def test_reset_and_observe_are_the_environments_own(name):
    task = mbrl.make_task(name, threads=1)
    state = task.reset(5, torch.Generator().manual_seed(11))
    seeds = torch.randint(2**31 - 1, (5,), generator=torch.Generator().manual_seed(11)).tolist()
    env = gymnasium.make(name)
    observed = task.observe(state)
    for row, seed in enumerate(seeds):
        observation, _ = env.reset(seed=seed)
        data = env.unwrapped.data
        np.testing.assert_array_equal(state[row], np.concatenate([data.qpos, data.qvel]))
        np.testing.assert_allclose(observed[row], observation, rtol=0, atol=1e-9)
    assert task.max_episode_steps == 1000
    assert task.make_env().spec.id == name


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

    from mbrl.tasks.gymnasium_task import _action_bounds

    env = HumanoidEnv()
    low, high = _action_bounds(env)
    np.testing.assert_array_equal(low, env.model.actuator_ctrlrange[:, 0])
    np.testing.assert_array_equal(high, env.model.actuator_ctrlrange[:, 1])
    assert float(high[0]) == 0.4
    env.model.actuator_ctrllimited[2] = 0
    env.model.actuator_ctrlrange[2] = 0.0
    env._set_action_space()
    low, high = _action_bounds(env)
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
    with pytest.raises(TaskError, match=r"CartPoleEnv is not a gymnasium.envs.mujoco.MujocoEnv"):
        mbrl.make_task("CartPole-v1")
    with pytest.raises(TaskError, match=r"cannot be made:.*unexpected keyword argument 'wight'"):
        mbrl.make_task("HalfCheetah-v5", wight=1)
    with pytest.raises(TaskError, match=r"torch reward gives .* where its step gives"):
        mbrl.make_task(registered(WrongReward))
    with pytest.raises(TaskError, match="tensor_observation contradicts the observation"):
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
