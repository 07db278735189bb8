"""Positions of points against mj_kinematics, on every model they cover."""

import mujoco
import numpy as np
import pytest
import torch

from mbrl.errors import TaskError
from mbrl.tasks.kinematics import PointKinematics
from tests import models

# Two joints on one body, joints off their body's origin, turned bodies, and zeros elsewhere than 0.
TREE = """
<mujoco>
  <compiler angle="radian"/>
  <worldbody>
    <site name="fixed" pos="0.1 0.2 0.3"/>
    <body name="a" pos="0.1 0.2 0.3" quat="1 0.2 -0.3 0.4">
      <joint type="slide" axis="1 2 3" ref="0.4"/>
      <joint axis="0 1 1" pos="0.1 -0.2 0.05" ref="-0.3"/>
      <joint axis="1 0 0.5" pos="-0.1 0.1 0"/>
      <geom size="0.1"/>
      <body name="plate" pos="0 0.1 0" quat="0.9 0 0.1 0.3">
        <geom size="0.1"/>
        <body name="b" pos="-0.2 0 0.4">
          <joint pos="0 0.3 0" axis="1 1 0"/>
          <geom size="0.1"/>
          <site name="tip" pos="0.3 -0.1 0.2"/>
        </body>
      </body>
    </body>
    <body name="c" pos="1 0 0"><joint type="slide"/><geom size="0.1"/></body>
  </worldbody>
</mujoco>
"""
PLANAR = [name for name in models.STOCK if name not in ("Ant", "Humanoid")]


def model_of(name):
    return mujoco.MjModel.from_xml_string(TREE) if name == "tree" else models.stock(name)


def everywhere(model):
    """Every body's origin and every site."""
    bodies = [(body, np.zeros(3)) for body in range(model.nbody)]
    return bodies + [(int(b), p) for b, p in zip(model.site_bodyid, model.site_pos, strict=True)]


@pytest.mark.parametrize("name", ["tree", *PLANAR])
def test_positions_are_those_of_mj_kinematics(name):
    model = model_of(name)
    qpos = np.random.default_rng(0).standard_normal((2, 10, model.nq))
    found = PointKinematics(model, everywhere(model))(torch.from_numpy(qpos))
    data = mujoco.MjData(model)
    for at in np.ndindex(2, 10):
        data.qpos[:] = qpos[at]
        mujoco.mj_kinematics(model, data)
        np.testing.assert_allclose(
            found[at], np.concatenate([data.xpos, data.site_xpos]), atol=1e-14
        )


def test_first_derivatives_are_mujocos_jacobians():
    model = model_of("tree")
    body = model.body("b").id
    points = PointKinematics(model, [(body, np.zeros(3))])
    data, jacobian = mujoco.MjData(model), np.empty((3, model.nv))
    data.qpos[:] = np.random.default_rng(1).standard_normal(model.nq)
    mujoco.mj_kinematics(model, data)
    mujoco.mj_comPos(model, data)
    mujoco.mj_jacBody(model, data, jacobian, None, body)
    found = torch.func.jacrev(points)(torch.from_numpy(data.qpos.copy()))
    np.testing.assert_allclose(found[0], jacobian, atol=1e-14)


def test_second_derivatives_exist():
    model = model_of("tree")
    points = PointKinematics(model, [(model.body("b").id, np.zeros(3))])
    qpos = torch.from_numpy(np.random.default_rng(2).standard_normal((1, model.nq)))
    assert torch.autograd.gradgradcheck(points, qpos.requires_grad_())


def test_only_the_joints_that_move_the_points_matter():
    model = models.own("mixed")
    with pytest.raises(TaskError, match=r"joint 'ball' must be a hinge or a slide"):
        PointKinematics(model, [(2, np.zeros(3))])
    with pytest.raises(TaskError, match=r"joint 'free' must be a hinge or a slide"):
        PointKinematics(model, [(model.nbody - 1, np.zeros(3))])
    assert PointKinematics(model, [(1, np.zeros(3))])(torch.zeros(1, model.nq)).shape == (1, 1, 3)
