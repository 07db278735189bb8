"""The native engine: feature by feature against differences, its checks, and what it refuses."""

import copy

import mujoco
import numpy as np
import pytest

from mbrl.errors import DivergenceError, ModelError
from mbrl.physics import Simulator, native_engine
from mbrl.physics.implicit import ImplicitDifference
from mbrl.physics.linearization import converged
from tests import models
from tests.models import features, reference

# Errors of [A B], relative, at the states where the reference can be told.
MEDIAN, WORST = 1e-6, 1e-5
INTEGRATORS = [name for name in models.INTEGRATORS if name != "discrete"]


def found_and_expected(model, n, frame_skip=1):
    case = reference.Case(model, n, frame_skip=frame_skip)
    sim = Simulator(model, frame_skip=frame_skip, threads=1)
    return case, sim, sim.linearize(case.states, case.ctrls, method="implicit")


@pytest.mark.parametrize("integrator", INTEGRATORS)
@pytest.mark.parametrize("name", features.FEATURES)
def test_features(name, integrator):
    case, sim, found = found_and_expected(features.feature(name, integrator), 3)
    assert case.trusted.any()
    median, worst = case.errors(found)
    assert median <= MEDIAN
    assert worst <= WORST
    # Only where there is no Jacobian, as for a cylinder flat on its rim, may a check fail.
    assert sum(sim.linearization_fallbacks.values()) <= (~case.trusted).sum()
    assert sim.linearization_method() == "implicit"


@pytest.mark.parametrize("integrator", ["implicit", "implicitfast", "RK4", "Euler"])
@pytest.mark.parametrize("name", models.STOCK)
def test_stock_models_with_every_integrator(name, integrator):
    model = models.stock(name)
    model.opt.integrator = models.INTEGRATORS[integrator]
    case, sim, found = found_and_expected(model, 3)
    median, worst = case.errors(found)
    assert median <= MEDIAN
    assert worst <= WORST
    assert sim.linearization_fallbacks == {}


@pytest.mark.parametrize("solver", ["PGS", "CG", "NEWTON"])
@pytest.mark.parametrize("integrator", ["Euler", "RK4"])
def test_a_solver_that_stops_early_is_polished(solver, integrator):
    model = models.stock("HalfCheetah")
    model.opt.integrator = models.INTEGRATORS[integrator]
    states, ctrls = reference.samples(model, 8, length=100)
    assert Simulator(model, threads=1).fields(states, ["ncon"], ctrls)["ncon"].any()
    exact = converged(model)
    rough = copy.copy(exact)
    rough.opt.solver = getattr(mujoco.mjtSolver, f"mjSOL_{solver}")
    rough.opt.iterations = 1

    def jacobian(of):
        method = ImplicitDifference(of, Simulator(of).spec, 1, 1)
        result = method(states, ctrls, eps=None, centered=False)
        assert not method.fallbacks
        return np.concatenate(result, axis=2)

    error = reference.relative_error(jacobian(rough), jacobian(exact))
    assert np.median(error) <= 1e-9
    assert error.max() <= 1e-6


def test_threads_and_batches_do_not_change_a_bit():
    model = models.stock("Ant")
    states, ctrls = reference.samples(model, 9, length=60)
    once = Simulator(model, frame_skip=2, threads=1).linearize(states, ctrls)
    many = Simulator(model, frame_skip=2, threads=3)
    np.testing.assert_array_equal(
        np.concatenate(many.linearize(states, ctrls), 2), np.concatenate(once, 2)
    )
    for row in (3, 8, 0):
        alone = many.linearize(states[row : row + 1], ctrls[row : row + 1])
        np.testing.assert_array_equal(alone.A[0], once.A[row])
        np.testing.assert_array_equal(alone.B[0], once.B[row])


def test_controls_at_and_beyond_their_limits():
    model = models.own("ball")
    sim = Simulator(model, threads=1)
    state = np.concatenate([model.qpos0, np.zeros(model.nv)])[None].repeat(3, axis=0)
    ctrls = np.array([[0.2, 0.0, 0.0], [1.0, 0.0, 0.0], [1.5, 0.0, 0.0]])
    b = sim.linearize(state, ctrls, method="implicit").B
    assert np.abs(b[0, :, 0]).max() > 1e-3
    np.testing.assert_allclose(b[1, :, 0], b[0, :, 0], rtol=1e-3)
    np.testing.assert_array_equal(b[2, :, 0], 0.0)


REFUSED = {
    "the discrete integrator": ("", '<option integrator="discrete"/>'),
    "noslip iterations": ("", '<option noslip_iterations="3"/>'),
    "speculative contacts": ("", '<option><flag speculative="enable"/></option>'),
    "the exact constraint diagonal": ("", '<option><flag diagexact="enable"/></option>'),
    "armature of spatial tendons": (
        "",
        '<tendon><spatial armature=".1"><site site="s1"/><site site="s2"/></spatial></tendon>',
    ),
    "damping of actuators": ("", '<actuator><motor joint="j1" damping=".3"/></actuator>'),
    "adhesion actuators": ("", '<actuator><adhesion body="b2" ctrlrange="0 1"/></actuator>'),
    "adhesion of geoms": ('<geom size=".1" adhesion="1"/>', ""),
    "surface velocities": ('<geom size=".1" surfacevel="1 0 0 0 0 0"/>', ""),
    "negative joint damping": (features.hung('<joint damping="-1"/>'), ""),
    "fluid forces on free bodies with the implicitfast": (
        features.free(features.BOX.format(""), 1),
        '<option integrator="implicitfast" density="1"/>',
    ),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_what_is_not_covered_is_named_and_differenced(reason):
    world, rest = REFUSED[reason]
    model = mujoco.MjModel.from_xml_string(features.scene(features.arm() + world, rest))
    sim = Simulator(model, threads=1)
    pattern = rf"^method 'implicit' does not cover {reason}.*; use method 'step'$"
    with pytest.raises(ModelError, match=pattern):
        sim.linearization_method("implicit")
    assert sim.linearization_method() == "step"
    state = np.concatenate([model.qpos0, np.zeros(model.nv + model.na)])[None]
    assert np.isfinite(sim.linearize(state, np.zeros((1, model.nu))).A).all()


def test_callbacks_are_refused_while_they_are_there():
    sim = Simulator(models.own("ball"), threads=1)
    mujoco.set_mjcb_passive(lambda model, data: None)
    try:
        with pytest.raises(ModelError, match=r"does not cover physics callbacks"):
            sim.linearization_method("implicit")
    finally:
        mujoco.set_mjcb_passive(None)
    assert sim.linearization_method() == "implicit"


def lying_cylinder():
    """Flat on its rim: the nearest point of the rim has no derivative."""
    return mujoco.MjModel.from_xml_string(
        features.scene(features.free('<geom type="cylinder" size=".1 .05"/>', 0.0495))
    )


def test_states_that_fail_a_check_fall_back_and_are_counted(monkeypatch):
    model = models.own("mixed")
    states, ctrls = reference.samples(model, 4)
    sim = Simulator(model, threads=1)
    method = ImplicitDifference(converged(model), sim.spec, 1, 1)
    true = method._engine

    class Failing:
        def linearize(self, *arguments):
            a, b, status = true.linearize(*arguments)
            a[[1, 3]], b[[1, 3]] = np.nan, np.nan
            status[[1, 3]] = [3, 5]
            return a, b, status

    monkeypatch.setattr(method, "_engine", Failing())
    found = method(states, ctrls, eps=None, centered=True)
    by_steps = sim.linearize(states, ctrls, method="step", centered=True)
    np.testing.assert_array_equal(found.A[[1, 3]], by_steps.A[[1, 3]])
    np.testing.assert_array_equal(found.B[[1, 3]], by_steps.B[[1, 3]])
    assert sorted(method.fallbacks.values()) == [1, 1]
    assert any("does not balance" in reason for reason in method.fallbacks)


def test_a_degenerate_contact_is_no_garbage():
    model = lying_cylinder()
    sim = Simulator(model, threads=1)
    state = np.concatenate([model.qpos0, np.zeros(model.nv)])[None]
    found = sim.linearize(state, np.zeros((1, 0)), method="implicit").A
    assert np.abs(found).max() < 1e4


def test_a_muscle_at_rest_is_differenced_by_the_whole_step():
    muscle = '<muscle joint="j1" ctrlrange="0 1" force="5" lengthrange="-2 2"/>'
    model = mujoco.MjModel.from_xml_string(features.actuated(muscle))
    state = np.concatenate([model.qpos0, np.zeros(model.nv + model.na)])[None]
    sim = Simulator(model, frame_skip=10, threads=1)
    found = sim.linearize(state, np.zeros((1, model.nu)), method="implicit")
    assert any("kink" in reason for reason in sim.linearization_fallbacks)
    by_steps = sim.linearize(state, np.zeros((1, model.nu)), method="step", centered=True)
    np.testing.assert_array_equal(found.B, by_steps.B)


def test_divergence_names_the_rows():
    model = models.own("mixed")
    states, ctrls = reference.samples(model, 3)
    states[1, -6:] = 1e9
    with pytest.raises(
        DivergenceError, match=r"^linearising states \[1\]: the simulation diverged"
    ):
        Simulator(model, frame_skip=5, threads=1).linearize(states, ctrls, method="implicit")


def test_memory_for_contacts_runs_out():
    xml = features.CONTACTS["box on box"].replace("<worldbody>", '<size memory="9K"/><worldbody>')
    model = mujoco.MjModel.from_xml_string(xml)
    state = np.concatenate([model.qpos0, np.zeros(model.nv)])[None]
    with pytest.raises(DivergenceError, match=r"memory|refused"):
        Simulator(model, threads=1).linearize(state, np.zeros((1, 0)), method="implicit")


def test_without_the_engine_there_is_one_warning_and_step(monkeypatch):
    monkeypatch.setattr(native_engine, "_ENGINE", None)
    monkeypatch.setattr(native_engine, "_WHY_NOT", "it was not built (no C++ compiler?)")
    monkeypatch.setattr(native_engine.NOTICE, "_given", False)
    sim = Simulator(models.own("ball"), threads=1)
    with pytest.warns(RuntimeWarning, match=r"^the native Jacobian engine is missing: .*slower"):
        assert sim.linearization_method() == "step"
    assert sim.linearization_method() == "step"  # a second warning would be an error
    with pytest.raises(ModelError, match=r"needs the native engine: it was not built"):
        sim.linearization_method("implicit")
    states, ctrls = reference.samples(sim.model, 2)
    by_threads = sim.linearize(states, ctrls, method="transition", centered=True)
    monkeypatch.undo()
    own = Simulator(models.own("ball"), threads=1).linearize(
        states, ctrls, method="transition", centered=True
    )
    np.testing.assert_allclose(by_threads.A, own.A, rtol=0, atol=1e-9)


def test_an_engine_for_another_mujoco_is_not_used(monkeypatch):
    monkeypatch.setattr(mujoco, "mj_version", lambda: 4000007)
    engine, why = native_engine.load_engine()
    assert engine is None
    assert "install mbrl again" in why
    engine, why = native_engine.load_engine("mbrl.physics.no_such_engine")
    assert (engine, why) == (None, "it was not built (no C++ compiler?)")
