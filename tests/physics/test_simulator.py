"""The simulator against serial loops of mj_step over plain MjData."""

import mujoco
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbrl.errors import ArgumentError, DivergenceError, ModelError
from mbrl.physics import Simulator
from tests import models
from tests.models import reference

# What a step may depend on besides its arguments shows best where the solver works hard.
SAMPLED = ["mixed", "muscle", "clamped", "equality", "contact_elliptic", "contact_pyramidal"]
STOCK = ["HalfCheetah", "Ant", "Humanoid"]

# Rows with a large control blow up; all activity is in one slide joint and one activation.
FRAGILE = """
<mujoco>
  <option timestep="0.01"/>
  <worldbody>
    <body><joint name="a" type="slide" axis="1 0 0"/><geom size="0.1" mass="1"/></body>
  </worldbody>
  <actuator>
    <motor joint="a" gear="1e8"/>
    <general joint="a" dyntype="integrator" gainprm="0"/>
  </actuator>
</mujoco>
"""


def model_of(name):
    return models.stock(name) if name in models.STOCK else models.own(name)


def fragile(**keywords):
    return Simulator(mujoco.MjModel.from_xml_string(FRAGILE), threads=2, **keywords)


@pytest.mark.parametrize("frame_skip", [1, 4])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", SAMPLED + STOCK)
def test_step_is_the_serial_loop_bit_for_bit(name, threads, frame_skip):
    model = model_of(name)
    states, ctrls = reference.samples(model, 7)
    ctrls *= 1.3  # beyond the bounds too
    sim = Simulator(model, frame_skip=frame_skip, threads=threads)
    expected = reference.steps(model, states, ctrls, frame_skip)
    for _ in range(2):
        np.testing.assert_array_equal(sim.step(states, ctrls), expected)


@pytest.mark.parametrize("integrator", models.INTEGRATORS)
def test_every_integrator(integrator):
    model = models.own("mixed", integrator)
    states, ctrls = reference.samples(model, 4)
    np.testing.assert_array_equal(
        Simulator(model, frame_skip=3, threads=1).step(states, ctrls),
        reference.steps(model, states, ctrls, 3),
    )


def test_the_solver_starts_cold_and_that_matters():
    model = models.own("contact_pyramidal")
    model.opt.tolerance, model.opt.iterations = 1e-3, 2
    states, ctrls = reference.samples(model, 6)
    cold = reference.steps(model, states, ctrls)
    warm = []
    data = mujoco.MjData(model)
    for x, u in zip(states, ctrls, strict=True):
        reference.load(model, data, x, u)
        data.qacc_warmstart[:] = 5.0
        mujoco.mj_step(model, data)
        warm.append(reference.read(data))
    assert not np.array_equal(cold, warm)
    sim = Simulator(model, threads=1)
    for _ in range(3):  # every call leaves a warm start behind
        np.testing.assert_array_equal(sim.step(states, ctrls), cold)


@pytest.mark.parametrize("name", ["contact_elliptic", "Humanoid", "muscle"])
@settings(max_examples=10)
@given(order=st.permutations(range(8)))
def test_rows_do_not_know_each_other(name, order):
    model = model_of(name)
    states, ctrls = reference.samples(model, 8)
    sim = Simulator(model, frame_skip=2, threads=2)
    expected = sim.step(states, ctrls)
    np.testing.assert_array_equal(sim.step(states[order], ctrls[order]), expected[order])
    some = order[:3]
    np.testing.assert_array_equal(sim.step(states[some], ctrls[some]), expected[some])


def test_a_call_leaves_no_trace():
    model = models.stock("Ant")
    states, ctrls = reference.samples(model, 4)
    sim = Simulator(model, frame_skip=2, threads=2)
    kept = states.copy(), ctrls.copy()
    expected = sim.step(states, ctrls)
    sim.rollout(states[::-1], np.stack([ctrls[::-1]] * 3))
    sim.linearize(states[:2], ctrls[:2])
    sim.step_with_fields(states[1:], ctrls[1:], ["xpos"])
    sim.fields(states[2:], ["xpos", "qfrc_constraint"])
    broken = states.copy()
    broken[1, model.nq] = 1e15
    with pytest.raises(DivergenceError):
        sim.step(broken, ctrls)
    np.testing.assert_array_equal(sim.step(states, ctrls), expected)
    np.testing.assert_array_equal(states, kept[0])
    np.testing.assert_array_equal(ctrls, kept[1])


@pytest.mark.parametrize("name", ["mixed", "muscle", "contact_elliptic", "Walker2d"])
def test_rollout_is_repeated_step_bit_for_bit(name):
    model = model_of(name)
    sim = Simulator(model, frame_skip=2, threads=2)
    state, _ = reference.samples(model, 5)
    ctrls = np.random.default_rng(0).uniform(-0.4, 0.4, (12, 5, model.nu))
    states = sim.rollout(state, ctrls)
    assert states.shape == (13, 5, sim.spec.nx)
    np.testing.assert_array_equal(states[0], state)
    for t, ctrl in enumerate(ctrls):
        state = sim.step(state, ctrl)
        np.testing.assert_array_equal(states[t + 1], state)


def test_rollout_of_no_steps():
    sim = Simulator(models.own("ball"), threads=1)
    states, _ = reference.samples(sim.model, 3)
    np.testing.assert_array_equal(sim.rollout(states, np.empty((0, 3, 3))), states[None])


@pytest.mark.parametrize("name", ["Humanoid", "HalfCheetah", "contact_elliptic"])
def test_the_callers_model_stays_as_it_is(name):
    model = model_of(name)
    before = models.model_bytes(model)
    options = {
        key: getattr(model.opt, key)
        for key in ("integrator", "solver", "tolerance", "iterations", "cone", "timestep")
    }
    sim = Simulator(model, frame_skip=2, threads=1)
    states, ctrls = reference.samples(model, 2)
    sim.rollout(states, ctrls[None])
    sim.linearize(states, ctrls)
    sim.linearize(states, ctrls, centered=True)
    sim.step_with_fields(states, ctrls, ["xpos"])
    assert models.model_bytes(model) == before
    assert sim.model is not model
    assert {key: getattr(sim.model.opt, key) for key in options} == options


def test_later_changes_to_the_callers_model_do_not_reach_the_simulator():
    model = models.own("mixed")
    sim = Simulator(model, threads=1)
    states, ctrls = reference.samples(model, 2)
    expected = sim.step(states, ctrls)
    model.opt.gravity[2] = 5.0
    np.testing.assert_array_equal(sim.step(states, ctrls), expected)


def test_attributes():
    model = models.stock("HalfCheetah")
    sim = Simulator(model, frame_skip=5, threads=2)
    assert sim.dt == pytest.approx(0.05, rel=1e-15)
    assert (sim.frame_skip, sim.threads) == (5, 2)
    assert (sim.spec.nx, sim.spec.ndx, sim.spec.nu) == (18, 18, 6)


def test_a_path_to_mjcf(tmp_path):
    path = tmp_path / "model.xml"
    path.write_text(models.BALL)
    states, ctrls = reference.samples(models.own("ball"), 2)
    for given_path in (path, str(path)):
        np.testing.assert_array_equal(
            Simulator(given_path, threads=1).step(states, ctrls),
            Simulator(models.own("ball"), threads=1).step(states, ctrls),
        )


def test_what_is_not_a_model_is_refused(tmp_path):
    with pytest.raises(ModelError, match=r"^model: no such MJCF file: .*absent\.xml$"):
        Simulator(tmp_path / "absent.xml")
    broken = tmp_path / "broken.xml"
    broken.write_text("<mujoco><worldbody><body><joint/></body></worldbody></mujoco>")
    with pytest.raises(ModelError, match=r"broken\.xml does not compile: [^\n]+$"):
        Simulator(broken)
    with pytest.raises(ArgumentError, match=r"^model must be a mujoco.MjModel or a path.*got int"):
        Simulator(3)


@pytest.mark.parametrize("frame_skip", [0, -1, 1.0, True, "1"])
def test_frame_skip_is_a_positive_integer(frame_skip):
    with pytest.raises(ArgumentError, match=r"^frame_skip must be a positive integer"):
        Simulator(models.own("ball"), frame_skip=frame_skip)


@pytest.mark.parametrize("frame_skip", [1, 5])
def test_divergence_names_exactly_its_rows(frame_skip, tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    sim = fragile(frame_skip=frame_skip)
    state, ctrl = np.zeros((7, 3)), np.ones((7, 2))
    good = sim.step(state, ctrl)
    ctrl[[1, 4, 6], 0] = [1e6, -1e6, 1e6]
    with pytest.raises(DivergenceError, match=r"in 3 of 7 rows \[1, 4, 6\]: .*BADQACC$") as caught:
        sim.step(state, ctrl)
    assert caught.value.rows == (1, 4, 6)
    assert isinstance(caught.value, FloatingPointError)
    fine = [0, 2, 3, 5]
    np.testing.assert_array_equal(sim.step(state[fine], ctrl[fine]), good[fine])
    assert not list(tmp_path.iterdir())
    assert capfd.readouterr() == ("", "")


def test_divergence_within_the_control_step_is_not_reset_away():
    # The first physics step explodes; a world that resets itself would return finite numbers.
    model = mujoco.MjModel.from_xml_string(FRAGILE)
    state, ctrl = np.array([[0.0, 9e9, 0.0]]), np.array([[1e3, 0.0]])
    data = mujoco.MjData(model)
    reference.load(model, data, state[0], ctrl[0])
    for _ in range(4):
        mujoco.mj_step(model, data)
    assert np.abs(reference.read(data)).max() < 1e10
    with pytest.raises(DivergenceError):
        Simulator(model, frame_skip=4, threads=1).step(state, ctrl)


@pytest.mark.parametrize("column", [0, 1])
def test_a_state_beyond_what_mujoco_bears(column):
    state = np.zeros((3, 3))
    state[1, column] = 1e11
    with pytest.raises(DivergenceError, match="BADQ") as caught:
        fragile().step(state, np.zeros((3, 2)))
    assert caught.value.rows == (1,)


def test_coordinates_that_grow_beyond_the_limit_unnoticed_by_mujoco():
    state, ctrl = np.zeros((3, 3)), np.zeros((3, 2))
    state[2, 2], ctrl[2, 1] = 9.95e9, 9e9  # MuJoCo looks at positions, velocities and forces
    with pytest.raises(DivergenceError, match=r"1 of 3 rows \[2\]: coordinates beyond 1e10$"):
        fragile().step(state, ctrl)


def test_divergence_in_a_rollout():
    ctrls = np.zeros((4, 3, 2))
    ctrls[2, 1, 0] = 1e6
    with pytest.raises(DivergenceError) as caught:
        fragile().rollout(np.zeros((3, 3)), ctrls)
    assert caught.value.rows == (1,)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_not_finite_are_refused(bad):
    sim = fragile()
    state, ctrl = np.zeros((4, 3)), np.zeros((4, 2))
    broken = state.copy()
    broken[[1, 3], 2] = bad
    with pytest.raises(ArgumentError, match=r"^state must be finite, .* in rows \[1, 3\]$"):
        sim.step(broken, ctrl)
    broken = ctrl.copy()
    broken[2, 0] = bad
    for call in (sim.step, sim.linearize, lambda x, u: sim.fields(x, ["xpos"], u)):
        with pytest.raises(ArgumentError, match=r"^ctrl must be finite, .* in rows \[2\]$"):
            call(state, broken)
    with pytest.raises(ArgumentError, match=r"^ctrls must be finite, .* in rows \[2\]$"):
        sim.rollout(state, np.stack([ctrl, broken]))


def test_infinities_of_both_signs_do_not_cancel():
    with pytest.raises(ArgumentError, match="finite"):
        fragile().step(np.array([[np.inf, -np.inf, 0.0]]), np.zeros((1, 2)))


def test_finite_numbers_whose_sum_is_not_are_no_mistake():
    # Huge controls are the engine's to refuse, by clamping or as a divergence of the row.
    model = models.own("ball")
    states, _ = reference.samples(model, 2)
    ctrls = np.full((2, 3), 1e308)
    np.testing.assert_array_equal(
        Simulator(model, threads=1).step(states, ctrls),
        Simulator(model, threads=1).step(states, np.ones((2, 3))),
    )


@pytest.mark.parametrize(
    ("state", "ctrl", "message"),
    [
        ((3,), (2,), r"state must have shape \[B, 3\], got \[3\]"),
        ((2, 4), (2, 2), r"state must have shape \[B, 3\], got \[2, 4\]"),
        ((0, 3), (0, 2), r"state must have shape \[B, 3\], got \[0, 3\]"),
        ((2, 3), (2, 3), r"ctrl must have shape \[2, 2\], got \[2, 3\]"),
        ((2, 3), (1, 2), r"ctrl must have shape \[2, 2\], got \[1, 2\]"),
        ((2, 3), (2,), r"ctrl must have shape \[2, 2\], got \[2\]"),
    ],
)
def test_wrong_shapes_are_named(state, ctrl, message):
    sim = fragile()
    for call in (sim.step, sim.linearize, lambda x, u: sim.step_with_fields(x, u, ["xpos"])):
        with pytest.raises(ArgumentError, match=f"^{message}$"):
            call(np.zeros(state), np.zeros(ctrl))


def test_rollout_names_wrong_shapes():
    sim = fragile()
    with pytest.raises(ArgumentError, match=r"^ctrls must have shape \[T, B, nu\], got \[4, 2\]$"):
        sim.rollout(np.zeros((4, 3)), np.zeros((4, 2)))
    for ctrls in (np.zeros((2, 5, 2)), np.zeros((2, 4, 1)), np.zeros((0, 5, 2))):
        with pytest.raises(ArgumentError, match="must have shape"):
            sim.rollout(np.zeros((4, 3)), ctrls)
    with pytest.raises(ArgumentError, match=r"state must have shape \[B, 3\]"):
        sim.rollout(np.zeros((4, 2)), np.zeros((0, 4, 2)))


FIELDS = ["xpos", "xquat", "site_xpos", "sensordata", "qfrc_actuator", "qfrc_constraint", "time"]


def with_sensors(name):
    spec = mujoco.MjSpec.from_string(models.OWN[name])
    site = spec.bodies[-1].add_site(name="probe", pos=[0.01, 0.02, 0.03])
    for kind in (mujoco.mjtSensor.mjSENS_FORCE, mujoco.mjtSensor.mjSENS_ACCELEROMETER):
        spec.add_sensor(type=kind, objtype=mujoco.mjtObj.mjOBJ_SITE, objname=site.name)
    return spec.compile()


@pytest.mark.parametrize("frame_skip", [1, 3])
@pytest.mark.parametrize("name", ["mixed", "contact_elliptic"])
def test_step_with_fields_has_the_lag_of_mj_step(name, frame_skip):
    model = with_sensors(name)
    states, ctrls = reference.samples(model, 4)
    sim = Simulator(model, frame_skip=frame_skip, threads=2)
    following, fields = sim.step_with_fields(states, ctrls, FIELDS)
    np.testing.assert_array_equal(following, sim.step(states, ctrls))
    assert list(fields) == FIELDS
    data = mujoco.MjData(model)
    for row, (x, u) in enumerate(zip(states, ctrls, strict=True)):
        reference.step(model, data, x, u, frame_skip)
        for field in FIELDS:
            np.testing.assert_array_equal(fields[field][row], getattr(data, field), err_msg=field)
        before = data.xpos.copy()
        mujoco.mj_forward(model, data)
        assert not np.array_equal(before, data.xpos)  # so the lag was seen


def test_fields_are_those_of_mj_forward():
    model = with_sensors("contact_elliptic")
    states, ctrls = reference.samples(model, 4)
    sim = Simulator(model, frame_skip=3, threads=2)
    data = mujoco.MjData(model)
    names = [name for name in FIELDS if name != "time"]
    for given_ctrls in (ctrls, None):
        fields = sim.fields(states, names, given_ctrls)
        for row, x in enumerate(states):
            reference.load(model, data, x, 0.0 if given_ctrls is None else ctrls[row])
            mujoco.mj_forward(model, data)
            for name in names:
                np.testing.assert_array_equal(fields[name][row], getattr(data, name), err_msg=name)


def test_fields_belong_to_their_rows_whatever_was_computed_before():
    model = with_sensors("mixed")
    states, ctrls = reference.samples(model, 5)
    sim = Simulator(model, frame_skip=2, threads=2)
    expected = sim.step_with_fields(states, ctrls, FIELDS)[1]
    for names in (["xpos"], ["xquat", "qvel"], ["qfrc_bias"], ["cvel"], ["xmat"], ["subtree_com"]):
        sim.fields(states[::-1], names)  # more sets of fields than the simulator keeps pools
    for name, value in sim.step_with_fields(states[3:], ctrls[3:], FIELDS[::-1])[1].items():
        np.testing.assert_array_equal(value, expected[name][3:], err_msg=name)


def test_unknown_fields_are_named_with_a_suggestion():
    sim = fragile()
    with pytest.raises(ArgumentError, match=r"unknown MjData field 'xposs'; .*mean 'xpos'"):
        sim.fields(np.zeros((1, 3)), ["xposs"])
    with pytest.raises(ArgumentError, match=r"unknown MjData field 'nq'"):
        sim.step_with_fields(np.zeros((1, 3)), np.zeros((1, 2)), ["nq"])


def crowd(boxes):
    """Boxes and too little memory for the contacts among them; (model, three states).

    In the middle state they lie upon each other, in the others apart.
    """
    body = '<body><freejoint/><geom type="box" size="0.1 0.1 0.1"/></body>'
    model = mujoco.MjModel.from_xml_string(
        '<mujoco><size memory="24K"/><worldbody><geom type="plane" size="5 5 1"/>'
        f"{body * boxes}</worldbody></mujoco>"
    )
    states = np.zeros((3, model.nq + model.nv))
    poses = states[:, : model.nq].reshape(3, boxes, 7)
    poses[:, :, 3] = 1.0
    poses[:, :, 2] = 1.0 + np.arange(boxes)
    poses[1, :, 2] = 0.09 + 0.01 * np.arange(boxes)
    return model, states


@pytest.mark.parametrize(
    ("boxes", "message"),
    [
        (4, r"ran out of memory for contacts or constraints in rows \[1\]; .*<size memory="),
        (12, r"^MuJoCo refused 1 of 3 rows \[1\]: mj_stackAlloc: out of memory[^\n]*$"),
    ],
)
def test_too_little_memory_is_said_in_one_line(boxes, message):
    model, states = crowd(boxes)
    sim = Simulator(model, threads=1)
    with pytest.raises(DivergenceError, match=message) as caught:
        sim.step(states, np.zeros((3, 0)))
    assert caught.value.rows == (1,)
    sim.step(states[::2], np.zeros((2, 0)))


@pytest.mark.parametrize(("method", "boxes"), [("step", 4), ("step", 12), ("transition", 4)])
def test_too_little_memory_while_linearising(method, boxes):
    model, states = crowd(boxes)
    sim = Simulator(model, threads=1)
    with pytest.raises(DivergenceError, match=r"^linearising states \[1\]: ") as caught:
        sim.linearize(states, np.zeros((3, 0)), method=method)
    assert caught.value.rows == (1,)
    assert sim.linearize(states[::2], np.zeros((2, 0)), method=method).B.shape[2] == 0
