"""Environments as users write them: each one brings something that a task must get right."""

import threading

import gymnasium
import mujoco
import numpy as np
import torch
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.spaces import Box

from tests import models

DRONE = """
<mujoco>
  <option timestep="0.01" integrator="RK4"/>
  <size nuserdata="2"/>
  <worldbody>
    <body name="drone" pos="0 0 1">
      <freejoint/>
      <geom type="box" size="0.2 0.2 0.05" mass="1"/>
      <site name="nose" pos="0.2 0 0"/>
      <site name="a" pos="0.15 0.15 0"/><site name="b" pos="-0.15 0.15 0"/>
      <site name="c" pos="-0.15 -0.15 0"/><site name="d" pos="0.15 -0.15 0"/>
    </body>
    <body name="mark" mocap="true" pos="0 0 1.5"/>
  </worldbody>
  <actuator>
    <motor site="a" gear="0 0 1 0 0 0.1" ctrllimited="true" ctrlrange="0 6"/>
    <motor site="b" gear="0 0 1 0 0 -0.1" ctrllimited="true" ctrlrange="0 6"/>
    <motor site="c" gear="0 0 1 0 0 0.1" ctrllimited="true" ctrlrange="0 6"/>
    <motor site="d" gear="0 0 1 0 0 -0.1" ctrllimited="true" ctrlrange="0 6"/>
  </actuator>
</mujoco>
"""


class XmlEnv(MujocoEnv):
    """A model in a string, a random start, a smooth reward of everything."""

    xml = DRONE
    skip = 2

    def __init__(self, **kwargs):
        super().__init__(__file__, self.skip, None, **kwargs)
        self.observation_space = Box(-np.inf, np.inf, (len(self._get_obs()),), dtype=np.float64)

    def _initialize_simulation(self):
        model = mujoco.MjModel.from_xml_string(self.xml)
        return model, mujoco.MjData(model)

    def reset_model(self):
        qpos = self.init_qpos.copy()
        mujoco.mj_integratePos(
            self.model, qpos, 0.1 * self.np_random.standard_normal(self.model.nv), 1
        )
        self.draw()
        self.set_state(qpos, 0.1 * self.np_random.standard_normal(self.model.nv))
        return self._get_obs()

    def draw(self):
        """Whatever else a reset draws."""

    def _get_obs(self):
        return np.concatenate([self.data.qpos, self.data.qvel, self.data.act])

    def earned(self, action):
        seen = np.concatenate([self.data.qpos, self.data.qvel, self.data.act])
        return np.sin(seen) @ np.linspace(0.5, 1.5, len(seen)) - 0.1 * np.sum(action**2)

    def step(self, action):
        self.do_simulation(action, self.frame_skip)
        reward = self.earned(np.asarray(action, dtype=np.float64))
        return self._get_obs(), reward, False, False, {}


class Drone(XmlEnv):
    """A free joint, a reward from a site, a goal drawn at reset."""

    skip = 5

    def draw(self):
        self.goal = np.array([0, 0, 1]) + self.np_random.uniform(-0.5, 0.5, 3)

    def earned(self, action):
        mujoco.mj_kinematics(self.model, self.data)
        error = self.data.site("nose").xpos - self.goal
        return -np.sum(error**2) - 0.001 * np.sum(action**2)


def nose_reward(goal, action, following):
    """The drone's reward in torch."""
    w, x, y, z = (following[:, 3:7] / following[:, 3:7].norm(dim=-1, keepdim=True)).unbind(-1)
    forward = torch.stack([1 - 2 * (y**2 + z**2), 2 * (x * y + w * z), 2 * (x * z - w * y)], -1)
    error = following[:, :3] + 0.2 * forward - goal
    return -error.square().sum(-1) - 0.001 * action.square().sum(-1)


class FormulaDrone(Drone):
    """The same with a formula that reads the goal from the attribute."""

    def tensor_reward(self, state, action, next_state):
        return nose_reward(torch.from_numpy(self.goal), action, next_state)


class HelpedDrone(Drone):
    """The same with a formula that reads the goal through a method and a property."""

    @property
    def aim(self):
        return torch.from_numpy(self.goal)

    def _helper(self, action, next_state):
        return nose_reward(self.aim, action, next_state)

    def tensor_reward(self, state, action, next_state):
        return self._helper(action, next_state)


def outside(env, action, next_state):
    return nose_reward(torch.from_numpy(env.goal), action, next_state)


class OutsideDrone(Drone):
    """The same with a formula that reads the goal in a function of the module."""

    def tensor_reward(self, state, action, next_state):
        return outside(self, action, next_state)


class ContextDrone(Drone):
    """The same with a formula that is given the goal."""

    def draw(self):
        super().draw()
        self.context = self.goal = np.array(self.goal)

    def earned(self, action):
        self.goal = self.context
        return super().earned(action)

    def tensor_reward(self, state, action, next_state, context):
        return nose_reward(context, action, next_state)


class Clocked(XmlEnv):
    """A reward that depends on time."""

    xml = models.OWN["ball"]

    def earned(self, action):
        return super().earned(action) + self.data.time**2


class Halved(XmlEnv):
    """A step that applies half of the action."""

    def step(self, action):
        return super().step(0.5 * np.asarray(action))


class Mixer(XmlEnv):
    """Two actions make four controls."""

    def _set_action_space(self):
        self.action_space = Box(-1.0, 1.0, (2,), dtype=np.float32)
        return self.action_space

    def step(self, action):
        lift, twist = np.asarray(action, dtype=np.float64)
        self.do_simulation(2.5 + lift + np.array([1, -1, 1, -1]) * twist, self.frame_skip)
        return self._get_obs(), self.earned(np.array([lift, twist])), False, False, {}


class Ball(XmlEnv):
    xml = models.OWN["ball"]


class Muscle(XmlEnv):
    """Activations are part of the state."""

    xml = models.OWN["muscle"]


class Seeing(Drone):
    """An observation of its own: the way to the goal, in the drone's frame."""

    def _get_obs(self):
        frame = np.empty(9)
        mujoco.mju_quat2Mat(frame, self.data.qpos[3:7])
        goal = getattr(self, "goal", np.zeros(3))
        way = frame.reshape(3, 3).T @ (goal - self.data.qpos[:3])
        return np.concatenate([way, self.data.qvel, [np.sin(self.data.time)]])


class Blind(MujocoEnv):
    """No ``_get_obs``: its step and its reset observe by themselves."""

    def __init__(self, **kwargs):
        space = Box(-np.inf, np.inf, (7,), dtype=np.float64)
        super().__init__(__file__, 2, space, **kwargs)

    _initialize_simulation = XmlEnv._initialize_simulation
    xml = DRONE

    def reset_model(self):
        self.set_state(self.init_qpos, self.init_qvel)
        return self.data.qpos.copy()

    def step(self, action):
        self.do_simulation(action, self.frame_skip)
        return self.data.qpos.copy(), float(self.data.qpos[2]), False, False, {}


class Fragile(Drone):
    """Its step raises far up."""

    def earned(self, action):
        if self.data.qpos[2] > 50:
            raise ValueError("out of\nsight")
        return super().earned(action)


class Keeper(Drone):
    """A step that changes attributes of every kind, none of which it depends on."""

    def __init__(self, **kwargs):
        self.count, self.log, self.notes = 0, [], {"seen": [], "last": None}
        self.buffer, self.names = np.zeros(3), {"a"}
        self.lock = threading.Lock()  # cannot be copied
        super().__init__(**kwargs)

    def reset_model(self):
        self.count, self.log, self.notes = 0, [], {"seen": [], "last": None}
        self.buffer[:] = 0
        self.names = {"a"}
        return super().reset_model()

    def step(self, action):
        self.count += 1
        self.log.append(self.count)
        self.notes["seen"].append(float(action[0]))
        self.notes["last"] = "step"
        self.buffer += 1
        self.names.add("b")
        self.fresh = np.ones(2)
        return super().step(action)

    def tensor_observation(self, state):
        return state + (self.count + len(self.log) + self.buffer.sum()) * torch.ones(13)


class Inputs(Drone):
    """A goal shown by a mocap body, wind, a push and a note: all of it in MjData."""

    def draw(self):
        draw = self.np_random.uniform
        self.data.mocap_pos[0] = [0.1, draw(-0.5, 0.5), draw(1, 2)]
        self.data.xfrc_applied[1, :3] = draw(-1, 1, 3)
        self.data.qfrc_applied[0] = draw(-1, 1)
        self.data.userdata[:] = draw(0.5, 1.5), 2.0

    def earned(self, action):
        error = self.data.qpos[:3] - self.data.mocap_pos[0]
        return -self.data.userdata[0] * self.data.userdata[1] * np.sum(error**2)


class FormulaInputs(Inputs):
    """The same with a formula that reads them."""

    def tensor_reward(self, state, action, next_state):
        weight = float(self.data.userdata[0] * self.data.userdata[1])
        mark = torch.from_numpy(self.data.mocap_pos[0].copy())
        return -weight * (next_state[:, :3] - mark).square().sum(-1)


# What cannot serve, and why.


class Noisy(Drone):
    def earned(self, action):
        return super().earned(action) + self.np_random.normal()


class GloballyNoisy(Drone):
    def earned(self, action):
        return super().earned(action) + np.random.rand()  # noqa: NPY002


class Counting(Drone):
    """The reward is less the later it comes."""

    def draw(self):
        super().draw()
        self.count = 0

    def earned(self, action):
        self.count += 1
        return super().earned(action) / self.count


class Jerky(Drone):
    """The reward depends on the action before."""

    def draw(self):
        super().draw()
        self.previous = np.zeros(4)

    def earned(self, action):
        change, self.previous = action - self.previous, action
        return super().earned(action) - np.sum(change**2)


class Reshaping(Drone):
    """Domain randomisation: a reset changes the model."""

    def draw(self):
        super().draw()
        self.model.body_mass[1] = self.np_random.uniform(0.5, 1.5)


class Speaking(Drone):
    def draw(self):
        super().draw()
        self.word = str(self.np_random.choice(["left", "right"]))


class Growing(Drone):
    def draw(self):
        super().draw()
        self.waypoints = self.np_random.uniform(size=int(self.np_random.integers(1, 60)))


class Compound(Drone):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.observation_space = gymnasium.spaces.Dict({"seen": self.observation_space})


class Pixels(Drone):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.observation_space = Box(0, 255, (4, 4), dtype=np.uint8)
