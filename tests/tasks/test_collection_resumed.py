"""Collections that are put by and gone on with, against those that never stopped."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv

import mbrl
from mbrl.errors import ArgumentError, DivergenceError, TaskError
from mbrl.tasks import Collection
from tests.tasks.environments import ContextDrone, Keeper

PENDULUM = "InvertedPendulum-v5"


def pushes(width, low, high, steps, rows=4):
    """Actions [T, B, nu], the same in every test."""
    return np.random.default_rng(3).uniform(low, high, (steps, rows, width))


def parts(collection):
    return [
        [part.numpy() for part in episode] for episode in collection.episodes()
    ], collection.running


def run(task, actions, stop=None, **options):
    """Take all steps; with ``stop``, put by before that one and gone on with from what was kept."""
    collection = Collection(task, [11, 5, 7, 2], steps=len(actions), **options)
    for t, action in enumerate(actions):
        if collection.is_over:
            break
        if t == stop:
            state = collection.state_dict()
            collection.close()
            collection = Collection.resumed(task, state, steps=len(actions), **options)
            assert collection.t == t
        collection.step(action)
    collection.close()
    return collection


def equal(one, other):
    (a, running), (b, still) = parts(one), parts(other)
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        for p, q in zip(x, y, strict=True):
            np.testing.assert_array_equal(p, q)
    np.testing.assert_array_equal(running, still)
    np.testing.assert_array_equal(one.observations, other.observations)
    np.testing.assert_array_equal(one.contexts, other.contexts)


@pytest.mark.parametrize("space", ["observations", "states"])
@pytest.mark.parametrize("stop", [0, 5, 12])
def test_episodes_that_end_early_go_on_bit_for_bit(space, stop):
    task = mbrl.make_task(PENDULUM, threads=1)
    actions = pushes(1, -1, 1, 40)
    whole = run(task, actions, space=space)
    lengths = sorted(len(episode.actions) for episode in whole.episodes())
    assert lengths[0] < 12 < lengths[-1], "the last is put by with some that have ended"
    equal(run(task, actions, stop, space=space), whole)


def test_states_are_what_the_environments_data_hold():
    task = mbrl.make_task(PENDULUM, threads=1)
    actions = pushes(1, -1, 1, 10)
    found = run(task, actions, stop=4, space="states").episodes()
    for i, seed in enumerate([11, 5, 7, 2]):
        env = gymnasium.make(PENDULUM)
        env.reset(seed=seed)
        data = env.unwrapped.data
        seen, earned = [np.concatenate([data.qpos, data.qvel])], []
        for action in actions[: len(found[i].actions), i]:
            earned.append(env.step(action)[1])
            seen.append(np.concatenate([data.qpos, data.qvel]))
        np.testing.assert_array_equal(found[i].observations, seen)
        np.testing.assert_array_equal(found[i].rewards, earned)


def test_an_environment_with_a_state_of_its_own_goes_on_where_it_was(registered):
    """Wear is in no MjData, and a new environment has none."""

    class Wearing(Keeper):
        def reset_model(self):
            self.wear = 0.0
            return super().reset_model()

        def step(self, action):
            found = super().step(action)
            self.wear += float(np.sum(np.square(action)))
            return found[0], found[1], self.wear > 250, False, found[4]

    task = mbrl.make_task(registered(Wearing), threads=1)
    actions = pushes(4, 0, 6, 12)
    whole = run(task, actions)
    ends = [
        next(t for t in range(99) if (a[: t + 1] ** 2).sum() > 250) + 1
        for a in actions.transpose(1, 0, 2)
    ]
    assert [len(episode.actions) for episode in whole.episodes()] == ends
    assert 1 < min(ends) < max(ends) <= 12
    equal(run(task, actions, min(ends)), whole)
    equal(run(task, actions, 2), whole)


def test_contexts_are_those_of_the_episodes(registered):
    name = registered(ContextDrone)
    task = mbrl.make_task(name, threads=1)
    actions = pushes(4, 0, 6, 4)
    found = run(task, actions, stop=2)
    for i, seed in enumerate([11, 5, 7, 2]):
        env = gymnasium.make(name, disable_env_checker=True)
        env.reset(seed=seed)
        np.testing.assert_array_equal(found.contexts[i], env.unwrapped.context)
    assert found.contexts.shape == (4, 3)
    plain = mbrl.make_task(PENDULUM, threads=1)
    with Collection(plain, [1, 2], steps=1) as collection:
        assert collection.contexts.shape == (2, 0)


def test_success_is_that_of_the_last_steps():
    cost = {"upright": {"residual": {"kind": "joint_position", "joint": "slider"}}}
    goal = {
        "terms": {"near": {"residual": cost["upright"]["residual"], "below": 0.12}},
        "last": 0.06,
    }
    task = mbrl.make_task(
        "mbrl/Residual-v0",
        threads=1,
        model="cartpole.xml",
        frame_skip=2,
        cost=cost,
        reset={"joints": {"slider": [-0.2, 0.2]}},
        success=goal,
        max_episode_steps=40,
    )
    assert task.success.steps == 3
    actions = pushes(1, -0.2, 0.2, 12, rows=4)
    whole = run(task, actions)
    place = np.stack([episode.observations[-3:, 0] for episode in whole.episodes()])
    expected = (np.abs(place) < 0.12).all(1)
    np.testing.assert_array_equal(whole.succeeded, expected)
    assert expected.any()
    assert not expected.all()
    np.testing.assert_array_equal(run(task, actions, 11).succeeded, expected)
    plain = mbrl.make_task(PENDULUM, threads=1)
    with Collection(plain, [1], steps=1) as collection:
        assert collection.succeeded is None


def test_an_environment_that_does_not_repeat_is_refused(registered):
    class Ageing(InvertedPendulumEnv):
        """Every one that is made is a little heavier than the one before."""

        made = 0

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            Ageing.made += 1
            self.model.body_mass[1] *= 1 + 0.01 * Ageing.made

    task = mbrl.make_task(registered(Ageing), threads=1)
    actions = pushes(1, -1, 1, 6)
    with pytest.raises(
        TaskError, match=r"Ageing-v0: cannot go on in the middle of episodes: .*rep"
    ):
        run(task, actions, 3)
    run(task, actions, 0)  # nothing has happened yet


def opened(task, monkeypatch):
    """Lists of the environments that are made of a task, and of those that are closed."""
    made, closed = [], []
    make = task.make_env

    def make_env():
        env = make()
        made.append(env)
        monkeypatch.setattr(env, "close", lambda: closed.append(env))
        return env

    monkeypatch.setattr(task, "make_env", make_env)
    return made, closed


def test_environments_are_closed_where_a_collection_cannot_begin(registered, monkeypatch):
    class Blind(InvertedPendulumEnv):
        broken = False

        def reset_model(self):
            found = super().reset_model()
            return found * np.nan if Blind.broken else found

        def step(self, action):
            if Blind.broken:
                raise ValueError("broken")
            return super().step(action)

    task = mbrl.make_task(registered(Blind), threads=1)
    collection = Collection(task, [1, 2], steps=3)
    collection.step(np.zeros((2, 1)))
    state = collection.state_dict()
    collection.close()
    made, closed = opened(task, monkeypatch)
    monkeypatch.setattr(Blind, "broken", True)
    with pytest.raises(DivergenceError, match="met NaN or infinity in: observation"):
        Collection(task, [1, 2], steps=3)
    assert len(made) == 2
    assert closed == made
    monkeypatch.setattr(Blind, "reset_model", InvertedPendulumEnv.reset_model)
    with pytest.raises(TaskError, match="broken"):
        Collection.resumed(task, state, steps=3)
    assert len(made) == 4
    assert closed == made


def test_what_was_kept_does_not_change():
    task = mbrl.make_task(PENDULUM, threads=1)
    with Collection(task, [1, 2], steps=5) as collection:
        empty = collection.state_dict()
        collection.step(np.zeros((2, 1)))
        state = collection.state_dict()
        kept = {name: torch.as_tensor(value).clone() for name, value in state.items()}
        given = np.ones((2, 1))
        collection.step(given)
        given[:] = 9
        assert collection.state_dict()["actions"][1].tolist() == [[1.0], [1.0]]
    assert empty["actions"].shape == (0, 2, 1)
    assert all(torch.equal(torch.as_tensor(state[name]), kept[name]) for name in kept)
    with pytest.raises(ArgumentError, match="steps must be a positive integer, got 0"):
        Collection(task, [1], steps=0)
