"""Differences of the whole control step: bounds, sizes, batches."""

import mujoco
import numpy as np
import pytest

from mbrl.errors import DivergenceError
from mbrl.physics import Simulator, step_difference
from tests import models
from tests.models import reference

METHODS = ["step", "transition"]
centered_or_not = pytest.mark.parametrize("centered", [False, True], ids=["forward", "centred"])


def unlimited(model):
    """The same model with no bounds on controls and activations."""
    spec_free = mujoco.MjModel.from_xml_string(models.OWN[model])
    spec_free.actuator_ctrllimited[:] = 0
    spec_free.actuator_actlimited[:] = 0
    return spec_free


@centered_or_not
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("offset", [0.0, 1e-12, 2.0**-29])
@pytest.mark.parametrize("side", [0, 1], ids=["low", "high"])
@pytest.mark.parametrize("name", ["mixed", "servo", "tendon"])
def test_at_a_control_bound_the_column_is_the_interior_one(name, side, offset, method, centered):
    model = models.own(name)
    states, ctrls = reference.samples(model, 2)
    bound = model.actuator_ctrlrange[:, side]
    limited = model.actuator_ctrllimited.astype(bool)
    ctrls[:, limited] = (bound + (offset if side == 0 else -offset))[limited]
    sim = Simulator(model, frame_skip=3, threads=1)
    found = sim.linearize(states, ctrls, method=method, centered=centered)
    for row, (x, u) in enumerate(zip(states, ctrls, strict=True)):
        # Without bounds differences of both sides see the same smooth map.
        expected = reference.jacobian(unlimited(name), x, u, 3)[:, sim.spec.ndx :]
        assert np.abs(expected).max(axis=0).min() > 1e-6  # no column is zero by nature
        error = np.linalg.norm(found.B[row] - expected, axis=0) / np.linalg.norm(expected, axis=0)
        assert error.max() < 2e-5


@centered_or_not
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("excess", [1e-12, 1e-9, 1e-7, 1e-3, 1.0, 1e6])
@pytest.mark.parametrize("side", [0, 1], ids=["low", "high"])
def test_beyond_a_control_bound_the_column_is_exactly_zero(side, excess, method, centered):
    model = models.own("mixed")
    states, ctrls = reference.samples(model, 3)
    clear = Simulator(model, frame_skip=2, threads=1).linearize(
        states, ctrls, method=method, centered=centered
    )
    ctrls[:, 0] = model.actuator_ctrlrange[0, side] + (excess if side else -excess)
    sim = Simulator(model, frame_skip=2, threads=1)
    b = sim.linearize(states, ctrls, method=method, centered=centered).B
    assert not b[:, :, 0].any()
    assert b[:, :, 1:].any(axis=1).all()
    assert clear.B[:, :, 0].any(axis=1).all()


@centered_or_not
@pytest.mark.parametrize("side", [0, 1], ids=["low", "high"])
def test_at_an_activation_limit_the_column_is_the_interior_one(side, centered):
    model = models.own("clamped")
    states, ctrls = reference.samples(model, 3)
    act = states[:, -model.na :]
    # The filter rests at its limit, and so does the integrator: the engine clamps, yet moves none.
    act[:, 0] = ctrls[:, 0] = model.actuator_actrange[0, side]
    act[:, 1], ctrls[:, 1] = model.actuator_actrange[1, side], 0.0
    sim = Simulator(model, threads=1)
    found = sim.linearize(states, ctrls, centered=centered).A
    for row, (x, u) in enumerate(zip(states, ctrls, strict=True)):
        expected = reference.jacobian(unlimited("clamped"), x, u)[:, : sim.spec.ndx]
        assert reference.relative_error(found[row], expected) < 1e-6
        assert expected[-3, -3] == pytest.approx(0.75)


@centered_or_not
def test_beyond_an_activation_limit_the_next_activation_does_not_move(centered):
    model = models.own("clamped")
    states, ctrls = reference.samples(model, 3)
    states[:, -3], ctrls[:, 0] = 0.5 + np.array([1e-9, 1e-3, 0.2]), 0.9
    found = Simulator(model, threads=1).linearize(states, ctrls, centered=centered).A
    assert not found[:, -3].any()
    for row, (x, u) in enumerate(zip(states, ctrls, strict=True)):
        expected = reference.jacobian(model, x, u)[:, : found.shape[2]]
        assert reference.relative_error(found[row], expected) < 1e-6


@centered_or_not
@pytest.mark.parametrize("limited", [False, True])
def test_muscles_are_clamped_to_their_excitation_whatever_their_range(limited, centered):
    model = models.own("muscle")
    model.actuator_ctrllimited[:2] = limited
    model.actuator_ctrlrange[:2] = [[-1.0, 2.0], [0.0, 1.0]]
    states, ctrls = reference.samples(model, 1)
    sim = Simulator(model, threads=1)
    # An inward difference is the limit of interior ones.
    for bound, inside in ((1.0, 1.0 - 1e-4), (0.0, 1e-4)):
        ctrls[:, 0] = bound
        found = sim.linearize(states, ctrls, centered=centered).B[0, :, 0]
        ctrls[:, 0] = inside
        expected = reference.jacobian(model, states[0], ctrls[0])[:, sim.spec.ndx]
        np.testing.assert_allclose(found, expected, rtol=0.0, atol=1e-3 * np.abs(expected).max())
        assert found.any()
    for beyond in (-0.5, 1.5):
        ctrls[:, 0] = beyond
        assert not sim.linearize(states, ctrls, centered=centered).B[0, :, 0].any()


@centered_or_not
def test_ranges_that_are_not_clamped_are_no_bounds(centered):
    model = models.own("mixed")
    model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_CLAMPCTRL)
    states, ctrls = reference.samples(model, 2)
    ctrls[:, 0] = 1.5
    a, b = Simulator(model, threads=1).linearize(states, ctrls, centered=centered)
    for row, (x, u) in enumerate(zip(states, ctrls, strict=True)):
        found = np.hstack([a[row], b[row]])
        assert reference.relative_error(found, reference.jacobian(model, x, u)) < 1e-6
    assert b[:, :, 0].any(axis=1).all()


def inward(model, x, u, index, h, frame_skip):
    """Second-order one-sided differences along one coordinate of the state."""
    data, ends = mujoco.MjData(model), []
    for k in range(3):
        moved = x.copy()
        moved[index] += k * h
        ends.append(reference.step(model, data, moved, u, frame_skip))
    return (-3 * ends[0] + 4 * ends[1] - ends[2]) / (2 * h)


@pytest.mark.parametrize("frame_skip", [1, 4])
@pytest.mark.parametrize(
    "options", [{"method": "step"}, {"method": "step", "centered": True}, {"method": "implicit"}]
)
def test_muscles_at_the_ends_of_their_range_have_inward_derivatives(options, frame_skip):
    """Their time constants depend on the clipped activation: there is a kink, and only inside."""
    model = models.own("muscle")
    states, ctrls = reference.samples(model, 2)
    act = model.nq + model.nv  # of the first muscle
    sim = Simulator(model, frame_skip=frame_skip, threads=1)
    for bound, h, excitation in ((0.0, 1e-5, 0.7), (1.0, -1e-5, 0.4)):
        states[:, act], ctrls[:, 0] = bound, excitation
        found = sim.linearize(states, ctrls, **options).A[:, :, 2 * model.nv]
        for row, (x, u) in enumerate(zip(states, ctrls, strict=True)):
            expected, outward = (inward(model, x, u, act, d, frame_skip) for d in (h, -h))
            scale = np.abs(expected).max()
            assert np.abs(expected - outward).max() > 1e-2 * scale
            np.testing.assert_allclose(found[row], expected, rtol=0.0, atol=1e-5 * scale)
    if options["method"] == "implicit":
        assert not sim.linearization_fallbacks


def test_bounds_of_activations_and_controls():
    low, high = step_difference.bounds(models.own("clamped"))
    infinity = np.inf
    np.testing.assert_array_equal(low, [-0.5, -0.8, -infinity, -1.0, -4.0, -infinity])
    np.testing.assert_array_equal(high, [0.5, 0.8, infinity, 1.0, 4.0, infinity])
    low, high = step_difference.bounds(models.own("muscle"))
    np.testing.assert_array_equal(low, [0.0, 0.0, -infinity, 0.0, 0.0, -1.0])
    np.testing.assert_array_equal(high, [1.0, 1.0, infinity, 1.0, 1.0, 1.0])


@pytest.mark.parametrize("name", ["mixed", "muscle", "servo", "fluid", "linear", "free"])
def test_models_without_constraints_take_larger_differences(name):
    xml = models.LINEAR if name == "linear" else models.OWN[name]
    model = mujoco.MjModel.from_xml_string(xml)
    model.geom_contype[:] = 0
    smooth = step_difference.default_eps(model, False)
    data = mujoco.MjData(model)
    mujoco.mj_forward(model, data)
    assert data.nefc == 0
    model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_CONSTRAINT)
    assert step_difference.default_eps(model, False) == smooth


SMALL = """
<mujoco>
  <worldbody>
    {world}
    <body>
      <joint name="a" {joint}/><geom size="0.1"/>
      <body><joint name="b"/><geom size="0.1"/>{child}</body>
    </body>
  </worldbody>
  {rest}
</mujoco>
"""
GRANDCHILD = '<body><joint name="c"/><geom size="0.1"/></body>'
PAIR = '<tendon><fixed name="t" {}><joint joint="a" coef="1"/></fixed></tendon>'


@pytest.mark.parametrize(
    "parts",
    [
        {"world": '<geom type="plane" size="1 1 1"/>'},
        {"world": '<body><joint name="z"/><geom size="0.1"/></body>'},
        {"child": GRANDCHILD},
        {"joint": 'range="-1 1" limited="true"'},
        {"joint": 'frictionloss="1"'},
        {"rest": PAIR.format('range="-1 1" limited="true"')},
        {"rest": PAIR.format('frictionloss="1"')},
        {"rest": '<equality><joint joint1="a" joint2="b"/></equality>'},
    ],
    ids=["ground", "sibling", "grandchild", "limit", "friction", "tendon", "cord", "equality"],
)
def test_models_that_may_have_constraints_take_smaller_differences(parts):
    def eps(flag=None, **given):
        xml = SMALL.format(**({"world": "", "joint": "", "child": "", "rest": ""} | given))
        model = mujoco.MjModel.from_xml_string(xml)
        model.opt.disableflags |= 0 if flag is None else int(flag)
        return step_difference.default_eps(model, False)

    smooth = eps()
    assert eps(**parts) < smooth
    assert eps(mujoco.mjtDisableBit.mjDSBL_CONSTRAINT, **parts) == smooth
    assert eps(mujoco.mjtDisableBit.mjDSBL_FILTERPARENT) < smooth


@pytest.mark.parametrize("rows", [1, 60, 100])
def test_chunks_do_not_show(rows, monkeypatch):
    model = models.own("mixed")
    states, ctrls = reference.samples(model, 5)
    expected = Simulator(model, threads=2).linearize(states, ctrls)
    monkeypatch.setattr(step_difference, "_ROWS_PER_CALL", rows)
    found = Simulator(model, threads=2).linearize(states, ctrls)
    np.testing.assert_array_equal(found.A, expected.A)
    np.testing.assert_array_equal(found.B, expected.B)


@pytest.mark.parametrize("rows", [1, 8192])
@pytest.mark.parametrize("method", METHODS)
def test_divergence_names_the_states_of_the_batch(method, rows, monkeypatch):
    monkeypatch.setattr(step_difference, "_ROWS_PER_CALL", rows)
    sim = Simulator(models.own("mixed"), threads=2)
    states, ctrls = reference.samples(sim.model, 6)
    states[[1, 4], sim.spec.nq] = 1e12
    with pytest.raises(DivergenceError, match=r"^linearising states \[(1|1, 4)\]: ") as caught:
        sim.linearize(states, ctrls, method=method)
    assert set(caught.value.rows) <= {1, 4}
    assert caught.value.rows[0] == 1
    fine = [0, 2, 3, 5]
    sim.linearize(states[fine], ctrls[fine], method=method)
