"""Measurements at a state against plain mj_forward, their Jacobians against its differences."""

import mujoco
import numpy as np
import pytest

from mbrl.errors import ArgumentError, DivergenceError, ModelError
from mbrl.physics import Probe, Simulator, sensing
from tests import models
from tests.models import reference
from tests.physics.test_sensors import scene

SENSOR, OBJECT = mujoco.mjtSensor, mujoco.mjtObj
FRAMES = {"BODY": "body", "XBODY": "body", "GEOM": "geom", "SITE": "site"}
WITH_LIMITS = """
<mujoco>
  <worldbody>
    <body pos="0 0 1">
      <joint name="ball" type="ball"/>
      <geom type="capsule" size="0.03" fromto="0 0 0 0.3 0 0.1"/>
      <body pos="0.3 0 0.1">
        <joint name="hinge" axis="0 1 0" range="-5 5" limited="true"/>
        <geom name="hand" type="capsule" size="0.03" fromto="0 0 0 0.3 0 0"/>
        <site name="tip" pos="0.3 0 0"/>
      </body>
    </body>
    <body name="other" pos="1 0 1"><geom name="other" size="0.1"/></body>
  </worldbody>
  <sensor>
    <framepos objtype="site" objname="tip" reftype="body" refname="other"/>
    <framelinvel objtype="site" objname="tip" reftype="body" refname="other"/>
    <framepos objtype="site" objname="tip" cutoff="0.2"/>
    <frameyaxis objtype="geom" objname="hand"/>
    <jointlimitpos joint="hinge"/><jointlimitvel joint="hinge"/>
    <distance geom1="hand" geom2="other" cutoff="5"/>
  </sensor>
</mujoco>
"""


def forward(model, x, u, read):
    data = mujoco.MjData(model)
    reference.load(model, data, x, u)
    mujoco.mj_forward(model, data)
    return read(model, data)


def sensordata(model, data):
    return data.sensordata.copy()


def slopes(model, x, u, read, eps=1e-6):
    """Centred differences [C D] of what mj_forward leaves, along mj_integratePos."""
    model, ndx = reference.converged(model), 2 * model.nv + model.na
    columns = []
    for j in range(ndx + model.nu):
        ends = []
        for h in (-eps, eps):
            dx, du = np.zeros(ndx), np.zeros(model.nu)
            (dx if j < ndx else du)[j if j < ndx else j - ndx] = h
            ends.append(forward(model, reference.retract(model, x, dx), u + du, read))
        columns.append((ends[1] - ends[0]) / (2 * eps))
    return np.stack(columns, axis=1)


def without_engine(monkeypatch):
    monkeypatch.setattr(sensing, "make_engine", lambda model, threads: None)


def worst(found, wanted):
    scale = np.maximum(1.0, np.abs(wanted).max(axis=-1))
    return (np.abs(found - wanted).max(axis=-1) / scale).max()


@pytest.mark.parametrize("serial", [False, True], ids=["native", "serial"])
def test_every_sensor_of_a_scene_in_contact(serial, monkeypatch):
    if serial:
        without_engine(monkeypatch)
    model = scene("RK4")
    states, ctrls = reference.samples(model, 4, length=40, seed=3)
    sim = Simulator(model, frame_skip=3, threads=2)
    assert sim.fields(states, ["ncon"], ctrls)["ncon"].any()
    values = sim.sensors(states, ctrls)
    c, d = sim.linearize_sensors_at(states, ctrls)
    for i, (x, u) in enumerate(zip(states, ctrls, strict=True)):
        np.testing.assert_allclose(
            values[i], forward(model, x, u, sensordata), rtol=1e-9, atol=1e-9
        )
        wanted = slopes(model, x, u, sensordata)
        found = np.concatenate([c[i], d[i]], axis=1)
        fast = model.sensor_needstage[np.repeat(range(model.nsensor), model.sensor_dim)] < 3
        assert worst(found[fast], wanted[fast]) < 1e-7
        assert worst(found[~fast], wanted[~fast]) < 1e-4  # stiff contacts bend the reference


@pytest.mark.parametrize("serial", [False, True], ids=["native", "serial"])
def test_relative_frames_cutoffs_and_limits(serial, monkeypatch):
    if serial:
        without_engine(monkeypatch)
    model = mujoco.MjModel.from_xml_string(WITH_LIMITS)
    rng = np.random.default_rng(0)
    states = reference.random_states(model, rng, 4)
    states[:2, 4] = [0.15, 0.05]  # beyond the limit, within it (5 degrees)
    ctrls = np.zeros((4, 0))
    sim = Simulator(model, threads=1)
    values, (c, d) = sim.sensors(states, ctrls), sim.linearize_sensors_at(states, ctrls)
    assert d.shape == (4, model.nsensordata, 0)
    for i, x in enumerate(states):
        np.testing.assert_allclose(
            values[i], forward(model, x, ctrls[i], sensordata), rtol=1e-12, atol=1e-12
        )
        assert worst(c[i], slopes(model, x, ctrls[i], sensordata)) < 1e-7
    assert c[0, -3].any()  # the limit's row is there where the limit is violated


def measured(probe):
    """What a probe stands for, read from MjData by MuJoCo's own functions."""

    def read(model, data):
        kind, at = SENSOR(probe.kind), probe.id
        if kind == SENSOR.mjSENS_SUBTREECOM:
            return data.subtree_com[at].copy()
        mujoco.mj_subtreeVel(model, data)
        if kind == SENSOR.mjSENS_SUBTREELINVEL:
            return data.subtree_linvel[at].copy()
        prefix = {1: "xi", 2: "x", 5: "geom_x", 6: "site_x"}[probe.type]
        if kind == SENSOR.mjSENS_FRAMEPOS:
            return getattr(data, f"{prefix}pos")[at].copy()
        axes = (SENSOR.mjSENS_FRAMEXAXIS, SENSOR.mjSENS_FRAMEYAXIS, SENSOR.mjSENS_FRAMEZAXIS)
        if kind in axes:
            return getattr(data, f"{prefix}mat")[at].reshape(3, 3)[:, axes.index(kind)].copy()
        velocity = np.empty(6)
        mujoco.mj_objectVelocity(model, data, probe.type, at, velocity, 0)
        return velocity[:3] if kind == SENSOR.mjSENS_FRAMEANGVEL else velocity[3:]

    return read


def all_of(probes):
    readers = [measured(probe) for probe in probes]
    return lambda model, data: np.concatenate([read(model, data) for read in readers])


def every_probe(model):
    kinds = ("POS", "XAXIS", "YAXIS", "ZAXIS", "LINVEL", "ANGVEL")
    probes = []
    for name, count in (
        ("BODY", "nbody"),
        ("XBODY", "nbody"),
        ("GEOM", "ngeom"),
        ("SITE", "nsite"),
    ):
        of = int(getattr(OBJECT, f"mjOBJ_{name}"))
        for kind in kinds:
            sensor = int(getattr(SENSOR, f"mjSENS_FRAME{kind}"))
            probes += [Probe(sensor, of, i) for i in range(getattr(model, count))]
    for kind in ("COM", "LINVEL"):
        sensor = int(getattr(SENSOR, f"mjSENS_SUBTREE{kind}"))
        probes += [Probe(sensor, 0, i) for i in range(model.nbody)]
    return probes


@pytest.mark.parametrize("serial", [False, True], ids=["native", "serial"])
@pytest.mark.parametrize("name", ["mixed", "free", "contact_elliptic", "muscle"])
def test_probes_of_frames_and_subtrees(name, serial, monkeypatch):
    if serial:
        without_engine(monkeypatch)
    model = models.own(name)
    states = reference.random_states(model, np.random.default_rng(1), 2)
    ctrls = np.full((2, model.nu), 0.3)
    probes = every_probe(model)
    sensing = Simulator(model, threads=2).sensing(probes)
    values, (c, d) = sensing.linearize(states, ctrls)
    np.testing.assert_array_equal(values, sensing.values(states, ctrls))
    assert not d.any()
    for i, (x, u) in enumerate(zip(states, ctrls, strict=True)):
        for probe, part in zip(probes, sensing.parts, strict=True):
            read = measured(probe)
            np.testing.assert_allclose(
                values[i, part], forward(model, x, u, read), rtol=1e-12, atol=1e-12
            )
        wanted = slopes(model, x, u, all_of(probes))
        assert worst(c[i], wanted[:, : c.shape[2]]) < 2e-8


def test_any_number_of_threads_gives_the_same_bits():
    model = models.stock("Humanoid")
    states = reference.random_states(model, np.random.default_rng(2), 20)
    ctrls = np.zeros((20, model.nu))
    probes = every_probe(model)
    one, three = (Simulator(model, threads=n).sensing(probes) for n in (1, 3))
    assert one.linearize(states, ctrls)[1].C.tobytes() == (
        three.linearize(states, ctrls)[1].C.tobytes()
    )


def test_bad_input():
    sim = Simulator(models.own("ball"), threads=1)
    at = np.zeros((1, sim.spec.nx)), np.zeros((1, sim.spec.nu))
    with pytest.raises(ModelError, match=r"^the model has no sensors"):
        sim.sensors(*at)
    with pytest.raises(ModelError, match=r"^the model has no sensors"):
        sim.linearize_sensors_at(*at)
    sim = Simulator(scene(), threads=1)
    with pytest.raises(ArgumentError, match=r"^state must have shape \[B, "):
        sim.sensors(np.zeros((1, 3)), np.zeros((1, 3)))


@pytest.mark.parametrize("serial", [False, True], ids=["native", "serial"])
def test_rows_that_mean_nothing_are_named(serial, monkeypatch):
    if serial:
        without_engine(monkeypatch)
    model = models.own("free")
    states = reference.random_states(model, np.random.default_rng(3), 3)
    states[1, 7:] = 1.7e308
    probe = Probe(int(SENSOR.mjSENS_FRAMELINVEL), int(OBJECT.mjOBJ_SITE), 0)
    sensing = Simulator(model, threads=1).sensing([probe])
    with pytest.raises(DivergenceError, match=r"^measuring rows \[1\]") as caught:
        sensing.values(states, np.zeros((3, model.nu)))
    assert caught.value.rows == (1,)
