"""The step with parameters, and its derivatives, against serial runs of edited models."""

import contextlib
import copy
import pickle

import mujoco
import numpy as np
import pytest

from mbrl.errors import ArgumentError, DivergenceError, ModelError
from mbrl.physics import ModelParameters, ParametricSimulator, Simulator, parametric
from mbrl.physics.parameter_names import FIELDS
from tests import models
from tests.models import reference
from tests.physics.parametric import CASES, SLIDE, edited, model_of, samples, theta

every_case = pytest.mark.parametrize("name", CASES)
centered_or_not = pytest.mark.parametrize("centered", [False, True], ids=["forward", "centred"])
ROWS, SKIP = 4, 3


def made(name):
    model = model_of(name)
    simulator = Simulator(model, frame_skip=SKIP, threads=1)
    return model, ParametricSimulator(simulator, ModelParameters(model, list(CASES[name])))


def varied(values, rows, seed=0):
    """Parameters 20 % off, differently in every row."""
    factors = np.random.default_rng(seed).uniform(0.8, 1.2, (rows, len(values)))
    return np.where(values == 0.0, factors - 0.8, values * factors)


def numbers(name, values):
    return dict(zip(CASES[name].values(), values, strict=True))


# --- values --------------------------------------------------------------------------------------


@every_case
def test_a_row_is_a_serial_run_of_an_edited_model(name):
    model, simulator = made(name)
    states, ctrls = samples(name, model, ROWS, SKIP)
    values = varied(simulator.parameters.values, ROWS)
    found = simulator.step(states, ctrls, values)
    for row in range(ROWS):
        other = edited(model, numbers(name, values[row]))
        data = mujoco.MjData(other)
        expected = reference.step(other, data, states[row], ctrls[row], SKIP)
        np.testing.assert_array_equal(found[row], expected)
    assert (found != simulator.simulator.step(states, ctrls)).any(axis=1).all()


@every_case
def test_the_models_own_values_give_the_simulators_bits(name):
    model, simulator = made(name)
    states, ctrls = samples(name, model, ROWS, SKIP)
    expected = simulator.simulator.step(states, ctrls)
    own = simulator.parameters.values
    np.testing.assert_array_equal(simulator.step(states, ctrls, own), expected)
    simulator.step(states, ctrls, varied(own, ROWS))
    np.testing.assert_array_equal(simulator.step(states, ctrls, own), expected)


EVERY = ("HalfCheetah", "mixed", "tendon", "equality", "fluid", "muscle", "servo", "limit")


def whole_field(model, field):
    """Parameters of a field, None where the model has none or compiled the field's value away."""
    if np.size(getattr(model.opt, field[4:]) if "." in field else getattr(model, field)) == 0:
        return None
    if model.body_simple.any() and field == "body_ipos":
        with contextlib.suppress(ModelError):
            return ModelParameters(model, [field])
        return None
    return ModelParameters(model, [field])


@pytest.mark.parametrize("name", EVERY)
def test_every_field_in_turn_and_back(name):
    model = models.stock(name) if name in models.STOCK else models.own(name)
    simulator = Simulator(model, frame_skip=2, threads=1)
    states, ctrls = reference.samples(model, 2, length=30)
    tried = []
    for field in sorted(FIELDS):
        if (name, field) == ("tendon", "tendon_armature"):
            continue  # MuJoCo knows none of tendons that wrap around geoms
        parameters = whole_field(model, field)
        if parameters is None:
            continue
        run = ParametricSimulator(simulator, parameters)
        before = run.step(states, ctrls, parameters.values)
        np.testing.assert_array_equal(before, simulator.step(states, ctrls))
        rows = np.stack([parameters.values * 1.03, parameters.values + 1e-3])
        rows = np.clip(rows, parameters.lower, parameters.upper)
        after = run.step(states, ctrls, rows)
        for row in range(2):
            other = copy.copy(model)
            if "." in field:
                shape = np.shape(getattr(model.opt, field[4:]))
                setattr(other.opt, field[4:], rows[row].reshape(shape) if shape else rows[row, 0])
            else:
                getattr(other, field)[:] = rows[row].reshape(getattr(model, field).shape)
            mujoco.mj_setConst(other, mujoco.MjData(other))
            data = mujoco.MjData(other)
            expected = reference.step(other, data, states[row], ctrls[row], 2)
            np.testing.assert_array_equal(after[row], expected, err_msg=field)
        np.testing.assert_array_equal(run.step(states, ctrls, parameters.values), before)
        tried.append(field)
    assert len(tried) > 25


def test_a_density_is_what_the_compiler_makes_of_it():
    density = 1000.0
    spec = mujoco.MjSpec.from_string(models.MIXED)
    spec.geoms[3].density = 1.7 * density
    compiled = spec.compile()
    body = compiled.geom_bodyid[3]
    model = models.own("mixed")
    names = [(f"body_mass[{body}]", f"body_inertia[{body}]")]
    states, ctrls = reference.samples(model, 3)
    run = ParametricSimulator(Simulator(model, threads=1), ModelParameters(model, names))
    found = run.step(states, ctrls, run.parameters.values * 1.7)
    expected = reference.steps(compiled, states, ctrls)
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-13)
    assert np.abs(found - reference.steps(model, states, ctrls)).max() > 1e-4


def test_the_callers_model_is_untouched():
    for name in CASES:
        model, simulator = made(name)
        before, inner = models.model_bytes(model), models.model_bytes(simulator.simulator.model)
        states, ctrls = samples(name, model, 2, SKIP)
        values = varied(simulator.parameters.values, 2)
        simulator.step(states, ctrls, values)
        simulator.linearize(states, ctrls, values)
        assert models.model_bytes(model) == before
        assert models.model_bytes(simulator.simulator.model) == inner


def test_results_do_not_depend_on_threads_batches_or_history():
    model, one = made("mixed")
    states, ctrls = samples("mixed", model, 9, SKIP)
    values = varied(one.parameters.values, 9)
    many = ParametricSimulator(Simulator(model, frame_skip=SKIP, threads=3), one.parameters)
    expected, jacobians = one.step(states, ctrls, values), one.linearize(states, ctrls, values)
    order = np.random.default_rng(0).permutation(9)
    found = many.step(states[order], ctrls[order], values[order])
    np.testing.assert_array_equal(found, expected[order])
    for a, b in zip(many.linearize(states, ctrls, values), jacobians, strict=True):
        np.testing.assert_array_equal(a, b)
    for row in order:
        part = slice(row, row + 1)
        found = many.step(states[part], ctrls[part], values[row])
        np.testing.assert_array_equal(found, expected[part])


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda s: pickle.loads(pickle.dumps(s))])
def test_copies_compute_the_same(duplicate):
    model, simulator = made("HalfCheetah")
    states, ctrls = samples("HalfCheetah", model, 2, SKIP)
    values = varied(simulator.parameters.values, 2)
    found = duplicate(simulator).step(states, ctrls, values)
    np.testing.assert_array_equal(found, simulator.step(states, ctrls, values))


# --- derivatives ---------------------------------------------------------------------------------


@centered_or_not
@every_case
def test_theta(name, centered):
    model, simulator = made(name)
    states, ctrls = samples(name, model, ROWS, SKIP)
    values = varied(simulator.parameters.values, ROWS)
    found = simulator.linearize(states, ctrls, values, centered=centered).Theta
    sizes = []
    for row in range(ROWS):
        other = edited(model, numbers(name, values[row]))
        expected = theta(other, states[row], ctrls[row], CASES[name].values(), SKIP)
        size = np.linalg.norm(expected, axis=0)
        error = np.linalg.norm(found[row] - expected, axis=0)
        sizes.append(size * np.abs(values[row]))
        # Rounding of the reference itself, with which insensitive numbers have to live.
        noise = 1e-10 / np.maximum(np.abs(values[row]), 1e-12)
        assert (error < (2e-6 if centered else 5e-5) * size + noise).all()
    assert np.max(sizes, axis=0).min() > 1e-6  # no column is zero by nature


@centered_or_not
@pytest.mark.parametrize("name", ["HalfCheetah", "mixed", "slide_elliptic"])
def test_state_and_control(name, centered):
    model, simulator = made(name)
    states, ctrls = samples(name, model, ROWS, SKIP)
    values = varied(simulator.parameters.values, ROWS)
    found = simulator.linearize(states, ctrls, values, centered=centered)
    for row in range(ROWS):
        other = edited(model, numbers(name, values[row]))
        expected = reference.jacobian(other, states[row], ctrls[row], SKIP)
        both = np.concatenate([found.A[row], found.B[row]], axis=1)
        assert reference.relative_error(both, expected) < (1e-6 if centered else 5e-5)


@centered_or_not
def test_at_own_values_state_and_control_are_the_simulators(centered):
    for name in CASES:
        model, simulator = made(name)
        states, ctrls = samples(name, model, ROWS, SKIP)
        found = simulator.linearize(states, ctrls, simulator.parameters.values, centered=centered)
        expected = simulator.simulator.linearize(states, ctrls, centered=centered)
        np.testing.assert_array_equal(found.A, expected.A)
        np.testing.assert_array_equal(found.B, expected.B)


def test_sensitivity_is_theta():
    model, simulator = made("mixed")
    states, ctrls = samples("mixed", model, ROWS, SKIP)
    values = varied(simulator.parameters.values, ROWS)
    np.testing.assert_array_equal(
        simulator.sensitivity(states, ctrls, values, eps=1e-5),
        simulator.linearize(states, ctrls, values, eps=1e-5).Theta,
    )


def test_a_step_linear_in_its_parameters_is_differenced_exactly():
    # With Euler's method the next velocity is linear in a gain, whatever the size of differences.
    model = mujoco.MjModel.from_xml_string(models.LINEAR)
    names = ["actuator_gear[0,0]", "actuator_gainprm[1,0]"]
    simulator = ParametricSimulator(Simulator(model, threads=1), ModelParameters(model, names))
    states, ctrls = np.zeros((1, 4)), np.array([[0.3, -0.7]])
    (found,) = simulator.sensitivity(states, ctrls, [3.0, 1.0], eps=0.25)
    unit = reference.steps(model, states, np.array([[1.0, 0.0]]))[0]
    np.testing.assert_allclose(found[:, 0], 0.1 * unit, rtol=1e-14, atol=1e-18)
    other = reference.steps(model, states, np.array([[0.0, 1.0]]))[0]
    np.testing.assert_allclose(found[:, 1], -0.7 * other, rtol=1e-14, atol=1e-18)


@centered_or_not
@pytest.mark.parametrize("side", ["lower", "upper"])
def test_differences_stay_within_the_bounds(side, centered, monkeypatch):
    model = model_of("HalfCheetah")
    names = ["body_mass[torso]", "dof_damping[bthigh]"]
    values = ModelParameters(model, names).values
    bounds = {"lower": 0.0, "upper": 50.0} | {side: values}
    parameters = ModelParameters(model, names, **bounds)
    free = ModelParameters(model, names, lower=-np.inf)
    seen = []
    advance = parametric.ParameterPool.advance_with

    def spy(self, state, ctrl, values, substeps):
        seen.append(values)
        return advance(self, state, ctrl, values, substeps)

    monkeypatch.setattr(parametric.ParameterPool, "advance_with", spy)
    states, ctrls = samples("HalfCheetah", model, 2, SKIP)
    simulator = Simulator(model, frame_skip=SKIP, threads=1)
    found = ParametricSimulator(simulator, parameters).sensitivity(
        states, ctrls, values, centered=centered
    )
    tried = np.concatenate(seen)
    assert (tried >= parameters.lower).all()
    assert (tried <= parameters.upper).all()
    assert len(np.unique(tried[:, 0])) == (3 if centered else 2)
    expected = ParametricSimulator(simulator, free).sensitivity(
        states, ctrls, values, centered=True
    )
    assert reference.relative_error(found, expected).max() < 1e-5


@pytest.mark.parametrize("rows", [1, 50])
def test_jacobians_do_not_depend_on_the_size_of_a_chunk(rows, monkeypatch):
    model, simulator = made("mixed")
    states, ctrls = samples("mixed", model, ROWS, SKIP)
    values = varied(simulator.parameters.values, ROWS)
    expected = simulator.linearize(states, ctrls, values, centered=True)
    monkeypatch.setattr(parametric, "_ROWS_PER_CALL", rows)
    chunked = ParametricSimulator(simulator.simulator, simulator.parameters)
    for a, b in zip(chunked.linearize(states, ctrls, values, centered=True), expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_constants_are_derived_only_when_what_they_depend_on_has_changed(monkeypatch):
    derived = []

    class Counting(mujoco.batch.Batch):
        def set_const(self, ids=None):
            derived.append(len(ids))
            super().set_const(ids)

    monkeypatch.setattr("mbrl.physics.engine.Batch", Counting)
    model = model_of("mixed")
    states, ctrls = samples("mixed", model, ROWS, SKIP)
    names = ["dof_damping[0]", "body_mass[3]"]
    run = ParametricSimulator(Simulator(model, threads=1), ModelParameters(model, names))
    values = varied(run.parameters.values, ROWS)
    run.step(states, ctrls, values)
    run.step(states, ctrls, values * [1.1, 1.0])
    assert derived == [ROWS]
    values[2, 1] *= 1.1
    run.step(states, ctrls, values)
    assert derived == [ROWS, 1]


def test_jacobian_can_be_replaced():
    model, simulator = made("mixed")
    states, ctrls = samples("mixed", model, 2, SKIP)
    asked = []
    inner = simulator.jacobian

    def replaced(state, ctrl, values, *, eps, centered):
        asked.append(values)
        return inner(state, ctrl, values, eps=eps, centered=centered)

    values = varied(simulator.parameters.values, 2)
    simulator.jacobian = replaced
    simulator.linearize(states, ctrls, values)
    simulator.sensitivity(states, ctrls, values)
    assert len(asked) == 1
    np.testing.assert_array_equal(asked[0], values)


# --- refusals ------------------------------------------------------------------------------------


def test_bad_arguments():
    model, simulator = made("slide_elliptic")
    states, ctrls = samples("slide_elliptic", model, 2, SKIP)
    own = simulator.parameters.values
    cases = [
        ((states, ctrls, own[:2]), r"parameters must have shape \[3\] or \[2, 3\], got \[2\]"),
        ((states, ctrls, np.stack([own] * 3)), r"got \[3, 3\]"),
        ((states, ctrls, own * [1, np.nan, 1]), r"parameters must be finite, .* rows \[0, 1\]"),
        ((states, ctrls, -own), r"geom_friction\[block,0\] must lie between 0 and inf, got -0.3"),
        ((states, ctrls, "abc"), "parameters must be an array of real numbers"),
        ((states[:, 1:], ctrls, own), "state must have shape"),
        ((states, np.zeros((2, 1)), own), "ctrl must have shape"),
    ]
    for call in (simulator.step, simulator.linearize, simulator.sensitivity):
        for arguments, message in cases:
            with pytest.raises(ArgumentError, match=message):
                call(*arguments)
    for call in (simulator.linearize, simulator.sensitivity):
        with pytest.raises(ArgumentError, match="eps must lie between 0 and 1"):
            call(states, ctrls, own, eps=2.0)


def test_parameters_of_another_model_are_refused():
    simulator = Simulator(models.own("ball"), threads=1)
    with pytest.raises(ArgumentError, match="those of another model"):
        ParametricSimulator(simulator, ModelParameters(models.own("free"), ["body_mass"]))
    with pytest.raises(ArgumentError, match="simulator must be a Simulator, got MjModel"):
        ParametricSimulator(models.own("ball"), ModelParameters(models.own("ball"), ["body_mass"]))
    with pytest.raises(ArgumentError, match="parameters must be ModelParameters, got list"):
        ParametricSimulator(simulator, ["body_mass"])


def test_divergence_and_refusals_of_mujoco_name_their_rows_and_are_forgotten():
    model, simulator = made("slide_elliptic")
    states, ctrls = samples("slide_elliptic", model, 4, SKIP)
    own = simulator.parameters.values
    expected = simulator.step(states, ctrls, own)
    values = np.stack([own] * 4)
    values[2, 1] = 0.0  # a body that moves must have a mass
    for call in (simulator.step, simulator.linearize):
        with pytest.raises(DivergenceError) as caught:
            call(states, ctrls, values)
        assert caught.value.rows == (2,)
    wild = states.copy()
    wild[1, model.nq] = 1e12
    with pytest.raises(DivergenceError) as caught:
        simulator.step(wild, ctrls, own)
    assert caught.value.rows == (1,)
    np.testing.assert_array_equal(simulator.step(states, ctrls, own), expected)


def test_friction_is_the_larger_of_both_geoms():
    # What the documentation says of names that must be tied.
    model = mujoco.MjModel.from_xml_string(SLIDE.format(cone="elliptic"))
    states, ctrls = samples("slide_elliptic", model, 2, 1)
    names = ["geom_friction[floor,0]", "geom_friction[block,0]"]
    run = ParametricSimulator(Simulator(model, threads=1), ModelParameters(model, names))
    theta = run.sensitivity(states, ctrls, run.parameters.values)
    assert not theta[:, :, 0].any()
    assert np.abs(theta[:, :, 1]).max() > 1e-3
    tied = ParametricSimulator(Simulator(model, threads=1), ModelParameters(model, [tuple(names)]))
    found = tied.sensitivity(states, ctrls, tied.parameters.values)
    # The parameter is the floor's friction: half the block's.
    np.testing.assert_allclose(found[:, :, 0], 2.0 * theta[:, :, 1], rtol=1e-5, atol=1e-9)
