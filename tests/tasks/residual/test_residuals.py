"""Residuals against plain MjData after mj_forward, Jacobians against differences of it."""

import mujoco
import numpy as np
import pytest
import torch

from mbrl.errors import ConfigError
from mbrl.physics import Simulator
from mbrl.tasks.residual import RESIDUALS, ResidualCost
from tests.models import reference

# Every kind of joint, in contact, with activations and sensors of every stage.
SCENE = """
<mujoco>
  <option timestep="0.005"/>
  <worldbody>
    <geom type="plane" size="5 5 1"/>
    <body name="box" pos="0 0 0.098">
      <freejoint name="free"/>
      <geom type="box" size="0.15 0.1 0.1"/>
      <site name="pad" type="box" size="0.2 0.2 0.2"/>
      <body name="arm" pos="0 0 0.1">
        <joint name="ball" type="ball" damping="0.1"/>
        <geom type="capsule" size="0.04" fromto="0 0 0.1 0.3 0 0.15"/>
        <body name="hand" pos="0.3 0 0.15">
          <joint name="hinge" axis="0 1 0" damping="0.1"/>
          <joint name="rail" type="slide" axis="1 0 0" stiffness="50" damping="1"/>
          <geom type="capsule" size="0.02" fromto="0 0 0 0.2 0 0"/>
          <site name="tip" pos="0.2 0 0.05"/>
        </body>
      </body>
    </body>
  </worldbody>
  <actuator>
    <motor name="pull" joint="hinge" gear="0.3" ctrlrange="-1 1"/>
    <general name="slow" joint="rail" dyntype="filter" dynprm="0.05" gainprm="2" ctrlrange="-1 1"/>
  </actuator>
  <sensor>
    <touch name="touch" site="pad"/>
    <gyro name="gyro" site="tip"/>
    <framelinvel name="velocity" objtype="site" objname="tip" reftype="body" refname="box"/>
  </sensor>
  <keyframe>
    <key name="pose" qpos="0.1 0.2 0.3 1 0 0 0 0.6 0.8 0 0 0.4 0.05" act="0.2"/>
  </keyframe>
</mujoco>
"""
POSE = np.array([0.1, 0.2, 0.3, 1, 0, 0, 0, 0.6, 0.8, 0, 0, 0.4, 0.05])


def body(model, name):
    return mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_BODY, name)


def velocity(model, data, of, name):
    found = np.empty(6)
    at = mujoco.mj_name2id(model, of, name)
    kind = mujoco.mjtObj.mjOBJ_XBODY if of == mujoco.mjtObj.mjOBJ_BODY else of
    mujoco.mj_objectVelocity(model, data, kind, at, found, 0)
    return found[3:]


def com_velocity(model, data, name):
    mujoco.mj_subtreeVel(model, data)
    return data.subtree_linvel[body(model, name)].copy()


def to_pose(model, data):
    dq = np.empty(model.nv)
    mujoco.mj_differentiatePos(model, dq, 1.0, POSE, data.qpos)
    return dq


BODY, SITE = mujoco.mjtObj.mjOBJ_BODY, mujoco.mjtObj.mjOBJ_SITE
CASES = {
    "joint_position": (
        {"joint": ["rail", "hinge"], "target": [0.1, 0.2]},
        lambda m, d: np.array([d.joint("rail").qpos[0] - 0.1, d.joint("hinge").qpos[0] - 0.2]),
    ),
    "joint_velocity": (
        {"joint": ["ball", "hinge"], "target": 0.5, "indices": [0, 3]},
        lambda m, d: np.array([d.joint("ball").qvel[0], d.joint("hinge").qvel[0]]) - 0.5,
    ),
    "activation": ({"target": 0.25}, lambda m, d: d.act - 0.25),
    "control": ({"actuator": "slow", "target": 0.1}, lambda m, d: d.ctrl[1:] - 0.1),
    "sensor": ({"sensor": "gyro", "indices": 1}, lambda m, d: d.sensor("gyro").data[1:2].copy()),
    "site_position": (
        {"site": "tip", "axes": "zx", "target": [1, 0]},
        lambda m, d: d.site("tip").xpos[[2, 0]] - [1, 0],
    ),
    "site_velocity": ({"site": "tip"}, lambda m, d: velocity(m, d, SITE, "tip")),
    "body_position": ({"body": "hand", "axes": "y"}, lambda m, d: d.body("hand").xpos[1:2].copy()),
    "body_velocity": ({"body": "hand"}, lambda m, d: velocity(m, d, BODY, "hand")),
    "body_axis": (
        {"body": "arm", "axis": "x", "target": [0, 0, 1]},
        lambda m, d: d.body("arm").xmat.reshape(3, 3)[:, 0] - [0, 0, 1],
    ),
    "center_of_mass": (
        {"body": "arm", "target": 0.3},
        lambda m, d: d.subtree_com[body(m, "arm")] - 0.3,
    ),
    "com_velocity": ({"body": "box"}, lambda m, d: com_velocity(m, d, "box")),
    "angle": (
        {"joint": "hinge", "target": 2.0},
        lambda m, d: np.array(
            [
                np.cos(d.joint("hinge").qpos[0]) - np.cos(2.0),
                np.sin(d.joint("hinge").qpos[0]) - np.sin(2.0),
            ]
        ),
    ),
    "posture": ({"keyframe": "pose"}, to_pose),
    "difference": (
        {
            "of": [
                {"kind": "site_position", "site": "tip"},
                {"kind": "body_position", "body": "box"},
            ],
            "target": 0.1,
            "indices": [2, 0],
        },
        lambda m, d: (d.site("tip").xpos - d.body("box").xpos - 0.1)[[2, 0]],
    ),
    "mean": (
        {
            "of": [
                {"kind": "body_position", "body": "box", "axes": "xy"},
                {"kind": "body_position", "body": "hand", "axes": "xy"},
                {"kind": "site_velocity", "site": "tip", "axes": "xy"},
            ]
        },
        lambda m, d: (
            (d.body("box").xpos + d.body("hand").xpos + velocity(m, d, SITE, "tip"))[:2] / 3
        ),
    ),
}


def at(model, x, u):
    data = mujoco.MjData(model)
    reference.load(model, data, x, u)
    mujoco.mj_forward(model, data)
    return data


def points(model, n=3):
    states, ctrls = reference.samples(model, n, length=30, seed=1)
    return states, ctrls


def expected_slopes(model, x, u, read, eps=1e-6):
    model, ndx = reference.converged(model), 2 * model.nv + model.na
    columns = []
    for j in range(ndx + model.nu):
        ends = []
        for h in (-eps, eps):
            dx, du = np.zeros(ndx), np.zeros(model.nu)
            (dx if j < ndx else du)[j if j < ndx else j - ndx] = h
            ends.append(read(model, at(model, reference.retract(model, x, dx), u + du)))
        columns.append((ends[1] - ends[0]) / (2 * eps))
    return np.stack(columns, axis=1)


def test_every_kind_is_tested():
    assert set(CASES) | {"track"} == set(RESIDUALS)


@pytest.mark.parametrize("kind", CASES)
def test_values_and_jacobians(kind):
    options, read = CASES[kind]
    model = mujoco.MjModel.from_xml_string(SCENE)
    cost = ResidualCost(Simulator(model, threads=1), [{"residual": {"kind": kind, **options}}])
    assert not cost.uses_time
    states, ctrls = points(model)
    x, u = torch.from_numpy(states), torch.from_numpy(ctrls)
    found, expansion = cost.residuals(x, u).numpy(), cost.expand(x, u)
    slopes = np.concatenate([expansion.jx, expansion.ju], axis=2)
    for i in range(len(states)):
        wanted = read(model, at(model, states[i], ctrls[i]))
        assert wanted.shape == (cost.size,)
        np.testing.assert_allclose(found[i], wanted, rtol=1e-12, atol=1e-12)
        wanted = expected_slopes(model, states[i], ctrls[i], read)
        np.testing.assert_allclose(slopes[i], wanted, rtol=1e-7, atol=1e-7)


def test_a_sensor_of_forces():
    model = mujoco.MjModel.from_xml_string(SCENE)
    term = {"residual": {"kind": "sensor", "sensor": "touch", "target": 3.0}}
    cost = ResidualCost(Simulator(model, frame_skip=4, threads=1), [term])
    states, ctrls = points(model, 4)
    found = cost.residuals(torch.from_numpy(states), torch.from_numpy(ctrls)).numpy()
    wanted = [
        at(model, x, u).sensor("touch").data - 3.0 for x, u in zip(states, ctrls, strict=True)
    ]
    np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)
    assert np.abs(found + 3.0).max() > 1


def test_an_angle_does_not_jump():
    model = mujoco.MjModel.from_xml_string(SCENE)
    term = {"residual": {"kind": "angle", "joint": "hinge", "target": 1.0}}
    cost = ResidualCost(Simulator(model, threads=1), [term])
    states, ctrls = points(model, 1)
    address = model.joint("hinge").qposadr[0]
    turned = states.copy()
    turned[:, address] += 2 * np.pi
    values = [cost(torch.from_numpy(x), torch.from_numpy(ctrls)).item() for x in (states, turned)]
    assert values[0] == pytest.approx(values[1], rel=1e-12)
    # |r|^2 / 2 = 1 - cos(q - q*)
    assert values[0] == pytest.approx(1 - np.cos(states[0, address] - 1.0), rel=1e-12)


@pytest.mark.parametrize(
    ("residual", "message"),
    [
        (
            {"kind": "angle", "joint": "hing"},
            r"^cost\.a\.residual\.joint: no joint 'hing'; .*'hinge'\?",
        ),
        ({"kind": "angle", "joint": "rail"}, r"^cost\.a\.residual\.joint: 'rail' is a slide"),
        ({"kind": "joint_position", "joint": "ball"}, r"joint: 'ball' is a ball or free joint"),
        ({"kind": "jointposition"}, r"^cost\.a\.residual\.kind: unknown value .*'joint_position'"),
        ({"kind": "angle"}, r"^missing key 'cost\.a\.residual\.joint'"),
        (
            {"kind": "angle", "joint": "hinge", "targt": 1},
            r"^unknown key .*residual\.targt'.*'target'",
        ),
        ({"kind": "sensor", "sensor": "gyros"}, r"sensor: no sensor 'gyros'; .*mean 'gyro'\?"),
        ({"kind": "sensor", "sensor": "gyro", "indices": 3}, r"indices must be from 0 to 2, got 3"),
        ({"kind": "sensor", "sensor": "gyro", "indices": []}, r"indices must be .*, got none"),
        ({"kind": "sensor", "sensor": "gyro", "target": [1, 2]}, r"target must be a number or 3"),
        ({"kind": "site_position", "site": "tip", "axes": "xw"}, r"axes must be some .* 'xw'$"),
        ({"kind": "body_axis", "body": "arm", "axis": "w"}, r"axis must be x, y or z, got 'w'"),
        ({"kind": "body_position", "body": "leg"}, r"residual\.body: no body 'leg'; legal: arm"),
        ({"kind": "activation", "actuator": "pull"}, r"'pull' has no activation dynamics"),
        ({"kind": "posture", "keyframe": "sit"}, r"keyframe: no keyframe 'sit'; legal: pose"),
        ({"kind": "posture", "qpos": [1.0]}, r"residual\.qpos must have 13 numbers, got 1"),
        ({"kind": "posture", "qpos": [0.0] * 13, "keyframe": "pose"}, r"either keyframe or qpos"),
        ({"kind": "difference", "of": []}, r"residual\.of must be a list of 2 residuals, got 0"),
        ({"kind": "mean", "of": []}, r"residual\.of must be a list of residuals, got none"),
        (
            {"kind": "mean", "of": [{"kind": "angle", "joint": "x"}]},
            r"^cost\.a\.residual\.of\[0\]\.joint: no joint 'x'",
        ),
        (
            {
                "kind": "difference",
                "of": [{"kind": "control"}, {"kind": "site_position", "site": "tip"}],
            },
            r"residual\.of must have residuals of one width, got \[2, 3\]",
        ),
        ("angle", r"^cost\.a\.residual must be a mapping, got 'angle'"),
    ],
)
def test_bad_residuals(residual, message):
    sim = Simulator(mujoco.MjModel.from_xml_string(SCENE), threads=1)
    with pytest.raises(ConfigError, match=message) as caught:
        ResidualCost(sim, {"a": {"residual": residual}})
    assert "\n" not in str(caught.value)
