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


def test_a_controller_that_measures_the_state():
    task = mbrl.make_task("InvertedPendulum-v5", threads=1)
    seen = []

    def on_states(states, t, contexts, running):
        seen.append((t, running.copy()))
        assert states.shape == (3, task.state_size)
        assert contexts.shape == (3, 0)
        return np.clip(3.0 * states[:, 1:2] + 0.4 * states[:, 3:4], -3, 3)

    def on_observations(observations):
        return np.clip(3.0 * observations[:, 1:2] + 0.4 * observations[:, 3:4], -3, 3)

    found = evaluate(task, on_states, episodes=3, seed=20, on_states=True)
    wanted = evaluate(task, on_observations, episodes=3, seed=20)
    np.testing.assert_array_equal(found.returns, wanted.returns)
    np.testing.assert_array_equal(found.lengths, wanted.lengths)
    assert found.successes is None
    assert [t for t, _ in seen] == list(range(int(wanted.lengths.max())))
    np.testing.assert_array_equal(
        [running for _, running in seen], wanted.lengths > np.c_[: len(seen)]
    )


def test_a_controller_is_told_the_context():
    task = mbrl.make_task("mbrl/Track-v0", threads=1)
    told = []

    def act(states, t, contexts, running):
        told.append(contexts.copy())
        return np.zeros((2, task.action_size))

    evaluate(task, act, episodes=2, seed=7, on_states=True)
    for i in range(2):
        env = gymnasium.make("mbrl/Track-v0")
        env.reset(seed=7 + i)
        np.testing.assert_array_equal(told[0][i], env.unwrapped.context)
    np.testing.assert_array_equal(told[-1], told[0])
