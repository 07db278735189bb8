"""What is set in MjData: which of it physics depends on, and that it is not left out."""

import mujoco
import numpy as np
import pytest
import torch

import mbrl
from mbrl.tasks.user_inputs import acting_inputs, read_inputs, write_inputs
from tests.tasks.environments import XmlEnv

BALL = """<body name="ball" pos="0 0 .3"><freejoint/><geom name="ball" size=".1"/><site name="on"/>
<site name="side" pos=".3 0 0"/></body>"""
MARK = '<body name="m" mocap="true" pos="0 0 .5">{}</body>'
COLD = 'contype="0" conaffinity="0"'
# What hangs on the mocap body, what stands beside the world; whether physics depends on its pose.
SCENES = {
    "nothing": ("", "", False),
    "a mark": (f'<geom size=".3" {COLD}/><site name="s"/>', "", False),
    "marks below": (f'<body><geom size=".3" {COLD}/></body>', "", False),
    "collides": ('<geom size=".3"/>', "", True),
    "below it collides": ('<body><geom size=".3"/></body>', "", True),
    "pair": (
        f'<geom name="g" size=".3" {COLD}/>',
        '<contact><pair geom1="g" geom2="ball"/></contact>',
        True,
    ),
    "weld": ("", '<equality><weld body1="m" body2="ball"/></equality>', True),
    "connect": (
        '<site name="s"/>',
        '<equality><connect site1="s" site2="on"/></equality>',
        True,
    ),
    "tendon": (
        '<site name="s"/>',
        '<tendon><spatial stiffness="9"><site site="s"/><site site="on"/></spatial></tendon>',
        True,
    ),
    "around": (
        f'<geom name="g" size=".1" {COLD}/>',
        '<tendon><spatial stiffness="9"><site site="fixed"/><geom geom="g"/><site site="on"/>'
        "</spatial></tendon>",
        True,
    ),
    "thruster": (
        '<site name="s"/>',
        '<actuator><general site="on" refsite="s" gear="1 2 3 0 0 0"/></actuator>',
        True,
    ),
}


@pytest.mark.parametrize("name", SCENES)
def test_a_pose_acts_where_a_step_of_mujoco_depends_on_it(name):
    on, beside, wanted = SCENES[name]
    model = mujoco.MjModel.from_xml_string(
        f"<mujoco><size nuserdata='2'/><worldbody><site name='fixed' pos='.1 0 1'/>{BALL}"
        f"{MARK.format(on)}</worldbody>{beside}</mujoco>"
    )
    data = mujoco.MjData(model)
    inputs, acting = read_inputs(model, data), acting_inputs(model)
    assert acting.shape == inputs.shape
    assert acting[: 6 + 6 * model.nbody + model.neq].all()
    assert acting[-9:].tolist() == [wanted] * 7 + [False] * 2

    def following(entry):
        mujoco.mj_resetData(model, data)
        data.ctrl[:] = 1.0
        changed = inputs.copy()
        changed[entry] += 0.05
        write_inputs(model, data, changed)
        for _ in range(3):
            mujoco.mj_step(model, data)
        return np.concatenate([data.qpos, data.qvel])

    here = following([])
    moves = np.array([not np.array_equal(following(i), here) for i in range(len(inputs))])
    assert not moves[~acting].any()
    assert moves[-9:].any() == wanted
    assert moves[:6].all(), "applied forces move the ball"


class Pressed(XmlEnv):
    """A slider before a wall, whose place is drawn: a mocap body, which a reset may not reach."""

    xml = """<mujoco><option timestep="0.01"/><worldbody>
    <body><joint name="x" type="slide" axis="1 0 0" damping="1"/><geom size=".1" mass="1"/></body>
    <body name="wall" mocap="true" pos="5 0 0"><geom type="box" size=".1 1 1"/></body></worldbody>
    <actuator><motor joint="x" gear="10" ctrllimited="true" ctrlrange="-1 1"/></actuator></mujoco>
    """

    def draw(self):
        self.data.mocap_pos[0, 0] = self.np_random.uniform(0.5, 0.7)

    def tensor_reward(self, state, action, next_state):
        return next_state[:, 1]

    def step(self, action):
        self.do_simulation(action, self.frame_skip)
        return self._get_obs(), float(self.data.qvel[0]), False, False, {}


class PressedLater(Pressed):
    """It comes in the middle of an episode."""

    def draw(self):
        pass

    def step(self, action):
        self.data.mocap_pos[0, 0] = 0.6 if self.data.time > 0.05 else 5.0
        return super().step(action)


class Marked(Pressed):
    """The same wall, which nothing collides with."""

    xml = Pressed.xml.replace("<geom type", f"<geom {COLD} type")


@pytest.mark.parametrize(
    ("entry", "plain"), [(Pressed, False), (PressedLater, False), (Marked, True)]
)
def test_what_a_simulator_knows_nothing_of_is_not_left_out(entry, plain, registered):
    task = mbrl.make_task(registered(entry), threads=1)
    assert task.has_plain_dynamics is plain
    state, context = task.start(2, torch.Generator().manual_seed(0))
    action, taken = torch.ones(2, 1, dtype=torch.float64), state
    dynamics = task.dynamics()
    for t in range(40):
        given = {} if plain else {"t": t, "context": context}
        state = dynamics(state, action, **given)
        taken = task.step(taken, action, t=t, context=context).next_state
    torch.testing.assert_close(state, taken)
    assert bool((taken[:, 0] > 1).all()) == plain, "it stops at the wall, if there is one"
