"""Wrapped environments: steps, gradients and bounds are those of the whole."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.wrappers import (
    ClipAction,
    NormalizeObservation,
    RecordEpisodeStatistics,
    RescaleAction,
    TimeLimit,
    TransformReward,
)

import mbrl
from mbrl.errors import TaskError
from tests.tasks import environments
from tests.tasks.common import place, points


def rescaled(env):
    return RescaleAction(env, np.float32(-2.0), np.float32(3.0))


class OddAction(gymnasium.ActionWrapper):
    def action(self, action):
        return action**3


class Reclipped(ClipAction):
    pass


WRAPPED = {
    "rescaled": (environments.Drone, rescaled, (-2.0, 3.0)),
    "clipped": (environments.Drone, ClipAction, (0.0, 6.0)),
    "rescaled, then clipped": (
        environments.Drone,
        lambda env: ClipAction(rescaled(env)),
        (-2.0, 3.0),
    ),
    "rescaled twice": (
        environments.Drone,
        lambda env: rescaled(RescaleAction(env, np.float32(-0.5), np.float32(0.7))),
        (-2.0, 3.0),
    ),
    "harmless": (
        environments.Drone,
        lambda env: RecordEpisodeStatistics(TimeLimit(env, 7)),
        (0.0, 6.0),
    ),
    "formula": (HalfCheetahEnv, lambda env: ClipAction(rescaled(env)), (-2.0, 3.0)),
    "own formula": (environments.ContextDrone, rescaled, (-2.0, 3.0)),
}


@pytest.fixture
def made(registered):
    """Return a function from a class and its wrapper to (task, wrapped environment)."""

    def make(entry, wrap):
        class Entry(entry):
            pass

        id_ = registered(Entry, entry_point=lambda **options: wrap(entry(**options)))
        env = gymnasium.make(id_)
        env.reset(seed=0)
        return mbrl.make_task(id_, threads=1), env

    return make


def by_hand(env, state, action, context):
    bare = env.unwrapped
    given = {"goal": context.numpy()} if len(context) else {}
    if hasattr(bare, "context"):
        given["context"] = context.numpy()
    place(bare, state, **given)
    observation, reward, *_ = env.step(np.asarray(action))
    data = bare.data
    return np.concatenate([data.qpos, data.qvel, [reward], observation])


@pytest.mark.parametrize("case", WRAPPED)
def test_a_step_is_that_of_the_wrapped_environment(case, made):
    entry, wrap, _ = WRAPPED[case]
    task, env = made(entry, wrap)
    state, action, context = points(task, 4, steps=2)
    action = action * torch.tensor([[1.0], [1.0], [1.5], [-2.0]], dtype=torch.float64)
    taken = task.step(state, action, context=context)
    formula = task.reward(state, action, taken.next_state, context=context)
    following = task.dynamics()(state, action)
    for row in range(4):
        expected = by_hand(env, state[row], action[row], context[row])
        columns = taken.next_state[row], taken.reward[row : row + 1], taken.observation[row]
        # Gymnasium rescales in single precision.
        np.testing.assert_allclose(torch.cat(columns), expected, rtol=2e-6, atol=2e-6)
        np.testing.assert_allclose(
            following[row].detach(), expected[: task.state_size], rtol=2e-6, atol=2e-6
        )
        assert float(formula[row]) == pytest.approx(float(taken.reward[row]), abs=1e-9)


@pytest.mark.parametrize("case", WRAPPED)
def test_bounds_are_those_of_the_wrapped_environment(case, made):
    entry, wrap, bounds = WRAPPED[case]
    task, env = made(entry, wrap)
    assert (float(task.action_low[0]), float(task.action_high[0])) == bounds
    # A ClipAction takes any action; what makes sense are the bounds that it clips to.
    while env.action_space.low[0] == -np.inf:
        env = env.env
    np.testing.assert_array_equal(task.action_low, env.action_space.low)
    np.testing.assert_array_equal(task.action_high, env.action_space.high)


@pytest.mark.parametrize("case", WRAPPED)
def test_gradients_are_differences_of_steps(case, made):
    entry, wrap, _ = WRAPPED[case]
    task, _ = made(entry, wrap)
    state, action, context = points(task, 2, steps=2)
    dynamics = task.dynamics(centered=True)

    def total(u):
        return task.reward(state, u, dynamics(state, u), context=context)

    u = action.clone().requires_grad_()
    (found,) = torch.autograd.grad(total(u).sum(), u)
    with torch.no_grad():
        # Steps of the task, exact in double precision; that they are the environment's is above.
        def earned(u):
            return task.step(state, u, context=context).reward

        for j in range(task.action_size):
            h = torch.zeros_like(action)
            h[:, j] = 1e-5
            expected = (earned(action + h) - earned(action - h)) / 2e-5
            torch.testing.assert_close(found[:, j], expected, rtol=1e-4, atol=1e-6)
    assert found.abs().amax(dim=1).gt(1e-4).all()


def test_beyond_a_clipped_bound_nothing_flows_back(made):
    task, _ = made(environments.Drone, ClipAction)
    state, _, context = points(task, 2, steps=2)
    u = torch.tensor([[7.0, -1.0, 3.0, 3.0]] * 2, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(task.reward(state, u, state, context=context).sum(), u)
    assert not g[:, :2].any()
    assert g[:, 2:].all()
    u = torch.tensor([[6.0, 0.0, 3.0, 3.0]] * 2, dtype=torch.float64, requires_grad=True)
    (g,) = torch.autograd.grad(task.reward(state, u, state, context=context).sum(), u)
    assert g.all()  # an optimiser can leave the bound


def test_a_time_limit_inside_counts_as_the_tasks_own_only_if_it_is_registered(made):
    task, env = made(*WRAPPED["harmless"][:2])
    assert task.max_episode_steps == 50
    assert isinstance(env, TimeLimit)


@pytest.mark.parametrize(
    ("wrap", "named"),
    [
        (lambda env: TransformReward(env, lambda r: 2 * r), "TransformReward"),
        (NormalizeObservation, "NormalizeObservation"),
        (OddAction, "OddAction"),
        (Reclipped, "Reclipped"),
        (lambda env: ClipAction(OddAction(env)), "OddAction"),
    ],
)
def test_wrappers_that_are_not_understood_are_refused_by_name(wrap, named, made):
    with pytest.raises(TaskError, match=f"^test/Entry-v0: the wrapper {named} .*ClipAction") as e:
        made(environments.Drone, wrap)
    assert "\n" not in str(e.value)
