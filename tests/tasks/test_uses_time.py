"""Whether a task knows that it depends on the step index of an episode."""

import gymnasium
import pytest
import torch
from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv

import mbrl


class Plain(InvertedPendulumEnv):
    def tensor_reward(self, state, action, next_state):
        return -(next_state[:, 1] ** 2)

    def tensor_terminated(self, next_state):
        return torch.zeros(len(next_state), dtype=torch.bool)

    def step(self, action):
        observation, _, _, truncated, info = super().step(action)
        return observation, -(observation[1] ** 2), False, truncated, info


class TimedReward(Plain):
    def tensor_reward(self, state, action, next_state, *, t):
        return super().tensor_reward(state, action, next_state) * (1 if t < 5000 else 2)


class TimedObservation(Plain):
    def tensor_observation(self, state, *, t):
        return state + 0.0 * t


class OwnClock(InvertedPendulumEnv):
    """No formula: its own step looks at the clock."""

    def step(self, action):
        observation, _, _, truncated, info = super().step(action)
        return observation, -abs(observation[1] - self.data.time), False, truncated, info


class OwnRecording(InvertedPendulumEnv):
    """Its step follows a recording of 100 frames."""

    def step(self, action):
        frame = [0.0] * 101
        target = frame[round(self.data.time / self.dt)]
        observation, _, _, truncated, info = super().step(action)
        return observation, -abs(observation[1] - target), False, truncated, info


class OwnTimeless(InvertedPendulumEnv):
    def step(self, action):
        observation, _, _, truncated, info = super().step(action)
        return observation, -abs(observation[1]), False, truncated, info


for _kind in (Plain, TimedReward, TimedObservation, OwnClock, OwnRecording, OwnTimeless):
    _name = f"test/Time{_kind.__name__}-v0"
    if _name not in gymnasium.registry:
        gymnasium.register(_name, entry_point=_kind, max_episode_steps=100)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("test/TimePlain-v0", False),
        ("test/TimeTimedReward-v0", True),
        ("test/TimeTimedObservation-v0", True),
        ("test/TimeOwnClock-v0", True),
        ("test/TimeOwnRecording-v0", True),
        ("test/TimeOwnTimeless-v0", False),
        ("HalfCheetah-v5", False),
        ("mbrl/SmoothInvertedPendulum-v0", False),
    ],
)
def test_a_task_knows_whether_it_depends_on_time(name, expected):
    assert mbrl.make_task(name, threads=1).uses_time is expected
