"""Jacobians of sensors against serial differences, and against mjd_transitionFD."""

import functools

import mujoco
import numpy as np
import pytest

from mbrl.errors import ArgumentError, ModelError
from mbrl.physics import Simulator, sensors
from tests import models
from tests.models import reference

SCENE = """
<mujoco>
  <option timestep="0.005" integrator="{integrator}" cone="elliptic"/>
  <worldbody>
    <geom type="plane" size="5 5 1"/>
    <body name="box" pos="0 0 0.098">
      <freejoint/>
      <geom name="box" type="box" size="0.15 0.1 0.1"/>
      <site name="pad" type="box" size="0.2 0.2 0.2"/>
      <body pos="0 0 0.1">
        <joint name="ball" type="ball" damping="0.1"/>
        <geom type="capsule" size="0.04" fromto="0 0 0.1 0.3 0 0.15"/>
        <site name="tip" pos="0.3 0 0.15"/>
        <body pos="0.3 0 0.15">
          <joint name="hinge" axis="0 1 0" damping="0.1"/>
          <geom type="capsule" size="0.02" fromto="0 0 0 0.2 0 0"/>
        </body>
      </body>
    </body>
  </worldbody>
  <tendon><fixed name="cord"><joint joint="hinge" coef="2"/></fixed></tendon>
  <actuator>
    <motor name="pull" tendon="cord" gear="3" ctrlrange="-1 1"/>
    <general name="slow" joint="hinge" dyntype="filter" dynprm="0.05" gainprm="2"
      ctrlrange="-1 1"/>
    <position joint="hinge" kp="3" kv="0.1"/>
  </actuator>
  <sensor>
    <touch site="pad"/><accelerometer site="tip"/><velocimeter site="tip"/><gyro site="tip"/>
    <force site="tip"/><torque site="tip"/><magnetometer site="tip"/>
    <jointpos joint="hinge"/><jointvel joint="hinge"/><tendonpos tendon="cord"/>
    <tendonvel tendon="cord"/><actuatorpos actuator="pull"/><actuatorvel actuator="pull"/>
    <actuatorfrc actuator="slow"/><jointactuatorfrc joint="hinge"/>
    <ballquat joint="ball"/><ballangvel joint="ball"/>
    <framepos objtype="site" objname="tip"/><framequat objtype="body" objname="box"/>
    <framelinvel objtype="site" objname="tip"/><frameangvel objtype="site" objname="tip"/>
    <framelinacc objtype="site" objname="tip"/><frameangacc objtype="site" objname="tip"/>
    <subtreecom body="box"/><subtreelinvel body="box"/><subtreeangmom body="box"/>
    <e_potential/><e_kinetic/><clock/>
  </sensor>
</mujoco>
"""


def scene(integrator="Euler"):
    return mujoco.MjModel.from_xml_string(SCENE.format(integrator=integrator))


def points(model, n, frame_skip):
    return reference.samples(model, n, frame_skip=frame_skip, length=40 // frame_skip, seed=3)


def sensed(model, data, x, u, frame_skip):
    reference.step(model, data, x, u, frame_skip)
    return data.sensordata.copy()


@functools.cache
def case(integrator, frame_skip):
    """States, controls and [C D] there."""
    model = scene(integrator)
    states, ctrls = points(model, 5, frame_skip)
    slopes = [expected(model, x, u, frame_skip) for x, u in zip(states, ctrls, strict=True)]
    return states, ctrls, np.stack(slopes)


def expected(model, x, u, frame_skip, eps=2e-7):
    """Centred differences of what serial mj_steps leave: [C D]."""
    model = reference.converged(model)
    data, ndx = mujoco.MjData(model), 2 * model.nv + model.na
    columns = []
    for j in range(ndx + model.nu):
        ends = []
        for h in (-eps, eps):
            dx, du = np.zeros(ndx), np.zeros(model.nu)
            (dx if j < ndx else du)[j if j < ndx else j - ndx] = h
            ends.append(sensed(model, data, reference.retract(model, x, dx), u + du, frame_skip))
        columns.append((ends[1] - ends[0]) / (2.0 * eps))
    return np.stack(columns, axis=1)


def errors(found, wanted):
    """Largest error of each sensor value's row, relative to the row and to 1."""
    scale = np.maximum(1.0, np.abs(wanted).max(axis=-1))
    return np.abs(found - wanted).max(axis=-1) / scale


@pytest.mark.parametrize("frame_skip", [1, 4])
@pytest.mark.parametrize("integrator", ["Euler", "RK4", "implicit", "implicitfast"])
@pytest.mark.parametrize("by_steps", [False, True], ids=["native", "steps"])
def test_sensors_of_every_kind(integrator, frame_skip, by_steps, monkeypatch):
    if by_steps:
        monkeypatch.setattr(sensors, "make_engine", lambda model, threads: None)
    states, ctrls, wanted = case(integrator, frame_skip)
    sim = Simulator(scene(integrator), frame_skip=frame_skip, threads=2)
    c, d = sim.linearize_sensors(states, ctrls)
    found = np.concatenate([c, d], axis=2)
    assert sim.fields(states, ["ncon"], ctrls)["ncon"].any()
    worst = errors(found, wanted).max(axis=1)
    assert np.median(worst) <= 1e-5
    assert worst.max() <= 1e-4


def test_mujocos_own_differences_agree():
    model = reference.converged(scene())
    (x,), (u,) = points(model, 1, 1)
    data = mujoco.MjData(model)
    reference.load(model, data, x, u)
    ndx, ns = 2 * model.nv + model.na, model.nsensordata
    c, d = np.empty((ns, ndx)), np.empty((ns, model.nu))
    mujoco.mjd_transitionFD(model, data, 1e-6, True, None, None, c, d)
    found = Simulator(model, threads=1).linearize_sensors(x[None], u[None])
    # It does not evaluate the kinetic energy again: those slopes are of an older value.
    stale = model.sensor_adr[model.sensor_type == int(mujoco.mjtSensor.mjSENS_E_KINETIC)]
    wrong = errors(found.C[0], c)
    assert np.delete(wrong, stale).max() <= 1e-4
    assert errors(found.D[0], d).max() <= 1e-4


def test_controls_at_their_limit_are_differenced_inward():
    model = scene()
    states, ctrls = points(model, 2, 1)
    ctrls[:, 0] = [1.0, 1.5]
    sim = Simulator(model, threads=1)
    force = [
        i
        for i in range(model.nsensor)
        if model.sensor_type[i] == int(mujoco.mjtSensor.mjSENS_JOINTACTFRC)
    ]
    row = model.sensor_adr[force[0]]
    slopes = sim.linearize_sensors(states, ctrls).D[:, row, 0]
    np.testing.assert_allclose(slopes, [6.0, 0.0], atol=1e-8)  # gear times the tendon's coefficient


def test_bad_input():
    sim = Simulator(scene(), threads=1)
    with pytest.raises(ArgumentError, match=r"^state must have shape \[B, "):
        sim.linearize_sensors(np.zeros((1, 3)), np.zeros((1, 3)))
    bare = Simulator(models.own("ball"), threads=1)
    with pytest.raises(ModelError, match=r"^the model has no sensors"):
        bare.linearize_sensors(np.zeros((1, bare.spec.nx)), np.zeros((1, bare.spec.nu)))
