"""CartPole-v1 against Gymnasium's own environment."""

import gymnasium
import numpy as np
import pytest
import torch

import mbrl
from mbrl.errors import ArgumentError, ConfigError
from mbrl.tasks import evaluate

STATES, ACTIONS = 3000, 2


@pytest.fixture(scope="module")
def stepped():
    """States of every kind, actions, and what Gymnasium's environment makes of them."""
    rng = np.random.default_rng(0)
    states = rng.uniform(-1, 1, (STATES, 4)) * [2.5, 4.0, 0.22, 4.0]
    actions = rng.integers(0, ACTIONS, (STATES, 1))
    env = gymnasium.make("CartPole-v1").unwrapped
    env.reset(seed=0)
    rows = []
    for state, action in zip(states, actions, strict=True):
        env.state, env.steps_beyond_terminated = state, None
        observation, reward, terminated, *_ = env.step(int(action[0]))
        rows.append((env.state, reward, observation.astype(np.float64), terminated))
    found = [torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True)]
    return torch.from_numpy(states), torch.from_numpy(actions).double(), found


def test_a_step_is_gymnasiums_bit_for_bit(stepped):
    states, actions, wanted = stepped
    assert 0.05 < float(wanted[3].double().mean()) < 0.5
    for found, expected in zip(
        mbrl.make_task("CartPole-v1").step(states, actions), wanted, strict=True
    ):
        assert torch.equal(found, expected)


def test_a_differentiable_step_is_gymnasiums_to_the_last_bits(stepped):
    states, actions, wanted = stepped
    task = mbrl.make_task("CartPole-v1")
    found = task.advance(states, actions)
    torch.testing.assert_close(found.next_state, wanted[0], rtol=1e-15, atol=1e-15)
    assert torch.equal(found.reward, wanted[1])
    torch.testing.assert_close(found.observation, wanted[2], rtol=2e-7, atol=0)
    assert torch.equal(found.terminated, wanted[3])
    assert torch.equal(task.dynamics()(states, actions), found.next_state)
    assert torch.equal(task.reward(states, actions, wanted[0]), wanted[1])
    assert torch.equal(task.terminated(wanted[0]), wanted[3])
    assert torch.equal(task.observe(wanted[0]), wanted[2])


def test_its_derivatives_are_those_of_differences():
    dynamics = mbrl.make_task("CartPole-v1").dynamics()
    generator = torch.Generator().manual_seed(1)
    state = torch.rand((5, 4), generator=generator, dtype=torch.float64, requires_grad=True)
    action = torch.rand((5, 1), generator=generator, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(dynamics, (state, action))


def test_starts_are_uniform_around_upright_and_repeat():
    task = mbrl.make_task("CartPole-v1")
    start, again = (task.start(4000, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(start.state, again.state)
    assert start.context.shape == (4000, 0)
    assert float(start.state.abs().max()) <= 0.05
    deviation = torch.full((4,), 0.1 / 12**0.5, dtype=torch.float64)
    torch.testing.assert_close(start.state.std(0), deviation, rtol=0.05, atol=0)
    assert float(start.state.mean(0).abs().max()) < 0.002


def test_the_environment_is_gymnasiums():
    task = mbrl.make_task("CartPole-v1", max_episode_steps=9)
    env, bare = task.make_env(), gymnasium.make("CartPole-v1").unwrapped
    np.testing.assert_array_equal(env.reset(seed=4)[0], bare.reset(seed=4)[0])
    over, steps = False, 0
    while not over:
        observation, _, terminated, over, _ = env.step(steps % 2)
        np.testing.assert_array_equal(observation, bare.step(steps % 2)[0])
        np.testing.assert_array_equal(task.state_of(env), bare.state)
        steps += 1
        assert not terminated
    assert steps == 9


def test_an_evaluation_takes_indices():
    task, seed = mbrl.make_task("CartPole-v1"), 11

    def act(observations):
        return (observations[:, 2:3] + 0.5 * observations[:, 3:4] > 0).astype(np.float64)

    result = evaluate(task, act, episodes=3, seed=seed)
    for i in range(3):
        env = gymnasium.make("CartPole-v1")
        observation, _ = env.reset(seed=seed + i)
        total, over = 0.0, False
        while not over:
            action = int(observation[2] + 0.5 * observation[3] > 0)
            observation, reward, terminated, truncated, _ = env.step(action)
            total, over = total + reward, terminated or truncated
        assert result.returns[i] == result.lengths[i] == total


@pytest.mark.parametrize("action", [-1.0, 0.5, 2.0])
def test_an_action_that_is_no_index_is_refused(action):
    task = mbrl.make_task("CartPole-v1")
    with pytest.raises(ArgumentError, match=f"an action is an index from 0 to 1, got {action}"):
        evaluate(task, lambda o: np.full((1, 1), action), episodes=1, seed=0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"distractor": 3}, "task_args.distractor'; .*did you mean 'distractors'"),
        ({"distractors": 1.5}, r"task_args.distractors must be an integer, got 1\.5"),
        ({"max_episode_steps": 0}, "task_args.max_episode_steps must be at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_named(options, message):
    with pytest.raises((ArgumentError, ConfigError), match=message):
        mbrl.make_task("CartPole-v1", **options)
