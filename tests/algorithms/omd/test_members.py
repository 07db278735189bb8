"""Environments of several seeds, and drawing actions there, against plain loops."""

import numpy as np
import pytest
import torch

import mbrl
from mbrl.algorithms.omd.discrete import sampled
from mbrl.algorithms.omd.members import Members, SeedsActor, returns_of
from mbrl.data import TransitionReplay
from mbrl.errors import ArgumentError

SEEDS, STEPS = 3, 60


def generators(first=0):
    return [torch.Generator().manual_seed(first + seed) for seed in range(SEEDS)]


def probabilities(observation):
    """A policy that mostly pushes to where the pole leans, each seed with its own resolution."""
    gain = torch.tensor([0.5, 8.0, 80.0], dtype=torch.float64)[:, None]
    right = torch.sigmoid(gain * (observation[..., 2] + 0.3 * observation[..., 3]))
    return torch.stack([1 - right, right], -1)


def leaning(observation, uniform):
    return sampled(probabilities(observation), uniform)


def test_indices_follow_their_distribution():
    probabilities = torch.tensor([[[0.2, 0.5, 0.3]], [[0.0, 0.0, 1.0]]], dtype=torch.float64)
    grid = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64).expand(2, -1)
    found = sampled(probabilities.expand(-1, 1000, -1), grid)
    assert found.shape == (2, 1000, 1)
    shares = [[float((row == a).double().mean()) for a in range(3)] for row in found]
    np.testing.assert_allclose(shares, [[0.2, 0.5, 0.3], [0, 0, 1]], atol=1e-12)


@pytest.mark.parametrize("distractors", [0, 2])
def test_members_are_environments_that_begin_again_when_an_episode_ends(distractors):
    task = mbrl.make_task("CartPole-v1", max_episode_steps=25, distractors=distractors)
    members = Members(task, generators())
    noise, n = members.noise(STEPS), task.observation_size
    replay = TransitionReplay(SEEDS, STEPS, observation_size=n, action_size=1)
    actions = torch.randint(2, (STEPS, SEEDS, 1), generator=torch.Generator().manual_seed(5))
    actions[:, 2] = (torch.arange(STEPS) % 2)[:, None]  # falls so late that it is cut
    for t in range(STEPS):
        members.step(actions[t].double(), noise[t], replay)
    batch = replay.batch(torch.arange(STEPS).expand(SEEDS, -1), torch.float64)
    lengths = []
    for seed, generator in enumerate(generators()):
        state = task.reset(1, generator)
        steps = torch.randn((STEPS, 1, distractors), generator=generator, dtype=torch.float64)
        assert torch.equal(steps[:, 0], noise[:, seed])
        age = 0
        for t in range(STEPS):
            action = actions[t, seed : seed + 1].double()
            found = task.step(state, action, **({"noise": steps[t]} if distractors else {}))
            age += 1
            assert torch.equal(batch.observation[seed, t], task.observe(state)[0])
            assert torch.equal(batch.action[seed, t], action[0])
            assert torch.equal(batch.following[seed, t], found.observation[0])
            assert float(batch.reward[seed, t]) == 1
            assert bool(batch.mask[seed, t]) != bool(found.terminated)
            state = found.next_state
            if bool(found.terminated) or age == 25:
                lengths.append((age, bool(found.terminated)))
                state, age = task.reset(1, generator), 0
    assert (25, False) in lengths, "one was cut"
    assert any(ended for _, ended in lengths), "one fell"


def test_returns_are_those_of_episodes_one_by_one():
    task, episodes = mbrl.make_task("CartPole-v1", max_episode_steps=80, distractors=1), 4
    found = returns_of(task, leaning, generators(), episodes)
    assert found.shape == (SEEDS, episodes)
    for seed, generator in enumerate(generators()):
        start = task.reset(episodes, generator)
        uniform = torch.rand((80, episodes), generator=generator, dtype=torch.float64)
        noise = torch.randn((80, episodes, 1), generator=generator, dtype=torch.float64)
        for episode in range(episodes):
            state, total, over = start[episode : episode + 1], 0.0, False
            while not over and total < 80:
                t = int(total)
                left = probabilities(task.observe(state).expand(SEEDS, 1, -1))[seed, 0, 0]
                action = (uniform[t, episode] > left).double().view(1, 1)
                step = task.step(state, action, noise=noise[t, episode : episode + 1])
                state, over, total = step.next_state, bool(step.terminated), total + 1
            assert float(found[seed, episode]) == total
    assert float(found.max()) == 80 > float(found.min())


def test_rows_are_dealt_to_the_seeds_in_turn_and_a_reset_repeats_the_draws():
    def act(observation, uniform):
        """Seed s takes action s of four, whatever it sees, but for rows of ones: any."""
        sure = torch.eye(4, dtype=torch.float64)[: len(observation), None]
        any_ = observation[..., :1].abs() > 0.5
        return sampled(torch.where(any_, 0.25, sure.expand(-1, observation.shape[1], -1)), uniform)

    actor = SeedsActor(act, range(5, 8))
    for rows in (1, 3, 8):
        found = actor.act(np.zeros((rows, 5), dtype=np.float32))
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, (np.arange(rows) % 3)[:, None])
        for seed in (5, 6, 7):
            np.testing.assert_array_equal(actor.of(seed).act(np.zeros((rows, 5))), seed - 5)
    with pytest.raises(ArgumentError, match="one of the run's, 5, 6, 7, got 8"):
        actor.of(8)
    actor.reset()
    first, second = (actor.act(np.ones((50, 5))) for _ in range(2))
    assert set(first.ravel()) == {0, 1, 2, 3}
    assert not np.array_equal(first, second)
    actor.reset()
    np.testing.assert_array_equal(actor.act(np.ones((50, 5))), first)


def test_episodes_keep_their_goals_and_begin_again_with_others():
    task = mbrl.make_task("mbrl/Reach-v0", threads=1)
    assert task.context_size > 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "max_episode_steps", 4)
        members = Members(task, generators())
        noise = members.noise(10)
        replay = TransitionReplay(
            SEEDS, 10, observation_size=task.observation_size, action_size=task.action_size
        )
        action = torch.zeros(SEEDS, task.action_size, dtype=torch.float64)
        for t in range(10):
            members.step(action, noise[t], replay)
    batch = replay.batch(torch.arange(10).expand(SEEDS, -1), torch.float64)
    for seed, generator in enumerate(generators()):
        start = task.start(1, generator)
        torch.randn((10, 0), generator=generator, dtype=torch.float64)
        state = start.state
        for t in range(10):
            found = task.step(state, action[:1], context=start.context)
            torch.testing.assert_close(batch.reward[seed, t], found.reward[0], rtol=1e-6, atol=1e-6)
            torch.testing.assert_close(
                batch.following[seed, t], found.observation[0], rtol=1e-6, atol=1e-6
            )
            state = found.next_state
            if t % 4 == 3:
                start = task.start(1, generator)
                state = start.state
