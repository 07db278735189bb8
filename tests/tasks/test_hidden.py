"""What a step depends on beside the state: found, saved, put back, refused."""

import gymnasium
import mujoco
import numpy as np
import pytest
import torch

import mbrl
from mbrl.errors import ArgumentError, TaskError
from tests.tasks import environments
from tests.tasks.common import place, points


@pytest.fixture
def made(registered):
    """Return a function from the name of a class to its task."""
    return lambda name: mbrl.make_task(registered(getattr(environments, name)), threads=1)


def test_the_context_is_what_resets_draw(made):
    task = made("Drone")
    state, context = task.start(4, torch.Generator().manual_seed(3))
    seeds = torch.randint(2**31 - 1, (4,), generator=torch.Generator().manual_seed(3)).tolist()
    env = gymnasium.make("test/Drone-v0").unwrapped
    for row, seed in enumerate(seeds):
        env.reset(seed=seed)
        np.testing.assert_array_equal(context[row], env.goal)
        np.testing.assert_array_equal(state[row], np.r_[env.data.qpos, env.data.qvel])
    assert task.context_size == 3
    assert made("Clocked").context_size == 0
    assert mbrl.make_task("HalfCheetah-v5", threads=1).context_size == 0


def test_a_missing_context_is_that_of_the_last_start_row_by_row(made):
    task = made("Drone")
    state, action, context = points(task, 3)
    _, drawn = task.start(3, torch.Generator().manual_seed(9))
    for given in (task.step(state, action), task.step(state, action, context=drawn)):
        assert torch.equal(given.reward, task.reward(state, action, state, context=drawn))
    with pytest.raises(ArgumentError, match=r"differ in their context; pass that of these 2 rows"):
        task.step(state[:2], action[:2])
    assert not torch.equal(
        task.step(state, action).reward, task.step(state, action, context=context).reward
    )


@pytest.mark.parametrize("shape", [(3, 2), (2, 3), (3,), (3, 3, 1)])
def test_a_context_of_another_shape_is_refused_in_one_line(shape, made):
    task = made("ContextDrone")
    state, action, _ = points(task, 3)
    wrong = torch.zeros(shape)
    calls = (
        lambda: task.step(state, action, context=wrong),
        lambda: task.reward(state, action, state, context=wrong),
        lambda: task.observe(state, context=wrong),
        lambda: task.terminated(state, context=wrong),
    )
    for call in calls:
        with pytest.raises(ArgumentError, match=r"^context must have shape \[3, 3\], got \[.*\]$"):
            call()


def test_a_declared_context_is_the_whole_context(made):
    task = made("ContextDrone")
    state, action, context = points(task, 2)
    assert task.context_size == 3
    formula = task.reward(state, action, state, context=context)
    expected = environments.nose_reward(context, action, state)
    assert torch.equal(formula, expected)
    following = task.step(state, action, context=context)
    torch.testing.assert_close(
        following.reward, task.reward(state, action, following.next_state, context=context)
    )


@pytest.mark.parametrize("name", ["FormulaDrone", "HelpedDrone", "OutsideDrone", "FormulaInputs"])
def test_formulas_that_read_what_resets_draw_are_given_each_rows_own(name, made):
    task = made(name)
    state, action, context = points(task, 4)
    taken = task.step(state, action, context=context)
    formula = task.reward(state, action, taken.next_state, context=context)
    torch.testing.assert_close(formula, taken.reward, rtol=1e-12, atol=1e-12)
    assert (taken.reward[1:] - taken.reward[:1]).abs().min() > 1e-2
    swapped = task.reward(state, action, taken.next_state, context=context.flip(0))
    assert not torch.allclose(swapped, taken.reward, atol=1e-2)


def test_user_inputs_that_a_reset_sets_are_drawn_and_constant_ones_kept(made):
    task = made("Inputs")
    # One applied force, three of wind, two of the three coordinates of the mark, one of two notes;
    # constants (the mark's x, the second note) are no part of the context, yet in every step.
    assert task.context_size == 1 + 3 + 2 + 1
    state, action, context = points(task, 3)
    env = gymnasium.make("test/Inputs-v0").unwrapped
    env.reset(seed=0)
    taken = task.step(state, action, context=context)
    for row in range(3):
        place(env, state[row])
        c = context[row].numpy()
        env.data.qfrc_applied[0], env.data.xfrc_applied[1, :3] = c[0], c[1:4]
        env.data.mocap_pos[0] = 0.1, c[4], c[5]
        env.data.userdata[:] = c[6], 2.0
        _, reward, *_ = env.step(action[row].numpy())
        np.testing.assert_array_equal(taken.next_state[row], np.r_[env.data.qpos, env.data.qvel])
        assert float(taken.reward[row]) == reward
    still = task.step(state, action, context=torch.zeros_like(context))
    assert (still.next_state - taken.next_state).abs().max() > 1e-3  # the wind blows


def test_a_step_that_changes_attributes_of_every_kind_leaves_no_trace(made):
    task = made("Keeper")
    state, action, context = points(task, 2)
    fresh = state + 0.0  # a reset leaves counters, lists and buffers at zero
    assert torch.equal(task.observe(state, context=context), fresh)
    first = task.step(state, action, context=context)
    task.advance(state.requires_grad_(), action, context=context).reward.sum().backward()
    assert torch.equal(task.observe(state.detach(), context=context), fresh)
    again = task.step(state.detach(), action, context=context)
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_steps_leave_what_is_drawn_later_alone(made):
    task = made("Drone")
    expected = task.start(5, torch.Generator().manual_seed(1))
    state, action, context = points(task, 3)
    u = action.requires_grad_()
    task.reward(state, u, state, context=context).sum().backward()
    found = task.start(5, torch.Generator().manual_seed(1))
    assert torch.equal(found.state, expected.state)
    assert torch.equal(found.context, expected.context)


def test_a_users_own_environment_is_not_touched_by_a_task(made):
    task = made("Drone")
    env = gymnasium.make("test/Drone-v0").unwrapped
    env.reset(seed=4)
    before = env.np_random.bit_generator.state
    goal, data = env.goal.copy(), env.data.qpos.copy()
    state, action, context = points(task, 3)
    task.reward(state, action.requires_grad_(), state, context=context).sum().backward()
    assert env.np_random.bit_generator.state == before
    np.testing.assert_array_equal(env.goal, goal)
    np.testing.assert_array_equal(env.data.qpos, data)
    assert env.model.opt.disableflags & mujoco.mjtDisableBit.mjDSBL_AUTORESET == 0


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        (
            "Noisy",
            "its step does not repeat: it depends on what a step changes, the random generator;",
        ),
        ("GloballyNoisy", "its step does not repeat: from one state, .* different results"),
        ("Counting", "its step does not repeat: it depends on what a step changes, count;"),
        ("Jerky", "its step does not repeat: it depends on what a step changes, previous;"),
        ("Reshaping", "its reset changes the model, so that episodes differ in their physics"),
        ("Speaking", "its reset draws the attribute 'word', now '(left|right)'; .*be numbers"),
        ("Growing", "its reset draws the attribute 'waypoints', now .* arrays of one shape"),
        ("Compound", r"observations must be vectors of numbers, the space is Dict\("),
        ("Pixels", r"observations must be vectors of numbers, the space is Box\("),
    ],
)
def test_environments_that_cannot_serve_are_refused_by_name(name, complaint, made):
    with pytest.raises(TaskError, match=f"^test/{name}-v0: {complaint}") as caught:
        made(name)
    assert "\n" not in str(caught.value)
