"""Collected episodes against Gymnasium's own steps, one environment at a time."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv

import mbrl
from mbrl.data import Trajectories
from mbrl.errors import ArgumentError, DivergenceError, TaskError
from mbrl.tasks import collect, evaluate, random_actions

TORSO = "mbrl/HalfCheetahTorso-v0"


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def feedback(observations, t):
    """Drives the cart after the pole, too little: the poles fall at different times."""
    return (0.3 * observations[:, 1:2] + 0.001 * t).clamp(-3, 3)


def by_hand(name, act, seed, steps, **arguments):
    """One episode of act(observation, t)."""
    env = gymnasium.make(name, **arguments)
    observation, _ = env.reset(seed=seed)
    observations, actions, rewards = [observation], [], []
    for t in range(steps):
        actions.append(act(observation, t))
        observation, reward, terminated, truncated, _ = env.step(actions[-1])
        observations.append(observation)
        rewards.append(reward)
        if terminated or truncated:
            break
    return observations, actions, rewards


@pytest.mark.parametrize("limit", [40, 12])
def test_episodes_are_gymnasiums_bit_for_bit(limit):
    name = "InvertedPendulum-v5"
    task = mbrl.make_task(name, threads=1, max_episode_steps=limit)
    found = collect(task, feedback, episodes=5, steps=30, generator=seeded(3))
    assert len(found) == 5
    seeds = torch.randint(2**31 - 1, (5,), generator=seeded(3)).tolist()

    def act(observation, t):
        return feedback(torch.from_numpy(observation)[None], t)[0].numpy()

    for episode, seed in zip(found, seeds, strict=True):
        expected = by_hand(name, act, seed, 30, max_episode_steps=limit)
        for part, wanted in zip(episode, expected, strict=True):
            assert part.dtype == torch.float64
            np.testing.assert_array_equal(part, np.array(wanted))
    lengths = {len(episode.actions) for episode in found}
    if limit == 40:
        assert len(lengths) > 1, "some fall before others"
        assert min(lengths) < 30
    else:
        assert max(lengths) == 12


def test_random_actions_in_the_cheetah():
    task = mbrl.make_task(TORSO, threads=1)
    generator = seeded(7)
    found = collect(
        task, random_actions(task, generator), episodes=2, steps=25, generator=generator
    )
    again = seeded(7)
    seeds = torch.randint(2**31 - 1, (2,), generator=again).tolist()
    draws = [torch.rand(2, 6, generator=again, dtype=torch.float64) for _ in range(25)]
    for i, (episode, seed) in enumerate(zip(found, seeds, strict=True)):
        expected = by_hand(TORSO, lambda o, t, i=i: 2 * draws[t][i].numpy() - 1, seed, 25)
        for part, wanted in zip(episode, expected, strict=True):
            np.testing.assert_array_equal(part, np.array(wanted))


def test_calls_go_on_where_the_generator_stands():
    task = mbrl.make_task(TORSO, threads=1)

    def run(generator):
        act = random_actions(task, generator)
        return collect(task, act, episodes=2, steps=3, generator=generator)

    generator = seeded(0)
    run(generator)
    saved = generator.get_state()
    expected = run(generator)
    resumed = torch.Generator()
    resumed.set_state(saved)
    for one, other in zip(run(resumed), expected, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    first = run(seeded(0))
    assert not torch.equal(first[0].observations, expected[0].observations)


def test_random_actions_fill_their_box():
    task = mbrl.make_task("InvertedPendulum-v5", threads=1)  # actions in [-3, 3]
    act = random_actions(task, seeded(1))
    draws = torch.cat([act(torch.zeros(100, 4), t) for t in range(100)])
    assert draws.shape == (10_000, 1)
    assert float(draws.abs().max()) <= 3
    counts = torch.histc(draws, 10, min=-3, max=3)
    # Binomial counts, 4.5 deviations.
    assert float((counts - 1000).abs().max()) < 4.5 * 900**0.5


def test_actions_without_bounds_cannot_be_drawn():
    task = mbrl.make_task("InvertedPendulum-v5", threads=1)
    task.action_high = torch.tensor([torch.inf], dtype=torch.float64)
    with pytest.raises(TaskError, match="actions without bounds cannot be drawn"):
        random_actions(task, seeded(0))


def test_actions_are_recorded_as_they_were_taken():
    task = mbrl.make_task("InvertedPendulum-v5", threads=1)
    weight = torch.ones(1, requires_grad=True)

    def network(observations, t):
        actions = feedback(observations, t).float() * weight
        observations.fill_(9)  # it owns what it is given
        return actions

    (episode,) = collect(task, network, episodes=1, steps=4, generator=seeded(0))
    assert not episode.actions.requires_grad
    assert torch.equal(episode.actions, episode.actions.float().double()), "in single precision"
    assert not (episode.observations == 9).any()


def test_an_environment_that_writes_into_its_action_spoils_no_data(registered):
    class Doubles(InvertedPendulumEnv):
        def step(self, action):
            action *= 2
            return super().step(action)

    task = mbrl.make_task(registered(Doubles), threads=1)
    given = torch.tensor([[0.5], [-0.25]], dtype=torch.float64)
    for episode, action in zip(
        collect(task, lambda o, t: given, episodes=2, steps=3, generator=seeded(0)),
        (0.5, -0.25),
        strict=True,
    ):
        assert episode.actions.tolist() == [[action]] * 3


def test_rows_of_episodes_that_ended_do_not_count():
    task = mbrl.make_task("InvertedPendulum-v5", threads=1)
    pushed = torch.tensor([[0.0], [3.0]])  # the second falls at once
    whole, short = collect(task, lambda o, t: pushed, episodes=2, steps=20, generator=seeded(0))
    fallen = len(short.actions)
    assert fallen < len(whole.actions)
    seen = []

    def careless(observations, t):
        seen.append(observations[1].clone())
        return torch.where(torch.tensor([[False], [t >= fallen]]), torch.nan, pushed)

    again = collect(task, careless, episodes=2, steps=20, generator=seeded(0))
    for one, other in zip(again, (whole, short), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert len(seen) == len(whole.actions)
    assert torch.equal(torch.stack(seen[: fallen + 1]), short.observations)
    assert all(torch.equal(row, short.observations[-1]) for row in seen[fallen:])
    with pytest.raises(DivergenceError, match="a collection met NaN or infinity in: action"):
        collect(task, lambda o, t: pushed * torch.nan, episodes=2, steps=20, generator=seeded(0))


def test_collected_data_are_what_a_model_is_fitted_to():
    task = mbrl.make_task(TORSO, threads=1)
    data = Trajectories(task.observation_size, task.action_size)
    for seed in range(2):
        data.append(
            collect(
                task,
                random_actions(task, seeded(seed)),
                episodes=2,
                steps=3,
                generator=seeded(seed),
            )
        )
    assert (len(data), data.steps) == (4, 12)
    o, u, following, _ = data.transitions()
    rewards = torch.cat([episode.rewards for episode in data.episodes])
    # The velocity of the frame is in what was observed after a semi-implicit step.
    torch.testing.assert_close(following[:, 8] - 0.1 * u.square().sum(-1), rewards)
    assert task.observed_cost(o, u, following).shape == (12,)


def test_mistakes_are_named():
    task = mbrl.make_task("InvertedPendulum-v5", threads=1)
    for wrong in ({"episodes": 0}, {"steps": 0}, {"steps": True}, {"episodes": 1.0}):
        with pytest.raises(ArgumentError, match=f"{next(iter(wrong))} must be a positive integer"):
            collect(task, feedback, generator=seeded(0), **{"episodes": 1, "steps": 1, **wrong})
    for actions, found in ((torch.zeros(2), r"\[2\]"), (np.zeros((2, 1)), "ndarray")):
        with pytest.raises(ArgumentError, match=rf"actions of shape \[2, 1\], got {found}"):
            collect(task, lambda o, t, a=actions: a, episodes=2, steps=1, generator=seeded(0))


def test_a_simulation_that_is_put_back_in_silence_is_no_data(registered):
    class Explodes(InvertedPendulumEnv):
        def step(self, action):
            if action[0] > 2:
                self.data.qvel[:] = 1e30
            return super().step(action)

    task = mbrl.make_task(registered(Explodes), threads=1)
    harmless = collect(
        task, lambda o, t: torch.zeros(2, 1), episodes=2, steps=3, generator=seeded(0)
    )
    assert [len(episode.actions) for episode in harmless] == [3, 3]

    def act(observations, t):
        return torch.tensor([[0.0], [2.5 if t == 1 else 0.0]])

    with pytest.raises(DivergenceError, match=r"of a collection diverged in rows \[1\]") as caught:
        collect(task, act, episodes=2, steps=3, generator=seeded(0))
    assert caught.value.rows == (1,)


def test_environments_are_closed_whatever_happens(monkeypatch):
    task = mbrl.make_task("InvertedPendulum-v5", threads=1)
    opened, closed = [], []
    make = task.make_env

    def make_env():
        env = make()
        opened.append(env)
        monkeypatch.setattr(env, "close", lambda: closed.append(env))
        return env

    monkeypatch.setattr(task, "make_env", make_env)
    collect(task, feedback, episodes=3, steps=1, generator=seeded(0))
    with pytest.raises(ZeroDivisionError):
        collect(task, lambda o, t: 1 / 0, episodes=3, steps=1, generator=seeded(0))
    with pytest.raises(ZeroDivisionError):
        evaluate(task, lambda o: 1 / 0, episodes=2, seed=0)
    assert len(opened) == 8
    assert closed == opened
