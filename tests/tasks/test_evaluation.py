"""Evaluation against plain loops over one environment."""

import gymnasium
import numpy as np
import pytest

import mbrl
from mbrl.errors import TaskError
from mbrl.tasks import evaluate


def test_lockstep_evaluation_equals_episodes_one_by_one():
    task = mbrl.make_task("InvertedPendulum-v5", threads=1)

    def act(observations):
        return np.clip(3.0 * observations[:, 1:2] + 0.4 * observations[:, 3:4], -3, 3)

    result = evaluate(task, act, episodes=4, seed=20)
    for i in range(4):
        env = gymnasium.make("InvertedPendulum-v5")
        observation, _ = env.reset(seed=20 + i)
        total, steps, over = 0.0, 0, False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(act(observation[None])[0])
            total, steps, over = total + reward, steps + 1, terminated or truncated
        assert result.returns[i] == total
        assert result.lengths[i] == steps
    assert len(set(result.lengths)) > 1 or result.lengths[0] == 1000


def test_an_environment_without_a_time_limit_is_refused():
    task = mbrl.make_task("InvertedPendulum-v5", threads=1)
    task.max_episode_steps = None
    with pytest.raises(TaskError, match="has no max_episode_steps"):
        evaluate(task, lambda o: o[:, :1], episodes=1, seed=0)
