"""The examination against models whose shares, kinks and errors are known beforehand."""

import math
import time

import mujoco
import numpy as np
import pytest

from mbrl.errors import ModelError
from mbrl.physics import Simulator
from mbrl.physics.examination import Fallbacks, counted, examine, relative_error
from mbrl.physics.linearization import METHODS
from mbrl.types import Linearization
from tests import models
from tests.models import reference

# A mass on a rail that ends at 0, without gravity; one motor has limits, the other none.
RAIL = """
<mujoco>
  <option gravity="0 0 0" timestep="0.002"/>
  <worldbody>
    <body>
      <joint name="rail" type="slide" axis="1 0 0" limited="true" range="0 10"/>
      <geom type="sphere" size="0.1" mass="1"/>
    </body>
  </worldbody>
  <actuator>
    <motor name="bounded" joint="rail" ctrlrange="-1 1" gear="3"/>
    <motor joint="rail" gear="2"/>
  </actuator>
</mujoco>
"""

SPHERE = """
<mujoco>
  <worldbody>
    <geom type="plane" size="5 5 1"/>
    <body><joint type="slide" axis="0 0 1"/><geom type="sphere" size="0.1" mass="1"/></body>
  </worldbody>
</mujoco>
"""

PENDULUM = """
<mujoco>
  <worldbody>
    <body><joint type="hinge" axis="0 1 0"/><geom type="sphere" size="0.1" pos="0 0 -1"/></body>
  </worldbody>
  <actuator><motor joint="hinge"/></actuator>
</mujoco>
""".replace('<joint type="hinge"', '<joint name="hinge" type="hinge"')


def simulator(text, **options):
    return Simulator(mujoco.MjModel.from_xml_string(text), threads=1, **options)


def along_the_rail(*positions):
    """States at rest at these positions, and no control."""
    states = np.zeros((len(positions), 2))
    states[:, 0] = positions
    return states, np.zeros((len(positions), 2))


class Scripted:
    """A method that gives the derivatives of "step", changed as ``change(eps)`` says."""

    change = staticmethod(lambda eps: 1.0)
    seconds = 0.0

    def __init__(self, model, spec, frame_skip, threads):
        self._inner = METHODS["step"](model, spec, frame_skip, threads)

    @staticmethod
    def check(model):
        pass

    def __call__(self, state, ctrl, *, eps, centered):
        time.sleep(self.seconds)
        a, b = self._inner(state, ctrl, eps=2.0**-20, centered=True)
        factor = self.change(eps or 1e-4)
        return Linearization(factor * a, factor * b)


@pytest.fixture
def scripted(monkeypatch):
    """Return a function that makes "scripted" a method."""

    def make(**attributes):
        monkeypatch.setitem(METHODS, "scripted", type("Made", (Scripted,), attributes))

    return make


def test_errors_are_those_that_a_method_makes(scripted):
    scripted(change=staticmethod(lambda eps: 1.0 + 1e-3))
    sim = Simulator(models.own("mixed"), frame_skip=3, threads=1)
    figures = examine(sim, *reference.samples(sim.model, 6, frame_skip=3)).methods["scripted"]
    for error in (figures.one_sided, figures.centered):
        assert error.median == pytest.approx(1e-3, rel=1e-4)
        assert error.worst == pytest.approx(1e-3, rel=1e-4)


@pytest.mark.parametrize("name", ["mixed", "muscle", "Hopper"])
def test_errors_agree_with_another_reference(name):
    model = models.stock(name) if name in models.STOCK else models.own(name)
    case = reference.Case(model, 6)
    sim = Simulator(model, threads=1)
    found = examine(sim, case.states, case.ctrls)
    both = case.trusted & found.trusted
    assert both.sum() >= 4
    assert set(found.methods) | set(found.refused) == set(METHODS)
    for method, figures in found.methods.items():
        median, _ = case.errors(sim.linearize(case.states, case.ctrls, method=method))
        # Neither reference can tell errors below its own, of 1e-9.
        assert figures.one_sided.median == pytest.approx(median, rel=0.05, abs=1e-9)


def test_noise_and_its_order(scripted):
    states, ctrls = along_the_rail(1.0, 2.0, 3.0)
    for exponent in (1.0, 2.0, -1.0):
        scripted(change=staticmethod(lambda eps, k=exponent: 1.0 + 1e-3 * (eps / 1e-4) ** k))
        found = examine(simulator(RAIL), states, ctrls, method="scripted", eps=1e-4)
        expected = abs(1e-3 * (0.5**exponent - 1.0)) / (1.0 + 1e-3)
        assert found.change.median == pytest.approx(expected, rel=1e-6)
        assert found.change.worst == pytest.approx(expected, rel=1e-6)
        assert found.order == pytest.approx(exponent, abs=0.01)


def test_an_exact_method_has_no_order(scripted):
    scripted()
    found = examine(simulator(RAIL), *along_the_rail(1.0), method="scripted", eps=1e-4)
    assert found.change == (0.0, 0.0)
    assert math.isnan(found.order)


def test_time_is_counted_per_state(scripted):
    scripted(seconds=0.02)
    found = examine(simulator(RAIL), *along_the_rail(*range(1, 11)))
    assert 2_000 <= found.methods["scripted"].microseconds < 10_000
    assert found.methods["step"].microseconds < 2_000


def test_errors_over_the_size_of_differences():
    # For a smooth step one-sided errors grow with eps, centred ones with its square.
    sim = simulator(PENDULUM, frame_skip=20)
    states = np.stack([np.linspace(0.5, 2.5, 6), np.linspace(1.0, 3.0, 6)], axis=1)
    coarser, coarsest = examine(sim, states, np.zeros((6, 1))).sizes[-2:]
    assert coarsest.eps == 16.0 * coarser.eps
    assert coarsest.one_sided / coarser.one_sided == pytest.approx(16.0, rel=0.02)
    exact = np.stack(
        [reference.jacobian(sim.model, x, np.zeros(1), 20) for x in states]
    )  # centred, 1e-6
    found = np.concatenate(
        sim.linearize(states, np.zeros((6, 1)), method="step", eps=coarsest.eps), axis=2
    )
    expected = np.median(reference.relative_error(found, exact))
    assert coarsest.one_sided == pytest.approx(expected, rel=1e-3)


def test_controls_at_and_beyond_their_limits():
    states, ctrls = along_the_rail(*[5.0] * 6)
    ctrls[:, 0] = [0.0, 0.99, 0.9995, 1.0, -1.0, 1.5]
    ctrls[:, 1] = 1e6
    found = examine(simulator(RAIL), states, ctrls)
    assert found.actuators == ("bounded", "rail")
    assert found.saturated[:, 0].tolist() == [False, False, True, True, True, True]
    assert found.beyond[:, 0].tolist() == [False] * 5 + [True]
    assert found.vanishing[:, 0].tolist() == [False] * 5 + [True]
    for flags in (found.saturated, found.beyond, found.vanishing):
        assert not flags[:, 1].any()


def test_a_motor_without_gear_has_no_effect():
    sim = simulator(RAIL.replace('gear="2"', 'gear="0"'))
    found = examine(sim, *along_the_rail(3.0, 4.0))
    assert found.vanishing.tolist() == [[False, True]] * 2
    assert not found.beyond.any()


def test_contacts_are_counted():
    heights = [0.05, 0.5, 0.09, 0.11, 1.0]
    states = np.stack([heights, np.zeros(5)], axis=1)
    found = examine(simulator(SPHERE), states, np.zeros((5, 0)))
    expected = [height < 0.1 for height in heights]
    for flags in (found.contact, found.constrained, found.forced):
        assert flags.tolist() == expected
    assert found.vanishing.shape == (5, 0)


def test_a_limit_is_a_constraint_and_no_contact():
    found = examine(simulator(RAIL), *along_the_rail(-0.01, 1.0))
    assert not found.contact.any()
    assert found.constrained.tolist() == found.forced.tolist() == [True, False]


def test_a_constraint_that_pulls_nothing_exerts_no_force():
    states, ctrls = along_the_rail(-0.01)
    states[0, 1] = 100.0  # so fast out of the limit that it need not push
    found = examine(simulator(RAIL), states, ctrls)
    assert found.constrained.tolist() == [True]
    assert found.forced.tolist() == [False]


def test_kinks_are_found_where_they_are():
    # At rest on the end of the rail the limit pushes against one direction and not the other.
    found = examine(simulator(RAIL), *along_the_rail(0.0, 0.01, -0.01, 2.0**-20))
    assert found.kinks.tolist() == [True, False, False, False]
    # Half a coarse difference away, two sizes of centred differences see different branches.
    assert found.trusted.tolist()[1:] == [True, True, False]


def test_stiff_curvature_is_no_kink():
    sim = Simulator(models.stock("HalfCheetah"), frame_skip=5, threads=1)
    case = reference.Case(sim.model, 16, frame_skip=5)
    kinks = examine(sim, case.states, case.ctrls).kinks
    assert not (kinks & case.trusted).any()


@pytest.mark.parametrize(
    ("name", "integrator", "feature"),
    [("ball", "RK4", "the integrator RK4"), ("clamped", "Euler", "activation limits")],
)
def test_refusals_name_the_feature(name, integrator, feature):
    sim = Simulator(models.own(name, integrator), threads=1)
    states, ctrls = reference.samples(sim.model, 2)
    found = examine(sim, states, ctrls)
    assert feature in found.refused["transition"]
    assert "transition" not in found.methods
    assert found.integrator == integrator
    with pytest.raises(ModelError, match=feature):
        examine(sim, states, ctrls, method="transition")


def test_the_models_own_solver():
    model = models.own("contact_pyramidal")
    states, ctrls = reference.samples(model, 6, length=150)
    exact = reference.steps(reference.converged(model), states, ctrls)
    model.opt.solver, model.opt.iterations = mujoco.mjtSolver.mjSOL_PGS, 2
    gap = [
        np.abs(reference.difference(model, a, b)).max()
        for a, b in zip(exact, reference.steps(model, states, ctrls), strict=True)
    ]
    solver = examine(Simulator(model, threads=1), states, ctrls).solver
    assert (solver.name, solver.iterations) == ("PGS", 2)
    assert max(gap) > 1e-3
    assert solver.step.median == pytest.approx(np.median(gap), rel=1e-6)
    assert solver.step.worst == pytest.approx(max(gap), rel=1e-6)
    assert solver.jacobian.worst > 1e-3  # those of the optimum are good to 1e-4


class Falling(Simulator):
    """A simulator that counts as if one row in four fell back."""

    count = 1

    @property
    def linearization_fallbacks(self):
        return {"before": 1, "noslip": self.count}

    def linearize(self, state, ctrl, **options):
        self.count += len(state) // 4
        return super().linearize(state, ctrl, **options)


def test_fallbacks_are_those_of_the_call():
    states, ctrls = along_the_rail(*range(1, 9))
    sim = Falling(mujoco.MjModel.from_xml_string(RAIL), threads=1)
    _, found = counted(sim, lambda: sim.linearize(states, ctrls).A)
    assert found == Fallbacks(8, 2, {"noslip": 2})
    plain = simulator(RAIL)
    assert counted(plain, lambda: states) == (pytest.approx(states), Fallbacks(8, 0, {}))


def test_relative_errors():
    matrices = np.array([[[3.0, 0.0], [0.0, 4.0]], [[1.0, 0.0], [0.0, 0.0]]])
    found = matrices + np.array([[[0.0, 0.5], [0.0, 0.0]], [[0.0, 0.0], [2.0, 0.0]]])
    np.testing.assert_allclose(relative_error(found, matrices), [0.1, 2.0])
