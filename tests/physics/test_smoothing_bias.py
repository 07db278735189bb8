"""The report on bias against norms written out, and against scenes whose bias is known."""

import mujoco
import numpy as np
import pytest

from mbrl.errors import ArgumentError
from mbrl.physics import Simulator, smoothing_bias
from mbrl.physics.implicit import native_engine
from mbrl.physics.linearization import METHODS
from tests import models
from tests.models import reference

AVAILABLE = [name for name in METHODS if name != "implicit" or native_engine()[0]]
IMPEDANCE = {"kind": "impedance", "width": 0.01}
HANGING = '<mujoco><worldbody>{}<body pos="0 0 {}"><joint type="slide" axis="0 0 1"/><geom size="0.1"/></body></worldbody>{}</mujoco>'  # noqa: E501


@pytest.mark.parametrize("method", AVAILABLE)
def test_medians_and_largest_of_relative_frobenius_norms(method):
    sim = Simulator(models.own("contact_pyramidal"), frame_skip=2, threads=1)
    points = reference.samples(sim.model, 5, length=150)
    options = {"method": method, "centered": True, "eps": 2.0**-21}
    found = smoothing_bias(sim, *points, IMPEDANCE, **options)
    exact = sim.linearize(*points, **options)
    smoothed = sim.linearize(*points, smoothing=IMPEDANCE, **options)
    a, b = (
        reference.relative_error(one, other) for one, other in zip(smoothed, exact, strict=True)
    )
    np.testing.assert_allclose(found, [np.median(a), a.max(), np.median(b), b.max()], rtol=1e-12)
    assert found.A_largest > 0.1


def ball(height, actuators=""):
    """A ball of radius 0.1 above the floor, in mid-air or not."""
    floor = '<geom type="plane" size="1 1 1"/>'
    return Simulator(
        mujoco.MjModel.from_xml_string(HANGING.format(floor, height, actuators)), threads=1
    )


def test_no_bias_out_of_reach_and_without_controls():
    sim = ball(0.2)
    point = np.zeros((3, 2)), np.zeros((3, 0))
    assert smoothing_bias(sim, *point, IMPEDANCE) == (0.0, 0.0, 0.0, 0.0)
    assert smoothing_bias(ball(0.105), *point, IMPEDANCE).A_median > 0.01


def test_infinite_where_only_the_smoothed_matrix_is_not_zero():
    # A control beyond its range has no effect; perturbed, it is often back inside.
    motor = '<actuator><motor joint="{}" ctrlrange="-1 1"/></actuator>'
    model = mujoco.MjModel.from_xml_string(
        HANGING.format("", 1.0, motor.format("j")).replace("<joint", '<joint name="j"')
    )
    point = np.zeros((1, 2)), np.full((1, 1), 1.1)
    smoothing = {"kind": "randomized", "position_sd": 0.0, "control_sd": 1.0}
    found = smoothing_bias(Simulator(model, threads=1), *point, smoothing)
    assert found.B_median == found.B_largest == np.inf
    assert found.A_largest < 1e-6


def test_errors_are_those_of_linearize():
    sim = ball(0.2)
    with pytest.raises(ArgumentError, match=r"^state must have shape \[B, 2\]"):
        smoothing_bias(sim, np.zeros((3, 3)), np.zeros((3, 0)), IMPEDANCE)
    with pytest.raises(ArgumentError, match=r"^smoothing\.width must be at least"):
        smoothing_bias(sim, np.zeros((3, 2)), np.zeros((3, 0)), IMPEDANCE | {"width": -1.0})
