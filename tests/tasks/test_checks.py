"""Environments that are not what they seem: each is treated row by row, or refused by name."""

import types

import gymnasium
import mujoco
import numpy as np
import pytest
import torch
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from gymnasium.envs.mujoco.swimmer_v5 import SwimmerEnv

import mbrl
from mbrl.errors import DivergenceError, TaskError


class Sway(SwimmerEnv):
    """Swim along a heading that a reset draws and keeps in some way."""

    def reset_model(self):
        self.keep(self.np_random.uniform(-1, 1, size=2))
        return super().reset_model()

    def keep(self, heading):
        self.heading = heading

    def kept(self):
        return self.heading

    def reward(self):
        return float(self.data.qvel[:2] @ np.asarray(self.kept()))

    def step(self, action):
        self.do_simulation(action, self.frame_skip)
        return self._get_obs(), self.reward(), False, False, {}


class InTensor(Sway):
    def keep(self, heading):
        self.heading = torch.from_numpy(heading)

    def kept(self):
        return self.heading.numpy()


class InObject(Sway):
    def keep(self, heading):
        self.heading = types.SimpleNamespace(xy=heading)

    def kept(self):
        return self.heading.xy


class ByName(Sway):
    """Its formula reads the heading in ways that its code does not show."""

    def tensor_reward(self, state, action, next_state):
        return next_state[:, 5:7] @ torch.from_numpy(getattr(self, "head" + "ing"))


class Unseeded(Sway):
    def keep(self, heading):
        self.heading = np.random.default_rng().uniform(-1, 1, size=2)


class Rare(Sway):
    def keep(self, heading):
        self.heading = heading
        self.prize = 1 if self.np_random.uniform() < 0.03 else 0


class Windy(Sway):
    """It declares a context, and draws more."""

    def keep(self, heading):
        self.context, self.wind = heading[:1], heading[1:]

    def kept(self):
        return np.concatenate([self.context, self.wind])


class Servo(Sway):
    """Actions move the controls."""

    def step(self, action):
        return super().step(np.clip(self.data.ctrl + 0.2 * np.asarray(action), -1, 1))


class Patient(Sway):
    """It counts, and its count matters late."""

    def keep(self, heading):
        self.heading, self.count = heading, 0

    def step(self, action):
        observation, reward, *rest = super().step(action)
        self.count += 1
        return observation, reward - 5.0 * (self.count > 3), *rest


class Dimmed(Sway):
    """Its step shows another observation than its reset."""

    def step(self, action):
        observation, *rest = super().step(action)
        return 0.1 * observation, *rest


class Clipping(Sway):
    """It writes into the action that it is given."""

    def step(self, action):
        np.clip(action, -0.5, 0.5, out=action)
        return super().step(action)


class Direction(HalfCheetahEnv):
    """A stock environment whose weight is drawn anew in every episode."""

    def reset_model(self):
        self._forward_reward_weight = float(self.np_random.choice([-1.0, 1.0]))
        return super().reset_model()


class Falling(HopperEnv):
    """It ends by a rule of its own, and has no formula of it."""

    def step(self, action):
        observation, reward, _, truncated, info = super().step(action)
        return observation, reward, bool(self.data.qpos[1] < 1.0), truncated, info


class Draggy(HopperEnv):
    """Physics with something added, far from where it starts."""

    def do_simulation(self, ctrl, n_frames):
        super().do_simulation(ctrl, n_frames)
        if self.data.qpos[0] > 1:
            self.set_state(self.data.qpos.copy(), 0.9 * self.data.qvel)


class AlmostRight(HopperEnv):
    def tensor_reward(self, state, action, next_state):
        return 1.1 * (next_state[:, 0] - state[:, 0]) / self.dt + 0.95


class Floats(HopperEnv):
    def tensor_terminated(self, next_state):
        return torch.zeros(len(next_state))


@pytest.fixture
def task_of():
    names = []

    def make(entry, **options):
        name = f"checks/{entry.__name__}-v0"
        gymnasium.register(name, entry_point=entry, max_episode_steps=50)
        names.append(name)
        return mbrl.make_task(name, threads=1, **options)

    yield make
    for name in names:
        gymnasium.registry.pop(name, None)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("entry", [Sway, InTensor, ByName])
def test_every_row_is_rewarded_by_what_its_own_reset_drew(entry, task_of):
    task = task_of(entry)
    state, context = task.start(4, seeded())
    action = torch.zeros(4, 2, dtype=torch.float64)
    taken = task.step(state, action, context=context)
    expected = (taken.next_state[:, 5:7] * context).sum(-1)
    torch.testing.assert_close(taken.reward, expected)
    action.requires_grad_()
    following = task.dynamics()(state, action)
    rewards = task.reward(state, action, following, context=context)
    torch.testing.assert_close(rewards, expected)
    exact = mbrl.MujocoDynamics(task.simulator)(state, action)
    (found,) = torch.autograd.grad(rewards.sum(), action)
    (wanted,) = torch.autograd.grad((exact[:, 5:7] * context).sum(), action)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)


def test_a_formula_that_reads_a_pose_keeps_each_rows_own_in_backward(task_of, tmp_path):
    xml = tmp_path / "reach.xml"
    xml.write_text(
        """<mujoco><option timestep="0.01"/><worldbody>
        <body><joint name="x" type="slide" axis="1 0 0"/><joint type="slide" axis="0 1 0"/>
        <geom size=".05" mass="1"/></body>
        <body name="goal" mocap="true"><geom size=".01" contype="0" conaffinity="0"/></body>
        </worldbody><actuator><motor joint="x" ctrllimited="true" ctrlrange="-1 1"/></actuator>
        </mujoco>"""
    )

    class Pose(gymnasium.envs.mujoco.MujocoEnv):
        metadata = {"render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"]}

        def __init__(self):
            space = gymnasium.spaces.Box(-np.inf, np.inf, (4,))
            super().__init__(str(xml), 1, space)

        def reset_model(self):
            self.data.mocap_pos[0] = self.np_random.uniform(-1, 1, 3)
            self.set_state(np.zeros(2), self.np_random.uniform(-1, 1, 2))
            return self._get_obs()

        def _get_obs(self):
            return np.concatenate([self.data.qpos, self.data.qvel])

        def tensor_reward(self, state, action, next_state):
            place = torch.from_numpy(self.get_body_com("goal")[:2])
            return next_state[:, :2] @ torch.from_numpy(self.data.mocap_pos[0, :2]) + place.sum()

        def step(self, action):
            self.do_simulation(action, 1)
            mujoco.mj_kinematics(self.model, self.data)
            goal = self.data.mocap_pos[0, :2]
            return self._get_obs(), float(self.data.qpos @ goal + goal.sum()), False, False, {}

    task = task_of(Pose)
    state, context = task.start(3, seeded())
    action, following = torch.zeros(3, 1), state.clone().requires_grad_()
    rewards = task.reward(state, action, following, context=context)
    torch.testing.assert_close(rewards.detach(), context[:, :2].sum(-1))
    (gradient,) = torch.autograd.grad(rewards.sum(), following)
    torch.testing.assert_close(gradient[:, :2], context[:, :2])


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        (InObject, r"step does not repeat.* cannot be saved: heading \(SimpleNamespace\)"),
        (Unseeded, "reset does not repeat from one seed"),
        (Windy, "step depends on what its reset draws besides `context`: wind"),
        (Servo, "it depends on what a step changes, data.ctrl"),
        (Patient, "(it depends on what a step changes, count|step 3 of an episode gives another)"),
        (Dimmed, "its step returns another observation than its _get_obs"),
        (AlmostRight, "tensor_reward contradicts its step"),
        (Floats, "tensor_terminated of one row must be a boolean tensor"),
    ],
)
def test_what_is_no_function_of_state_time_and_context_is_refused(entry, words, task_of):
    with pytest.raises(TaskError, match=f"checks/{entry.__name__}-v0.*{words}") as caught:
        task_of(entry)
    assert "\n" not in str(caught.value)


def test_what_is_drawn_rarely_is_refused_when_it_is_drawn(task_of):
    with pytest.raises(TaskError, match="its reset draws prize now and then"):
        task_of(Rare).start(300, seeded())


def test_a_stock_formula_is_not_used_where_its_weights_are_drawn(task_of):
    task = task_of(Direction)
    state, context = task.start(6, seeded())
    action = torch.zeros(6, 6, dtype=torch.float64)
    taken = task.step(state, action, context=context)
    velocity = (taken.next_state[:, 0] - state[:, 0]) / task.simulator.dt
    torch.testing.assert_close(taken.reward, context[:, 0] * velocity)
    assert not task.has_reward_formula
    torch.testing.assert_close(
        task.reward(state, action, taken.next_state, context=context), taken.reward
    )


def test_episodes_end_where_the_environments_own_step_ends_them(task_of):
    task = task_of(Falling)
    state = task.reset(3, seeded())
    state[1, 1] = 0.9
    taken = task.step(state, torch.zeros(3, 3, dtype=torch.float64))
    assert taken.terminated.tolist() == [False, True, False]
    assert task.terminated(taken.next_state).tolist() == [False, True, False]
    assert not bool(task.terminated(taken.next_state + 1).any())
    alive = mbrl.build_graph(None, task).unroll(state, 3).alive
    assert alive.tolist() == [[True] * 3, [True, False, True], [True, False, True]]


def test_ends_that_a_graph_would_never_know_of_are_said(task_of):
    """Random actions let a hopper fall; no formula of this one says so."""

    class Rewarded(HopperEnv):
        def step(self, action):
            found = super().step(action)
            return found[0], float(self.data.qvel[0]), *found[2:]

        def tensor_reward(self, state, action, next_state):
            return next_state[:, 6]

    with pytest.warns(RuntimeWarning, match=r"ended an episode after \d+ steps.*tensor_terminated"):
        task = task_of(Rewarded)
    assert bool(mbrl.build_graph(None, task).unroll(task.reset(3, seeded()), 100).alive.all())

    class Ended(Rewarded):
        def tensor_terminated(self, next_state):
            return next_state[:, 1] < 0.7

    class Swaying(Sway):
        def tensor_reward(self, state, action, next_state):
            return next_state[:, 5:7] @ torch.from_numpy(np.asarray(self.kept()))

    for entry in (Ended, Swaying):
        task_of(entry)  # pytest makes an error of a warning


@pytest.mark.parametrize(
    ("what", "writes"),
    [
        *(("reward", argument) for argument in ("state", "action", "next_state")),
        ("terminated", "next_state"),
        ("observation", "next_state"),
    ],
)
def test_a_formula_that_writes_into_its_arguments_is_refused(what, writes, task_of):
    def written(**given):
        given[writes].mul_(1.0)  # changes no number here, and any number there

    class Writing(HopperEnv):
        pass

    def reward(self, state, action, next_state):
        written(state=state, action=action, next_state=next_state)
        return (next_state[:, 0] - state[:, 0]) / self.dt + 1 - 1e-3 * action.square().sum(-1)

    def terminated(self, next_state):
        written(next_state=next_state)
        return next_state[:, 1] < 0.7

    def observation(self, state):
        written(next_state=state)
        return torch.cat([state[:, 1:6], state[:, 6:].clamp(-10, 10)], -1)

    functions = {"reward": reward, "terminated": terminated, "observation": observation}
    setattr(Writing, f"tensor_{what}", functions[what])
    functions[what].__name__ = f"tensor_{what}"
    with pytest.raises(TaskError, match=rf"Writing-v0: tensor_{what} writes into its arguments"):
        task_of(Writing)


def test_ends_are_not_looked_for_where_steps_fail(task_of):
    class Fragile(HopperEnv):
        def step(self, action):
            if 0.2 < self.data.time < 2:
                raise DivergenceError("too wild", [0])
            found = super().step(action)
            return found[0], float(self.data.qvel[0]), False, *found[3:]

        def tensor_reward(self, state, action, next_state):
            return next_state[:, 6]

    assert task_of(Fragile).has_reward_formula


def test_tasks_are_made_in_inference_mode_too():
    action, rewards = torch.full((2, 2), 0.3, dtype=torch.float64), []
    for mode in (True, False):
        with torch.inference_mode(mode):
            task = mbrl.make_task("Reacher-v5", threads=1)
            state = task.reset(2, seeded())
            rewards.append(task.reward(state, action, task.dynamics()(state, action)))
    assert torch.equal(*rewards)


def test_physics_with_something_added_is_not_taken_for_plain(task_of):
    task = task_of(Draggy)
    state = task.reset(2, seeded())
    state[:, 0], state[:, 6] = 1.5, 1.0
    action = torch.zeros(2, 3, dtype=torch.float64)
    torch.testing.assert_close(task.dynamics()(state, action), task.step(state, action).next_state)


def test_an_environment_may_write_into_the_action_it_is_given(task_of):
    task = task_of(Clipping)
    state, context = task.start(1, seeded())
    action = torch.tensor([[0.9, 0.2]], dtype=torch.float64)
    task.step(state, action, context=context)
    assert action.tolist() == [[0.9, 0.2]]


def test_a_caller_may_go_on_writing_into_what_it_gave():
    task = mbrl.make_task("Ant-v5", threads=1)
    state = task.reset(1, seeded())
    action = torch.full((1, 8), 0.3, dtype=torch.float64)
    wanted = torch.autograd.grad(
        task.advance(state.clone(), a := action.clone().requires_grad_()).reward.sum(), a
    )[0]
    mutable = state.clone()
    first = task.advance(mutable, action)
    again, a = mutable.clone(), action.clone().requires_grad_()
    mutable[:, 2] += 0.5
    second = task.advance(again, a)
    (found,) = torch.autograd.grad(second.reward.sum(), a)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    assert first.reward.equal(second.reward)


def test_an_action_range_away_from_zero_is_probed_inside(task_of, tmp_path):
    from gymnasium.envs.mujoco import swimmer_v5

    source = swimmer_v5.__file__.replace("swimmer_v5.py", "assets/swimmer.xml")
    xml = tmp_path / "swimmer.xml"
    with open(source) as file:
        xml.write_text(file.read().replace('ctrlrange="-1 1"', 'ctrlrange="2 5"'))

    class Picky(SwimmerEnv):
        def __init__(self):
            super().__init__(xml_file=str(xml))

        def step(self, action):
            if not ((action >= 2) & (action <= 5)).all():
                raise ValueError(f"action {action} is out of range")
            return super().step(action)

    task = task_of(Picky)
    assert float(task.action_low[0]) == 2.0
