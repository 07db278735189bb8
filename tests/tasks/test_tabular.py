"""Tabular processes as tasks: their tables, their steps, their environments."""

import numpy as np
import pytest
import torch

import mbrl
from mbrl.errors import ArgumentError, ConfigError
from mbrl.tasks import TabularMDP, TabularTask, evaluate
from mbrl.tasks.tabular import two_state

P = [[[0.7, 0.3], [0.99, 0.01]], [[0.2, 0.8], [0.99, 0.01]]]
R = [[-0.45, -0.1], [0.5, 0.5]]


@pytest.fixture
def task():
    return mbrl.make_task("mbrl/TwoState-v0")


def column(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


def test_the_two_state_process(task):
    assert isinstance(task, TabularTask)
    mdp = task.mdp
    np.testing.assert_array_equal(mdp.transitions, P)
    np.testing.assert_array_equal(mdp.rewards, R)
    np.testing.assert_array_equal(mdp.initial, [0.5, 0.5])
    assert (mdp.discount, mdp.temperature, mdp.states, mdp.actions) == (0.9, 0.01, 2, 2)
    assert task.discrete_actions == 2
    assert task.simulator is None
    assert (task.action_low.tolist(), task.action_high.tolist()) == ([0.0], [1.0])


def test_steps_draw_next_states_by_their_probabilities(task):
    count = 40_000
    noise = torch.randn((count, 1), generator=torch.Generator().manual_seed(0)).double()
    for s in (0, 1):
        for a in (0, 1):
            state, action = (torch.full_like(noise, float(index)) for index in (s, a))
            found = task.step(state, action, noise=noise)
            share = float(found.next_state.mean())
            deviation = (P[s][a][1] * P[s][a][0] / count) ** 0.5
            assert abs(share - P[s][a][1]) < 4 * deviation
            assert set(found.next_state.unique().tolist()) <= {0.0, 1.0}
            assert set(found.reward.tolist()) == {R[s][a]}
            assert not found.terminated.any()
            np.testing.assert_array_equal(found.observation, found.next_state)
    start = task.reset(count, torch.Generator().manual_seed(1))
    assert start.shape == (count, 1)
    assert abs(float(start.mean()) - 0.5) < 4 * 0.5 / count**0.5


def test_next_states_invert_the_distribution_function(task):
    # Phi(0.5244) = 0.7: of state 0 under action 0, what lies below goes to state 0.
    below, above = 0.5243, 0.5245
    found = task.step(column(0, 0), column(0, 0), noise=column(below, above))
    assert found.next_state[:, 0].tolist() == [0.0, 1.0]
    stays, nothing = torch.eye(2, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64)
    certain = TabularMDP(stays[:, None], nothing, 0.5, stays[0], 1.0)
    far = TabularTask("certain", certain, 5)
    moved = far.step(column(0, 1, 0, 1), torch.zeros(4, 1).double(), noise=column(40, -40, -40, 40))
    assert moved.next_state[:, 0].tolist() == [0.0, 1.0, 0.0, 1.0]


def test_the_environment_takes_the_steps_of_the_task(task):
    env = task.make_env()
    observation, _ = env.reset(seed=3)
    dice = np.random.default_rng(3)  # Gymnasium's, of this seed
    dice.standard_normal((1, 1))  # the initial state
    for t in range(100):
        state = task.state_of(env)
        np.testing.assert_array_equal(state, observation)
        noise = torch.from_numpy(dice.standard_normal((1, 1)))
        found = task.step(torch.from_numpy(state)[None], column(t % 2), noise=noise)
        observation, reward, terminated, truncated, _ = env.step(t % 2)
        np.testing.assert_array_equal(observation, found.observation[0])
        assert reward == float(found.reward[0])
        assert not terminated
        assert truncated == (t == 99)


def test_episodes_of_a_policy_earn_what_its_chain_earns(task):
    """Action 0 everywhere: the chain's mean reward over 100 steps, from (0.5, 0.5)."""
    chain, state, expected = np.array(P)[:, 0], np.array([0.5, 0.5]), 0.0
    for _ in range(100):
        expected += state @ np.array(R)[:, 0]
        state = state @ chain
    found = evaluate(task, lambda seen: np.zeros((len(seen), 1)), episodes=200, seed=0)
    assert (found.lengths == 100).all()
    assert abs(found.returns.mean() - expected) < 4 * found.returns.std() / 200**0.5


@pytest.mark.parametrize(
    ("state", "action", "words"),
    [
        (2.0, 0.0, "state must be an index from 0 to 1, got 2"),
        (0.5, 0.0, "state must be an index from 0 to 1, got 0.5"),
        (0.0, -1.0, "action must be an index from 0 to 1, got -1"),
        (0.0, float("nan"), "action must be an index from 0 to 1, got nan"),
    ],
)
def test_what_is_no_index_is_refused(task, state, action, words):
    with pytest.raises(ArgumentError, match=words):
        task.step(column(state), column(action), noise=column(0.0))


def test_what_does_not_go_is_refused(task):
    with pytest.raises(ArgumentError, match=r"noise must have shape \[1, 1\], got None"):
        task.step(column(0), column(0))
    with pytest.raises(ArgumentError, match="indices, which have no derivatives"):
        task.dynamics()
    with pytest.raises(ConfigError, match=r"unknown key 'task_args.discont'; .*'discount'"):
        mbrl.make_task("mbrl/TwoState-v0", discont=0.5)
    with pytest.raises(ArgumentError, match="max_episode_steps must be at least 1, got 0"):
        mbrl.make_task("mbrl/TwoState-v0", max_episode_steps=0)
    with pytest.raises(ArgumentError, match=r"discount must lie in \[0, 1\), got 1"):
        mbrl.make_task("mbrl/TwoState-v0", discount=1)
    with pytest.raises(ArgumentError, match="temperature must be positive, got 0"):
        two_state(temperature=0.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"transitions": torch.ones(2, 2, 3)}, r"shape \[2, 2, 2\], got \[2, 2, 3\]"),
        ({"transitions": torch.full((2, 2, 2), 0.4)}, "transitions must hold probabilities"),
        ({"initial": torch.tensor([1.5, -0.5])}, "initial must hold probabilities"),
    ],
)
def test_tables_that_are_none_are_refused(changes, words):
    known = two_state()
    given = {name: getattr(known, name) for name in known.__dataclass_fields__}
    with pytest.raises(ArgumentError, match=words):
        TabularMDP(**{**given, **changes})
