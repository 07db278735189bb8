"""Distractors around any task, against the task and its environment without them."""

import gymnasium
import numpy as np
import pytest
import torch

import mbrl
from mbrl.errors import ArgumentError
from mbrl.tasks import evaluate

TASKS = {"CartPole-v1": {}, "Hopper-v5": {"threads": 1}}


@pytest.fixture(params=TASKS)
def tasks(request):
    """Return a task with three distractors, and without."""
    return [mbrl.make_task(request.param, distractors=k, **TASKS[request.param]) for k in (3, 0)]


def drawn_actions(task, count):
    generator = torch.Generator().manual_seed(1)
    if task.discrete_actions is not None:
        return torch.randint(task.discrete_actions, (count, 1), generator=generator).double()
    size = count, task.action_size
    return 2 * torch.rand(size, generator=generator, dtype=torch.float64) - 1


def test_starts_are_those_of_the_task_and_standard_normal_numbers(tasks):
    task, plain = tasks
    start, again = (task.start(500, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(start.state, again.state)
    own = plain.start(500, torch.Generator().manual_seed(3))
    assert torch.equal(start.state[:, :-3], own.state)
    assert torch.equal(start.context, own.context)
    noise = start.state[:, -3:]
    torch.testing.assert_close(noise.std(0), torch.ones(3).double(), rtol=0.1, atol=0)
    assert float(noise.mean(0).abs().max()) < 0.15
    assert float(torch.corrcoef(noise.T).fill_diagonal_(0).abs().max()) < 0.15


def test_they_come_with_every_observation_and_touch_nothing_else(tasks):
    task, plain = tasks
    generator = torch.Generator().manual_seed(0)
    start, noise = task.start(6, generator), torch.randn((6, 3), generator=generator).double()
    action, state = drawn_actions(task, 6), start.state
    seen = task.observe(state, context=start.context)
    assert seen.shape == (6, task.observation_size)
    assert torch.equal(seen[:, :-3], plain.observe(state[:, :-3], context=start.context))
    for step, without in ((task.step, plain.step), (task.advance, plain.advance)):
        found = step(state, action, context=start.context, noise=noise)
        own = without(state[:, :-3], action, context=start.context)
        assert torch.equal(found.next_state, torch.cat([own.next_state, noise], 1))
        assert torch.equal(found.observation[:, :-3], own.observation)
        torch.testing.assert_close(found.observation[:, -3:], noise, rtol=1e-7, atol=0)
        assert torch.equal(found.reward, own.reward)
        assert torch.equal(found.terminated, own.terminated)
        for wrong in (None, noise[:, :2]):
            with pytest.raises(ArgumentError, match=r"noise must have shape \[6, 3\], got"):
                step(state, action, context=start.context, noise=wrong)
    following = found.next_state
    assert torch.equal(task.terminated(following), plain.terminated(following[:, :-3]))
    reward = task.reward(state, action, following)
    assert torch.equal(reward, plain.reward(state[:, :-3], action, following[:, :-3]))
    with pytest.raises(ArgumentError, match="distractors follow no dynamics"):
        task.dynamics()


@pytest.mark.parametrize(("name", "precision"), [("CartPole-v1", "f4"), ("Hopper-v5", "f8")])
def test_environments_draw_them_from_their_own_generator(name, precision):
    task = mbrl.make_task(name, distractors=5, **TASKS[name])
    env, bare = task.make_env(), gymnasium.make(name).unwrapped
    assert env.observation_space.shape == (task.observation_size,)
    actions = drawn_actions(task, 4).numpy()
    seen, plain = [env.reset(seed=4)[0]], [bare.reset(seed=4)[0]]
    for action in actions:
        assert np.array_equal(task.state_of(env)[-5:], seen[-1][-5:])
        assert len(task.state_of(env)) == task.state_size
        seen.append(env.step(task.env_action(action))[0])
        plain.append(bare.step(task.env_action(action))[0])
    seen = np.array(seen)
    assert seen.dtype == precision
    assert env.observation_space.contains(seen[3])
    np.testing.assert_array_equal(seen[:, :-5], plain)
    # Resetting takes the generator's first draws, every observation the next five.
    drawn = np.random.default_rng(4)
    if name == "CartPole-v1":
        drawn.uniform(-0.05, 0.05, 4)
    else:
        drawn.uniform(-1, 1, bare.model.nq), drawn.uniform(-1, 1, bare.model.nv)
    np.testing.assert_array_equal(seen[:, -5:], drawn.standard_normal((5, 5)).astype(precision))


def test_an_evaluation_sees_them():
    task, widths = mbrl.make_task("InvertedPendulum-v5", distractors=2, threads=1), set()

    def act(observations):
        widths.add(observations.shape)
        return np.zeros((2, 1))

    plain = mbrl.make_task("InvertedPendulum-v5", threads=1)
    found = evaluate(task, act, episodes=2, seed=0)
    own = evaluate(plain, lambda o: np.zeros((2, 1)), episodes=2, seed=0)
    np.testing.assert_array_equal(found.lengths, own.lengths)
    assert widths == {(2, plain.observation_size + 2)}


@pytest.mark.parametrize(
    ("name", "count", "message"),
    [
        ("HalfCheetah-v5", 1.5, r"task_args.distractors must be an integer, got 1\.5"),
        ("CartPole-v1", -1, "task_args.distractors must not be negative, got -1"),
        ("mbrl/TwoState-v0", 2, "distractors"),
    ],
)
def test_what_cannot_be_is_refused(name, count, message):
    with pytest.raises(mbrl.MbrlError, match=message):
        mbrl.make_task(name, distractors=count)
