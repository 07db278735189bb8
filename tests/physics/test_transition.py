"""The chain of mjd_transitionFD over the physics steps, and what it refuses."""

import mujoco
import numpy as np
import pytest

from mbrl.errors import ModelError
from mbrl.physics import Simulator
from mbrl.physics.transition import TransitionDifference
from tests import models
from tests.models import reference


def refused(model):
    with pytest.raises(ModelError) as caught:
        TransitionDifference.check(model)
    sim = Simulator(model, threads=1)
    for ask in (
        lambda: sim.linearization_method("transition"),
        lambda: sim.linearize(*reference.samples(model, 1), method="transition"),
    ):
        with pytest.raises(ModelError) as again:
            ask()
        assert str(again.value) == str(caught.value)
    assert sim.linearization_method("auto") != "transition"
    return str(caught.value)


def test_rk4_is_refused_by_name():
    assert refused(models.own("ball", "RK4")) == (
        "method 'transition' cannot differentiate the integrator RK4; use method 'step'"
    )
    assert "RK4" in refused(models.stock("Hopper"))


def test_activation_limits_are_refused_because_they_come_out_wrong():
    model = models.own("clamped")
    assert "activation limits (actlimited)" in refused(model)
    states, ctrls = reference.samples(model, 1)
    states[:, -3] = ctrls[:, 0] = 0.5
    data = mujoco.MjData(model)
    reference.load(model, data, states[0], ctrls[0])
    a = np.empty((7, 7))
    mujoco.mjd_transitionFD(model, data, 1e-8, False, a, None, None, None)
    assert a[-3, -3] == 0.0  # when MuJoCo does better, so may we
    assert Simulator(model, threads=1).linearize(states, ctrls).A[0, -3, -3] > 0.7


def test_ranges_that_are_not_clamped_are_refused_because_they_come_out_wrong():
    model = models.own("mixed")
    model.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_CLAMPCTRL)
    assert "control bounds other than ctrlrange" in refused(model)
    states, ctrls = reference.samples(model, 1)
    ctrls[:, 0] = 1.5
    data = mujoco.MjData(model)
    reference.load(model, data, states[0], ctrls[0])
    b = np.empty((26, 4))
    mujoco.mjd_transitionFD(model, data, 1e-8, False, None, b, None, None)
    assert not b[:, 0].any()
    assert Simulator(model, threads=1).linearize(states, ctrls).B[0, :, 0].any()


def test_muscles_without_a_range_are_refused_because_they_come_out_wrong():
    model = models.own("muscle")
    TransitionDifference.check(model)
    model.actuator_ctrllimited[0] = 0
    assert "control bounds other than ctrlrange (a muscle's [0, 1]" in refused(model)
    states, ctrls = reference.samples(model, 1)
    ctrls[:, 0] = 1.0
    data = mujoco.MjData(model)
    reference.load(model, data, states[0], ctrls[0])
    b = np.empty((7, 3))
    mujoco.mjd_transitionFD(model, data, 1e-8, False, None, b, None, None)
    assert not b[:, 0].any()
    assert Simulator(model, threads=1).linearize(states, ctrls).B[0, :, 0].any()


@pytest.mark.parametrize("integrator", ["Euler", "implicit", "implicitfast", "discrete"])
def test_every_other_integrator_is_accepted(integrator):
    TransitionDifference.check(models.own("mixed", integrator))


@pytest.mark.parametrize("frame_skip", [2, 3])
@pytest.mark.parametrize("name", ["mixed", "servo", "contact_elliptic"])
def test_the_chain_is_that_of_its_links(name, frame_skip):
    # Jacobians of the single steps along the way, multiplied here.
    model = models.own(name)
    states, ctrls = reference.samples(model, 2, length=100)
    found = Simulator(model, frame_skip=frame_skip, threads=1).linearize(
        states, ctrls, method="transition", centered=True
    )
    accurate, data = reference.converged(model), None
    for row, (x, u) in enumerate(zip(states, ctrls, strict=True)):
        data = mujoco.MjData(accurate)
        ndx = found.A.shape[1]
        a, b = np.eye(ndx), np.zeros((ndx, model.nu))
        for _ in range(frame_skip):
            link = reference.jacobian(model, x, u)
            a, b = link[:, :ndx] @ a, link[:, :ndx] @ b + link[:, ndx:]
            x = reference.step(accurate, data, x, u)
        assert reference.relative_error(found.A[row], a) < 1e-6
        assert reference.relative_error(found.B[row], b) < 1e-6


@pytest.mark.parametrize("integrator", ["Euler", "implicit", "implicitfast", "discrete"])
@pytest.mark.parametrize("name", ["mixed", "muscle", "servo", "tendon", "contact_pyramidal"])
def test_step_and_transition_agree_over_a_control_step(name, integrator):
    model = models.own(name, integrator)
    states, ctrls = reference.samples(model, 3)
    sim = Simulator(model, frame_skip=4, threads=2)
    step, transition = (
        sim.linearize(states, ctrls, method=method, centered=True)
        for method in ("step", "transition")
    )
    for found, expected in zip(transition, step, strict=True):
        assert reference.relative_error(found, expected).max() < 1e-6
