"""Smoothed Jacobians against models softened in MJCF, and against averages of our own."""

import math

import mujoco
import numpy as np
import pytest

from mbrl.errors import ArgumentError, ConfigError, DivergenceError
from mbrl.physics import ImpedanceSmoothing, RandomizedSmoothing, Simulator, smoothing_of
from mbrl.physics.implicit import native_engine
from mbrl.physics.linearization import METHODS
from tests import models
from tests.models import reference

AVAILABLE = [name for name in METHODS if name != "implicit" or native_engine()[0]]
methods = pytest.mark.parametrize("method", AVAILABLE)
NOTHING = [
    ImpedanceSmoothing(width=0.0, onset=1.0),
    RandomizedSmoothing(position_sd=0.0, samples=6),
]
SOME = [
    ImpedanceSmoothing(width=0.01),
    RandomizedSmoothing(samples=4, position_sd=0.01, velocity_sd=0.1, control_sd=0.1),
]
each = pytest.mark.parametrize("smoothing", SOME, ids=["impedance", "randomized"])

# Every place where a contact or a limit has solver parameters; the fields to fill in come in pairs:
# those of the model, and those that its softened copy must have.
EVERYWHERE = """
<mujoco>
  <option o_margin="{o_margin}" o_solimp="{o_solimp}" o_solref="{o_solref}"/>
  <default>
    <geom margin="{margin}" solref="{solref}" solimp="{solimp}"/>
    <joint margin="{l_margin}" solreflimit="{l_solref}" solimplimit="{l_solimp}"/>
  </default>
  <worldbody>
    <geom name="floor" type="plane" size="5 5 1"/>
    <body><geom name="still" size="0.1" gap="0.01" solref="{direct}"/></body>
    <body pos="0 0 1">
      <joint name="a" range="-10 10" limited="true"/>
      <geom name="one" size="0.1"/>
      <geom name="two" pos="1 0 0" size="0.1"/>
    </body>
    <body pos="0 0 3"><joint type="slide"/><inertial pos="0 0 0" mass="1" diaginertia="1 1 1"/>
    </body>
    <flexcomp name="cloth" type="grid" count="3 3 1" spacing="0.1 0.1 0.1" pos="0 0 2"
      radius="0.01" mass="1">
      <contact margin="{margin}" solref="{solref}" solimp="{solimp}"/>
    </flexcomp>
  </worldbody>
  <contact>
    <pair geom1="one" geom2="floor" margin="{p_margin}" solref="{solref}" solimp="{solimp}"
      solreffriction="{solref}"/>
  </contact>
  <tendon>
    <fixed limited="true" range="-1 1" margin="{l_margin}" solreflimit="{l_solref}"
      solimplimit="{l_solimp}"><joint joint="a" coef="1"/></fixed>
  </tendon>
</mujoco>
"""
AS_IT_IS = {
    "margin": 0.001,
    "p_margin": 0.002,
    "o_margin": 0.003,
    "l_margin": 0.004,
    "solref": "0.02 0.8",
    "o_solref": "0.03 1",
    "l_solref": "0.04 1",
    "direct": "-400 -20",
    "solimp": "0.9 0.95 0.001 0.4 3",
    "o_solimp": "0.1 0.8 0.07 0.5 2",
    "l_solimp": "0.7 0.95 0.002 0.5 2",
}
# By width 0.0625, onset 0.25, margin 0.03125, slowdown 2.
SOFTENED = AS_IT_IS | {
    "margin": 0.016625,
    "p_margin": 0.03325,
    "o_margin": 0.03425,
    "solref": "0.04 0.8",
    "o_solref": "0.06 1",
    "direct": "-100 -10",
    "solimp": "0.25 0.95 0.0625 0.4 3",
    "o_solimp": "0.1 0.8 0.07 0.5 2",
}
LIMITS_TOO = SOFTENED | {
    "l_margin": 0.03525,
    "l_solref": "0.08 1",
    "l_solimp": "0.25 0.95 0.0625 0.5 2",
}


@pytest.mark.parametrize("limits", [False, True])
def test_the_softened_copy_is_the_model_whose_mjcf_says_so(limits):
    model, expected = (
        mujoco.MjModel.from_xml_string(EVERYWHERE.format(**values))
        for values in (AS_IT_IS, LIMITS_TOO if limits else SOFTENED)
    )
    before = models.model_bytes(model)
    smoothing = ImpedanceSmoothing(
        width=0.0625, onset=0.25, margin=0.03125, slowdown=2.0, limits=limits
    )
    found = smoothing.softened(model)
    assert models.model_bytes(model) == before
    differing = [
        name
        for name in dir(found)
        if isinstance(getattr(found, name), np.ndarray)
        and not np.allclose(getattr(found, name), getattr(expected, name), rtol=1e-15, atol=1e-17)
    ]
    differing += [
        name
        for name in ("o_margin", "o_solref", "o_solimp")
        if not np.allclose(getattr(found.opt, name), getattr(expected.opt, name), rtol=1e-15)
    ]
    assert differing == []


def softened_xml(name):
    return models.OWN[name].replace(
        "<worldbody>",
        '<default><geom margin="0.005" solimp="0 0.95 0.01 0.5 2" solref="0.04 1"/></default>'
        "<worldbody>",
        1,
    )


@methods
@pytest.mark.parametrize("frame_skip", [1, 3])
@pytest.mark.parametrize("name", ["contact_pyramidal", "contact_elliptic"])
def test_impedance_is_the_jacobian_of_a_model_softened_in_mjcf(name, frame_skip, method):
    case = reference.Case(
        mujoco.MjModel.from_xml_string(softened_xml(name)), 6, frame_skip=frame_skip
    )
    sim = Simulator(models.own(name), frame_skip=frame_skip, threads=1)
    points = case.states, case.ctrls
    found = sim.linearize(
        *points, method=method, centered=True, smoothing={"kind": "impedance", "width": 0.01}
        | {"slowdown": 2.0},
    )  # fmt: skip
    median, worst = case.errors(found)
    assert 2 * case.trusted.sum() > len(case.trusted)
    assert median < 1e-6
    assert worst < 1e-5
    # The contacts are felt at these states: exact Jacobians are others.
    assert case.errors(sim.linearize(*points, method=method, centered=True))[1] > 0.1


def test_impedance_feels_the_ground_before_touching_it():
    # A ball of radius 0.1 at a gap of 4 mm, at rest: without contact it falls, A_zz = 1.
    model = mujoco.MjModel.from_xml_string(
        '<mujoco><worldbody><geom type="plane" size="1 1 1"/><body pos="0 0 0.104">'
        '<joint type="slide" axis="0 0 1"/><geom size="0.1"/></body></worldbody></mujoco>'
    )
    sim = Simulator(model, threads=1)
    point = np.zeros((1, 2)), np.zeros((1, 0))
    np.testing.assert_allclose(sim.linearize(*point).A[0], [[1.0, 0.002], [0.0, 1.0]], atol=1e-8)
    far = sim.linearize(*point, smoothing=ImpedanceSmoothing(width=0.003))
    np.testing.assert_array_equal(far.A, sim.linearize(*point).A)
    near = sim.linearize(*point, smoothing=ImpedanceSmoothing(width=0.01)).A[0]
    assert near[1, 0] < -0.1  # higher up, less of a push
    assert near[1, 1] < 0.99


@methods
@pytest.mark.parametrize("name", ["mixed", "contact_pyramidal"])
def test_randomized_is_the_average_of_exact_jacobians_at_the_perturbed_points(name, method):
    model = models.own(name)
    sim = Simulator(model, frame_skip=2, threads=1)
    smoothing = RandomizedSmoothing(
        samples=4, position_sd=0.02, velocity_sd=0.1, activation_sd=0.02, control_sd=0.02
    )
    states, ctrls = reference.samples(model, 4)
    found = sim.linearize(states, ctrls, method=method, centered=True, smoothing=smoothing)
    half = smoothing.perturbations(states, ctrls, sim.spec)
    assert half.shape == (2, 4, sim.spec.ndx + model.nu)
    expected = np.mean(
        [
            [
                reference.jacobian(
                    model, reference.retract(model, x, d[: sim.spec.ndx]), u + d[sim.spec.ndx :], 2
                )
                for x, u, d in zip(states, ctrls, moved, strict=True)
            ]
            for moved in (*half, *-half)
        ],
        axis=0,
    )
    error = reference.relative_error(np.concatenate(found, axis=2), expected)
    assert error.max() < 1e-6
    exact = sim.linearize(states, ctrls, method=method, centered=True)
    assert reference.relative_error(found.A, exact.A).min() > 1e-4


def test_randomized_perturbations_are_normal_of_their_deviations():
    model = models.own("mixed")
    spec = Simulator(model, threads=1).spec
    deviations = np.repeat([0.1, 2.0, 0.3, 0.7], [spec.nv, spec.nv, spec.na, spec.nu])
    smoothing = RandomizedSmoothing(
        samples=200, position_sd=0.1, velocity_sd=2.0, activation_sd=0.3, control_sd=0.7
    )
    drawn = smoothing.perturbations(*reference.samples(model, 200), spec) / deviations
    count = drawn.shape[0] * drawn.shape[1]
    columns = drawn.reshape(count, -1)
    covariance = columns.T @ columns / count
    assert np.abs(columns.mean(axis=0)).max() < 4.5 / math.sqrt(count)
    assert np.abs(covariance - np.eye(len(covariance))).max() < 4.5 * math.sqrt(2.0 / count)
    assert abs((columns**4).mean() - 3.0) < 4.5 * math.sqrt(96.0 / columns.size)
    # Rows are independent of each other.
    between = np.corrcoef(drawn[:, :, :].transpose(1, 0, 2).reshape(200, -1))
    assert np.abs(between - np.eye(200)).max() < 5.5 / math.sqrt(drawn[:, 0].size)


def test_randomized_averages_to_a_clamp_smoothed_by_the_normal_distribution():
    # x' is linear in the clamped control: the expectation of B is B P(-1 < u + eta < 1).
    limited = models.LINEAR.replace('gear="3"', 'gear="3" ctrlrange="-1 1"')
    sim = Simulator(mujoco.MjModel.from_xml_string(limited), threads=1)
    rng = np.random.default_rng(0)
    rows, sd, u = 100, 0.5, 0.8
    states, ctrls = rng.standard_normal((rows, 4)), np.full((rows, 2), u)
    exact = sim.linearize(states, 0.0 * ctrls, centered=True)
    share = 0.5 * (math.erf((1 - u) / sd / math.sqrt(2)) - math.erf((-1 - u) / sd / math.sqrt(2)))
    for samples in (4, 64):
        found = sim.linearize(
            states,
            ctrls,
            centered=True,
            smoothing=RandomizedSmoothing(samples=samples, position_sd=0.0, control_sd=sd),
        )
        shares = found.B[:, :, 0] / exact.B[:, :, 0]
        # Of antithetic pairs both lie inside, or one; never none. Each is one trial.
        spread = math.sqrt(share * (1.0 - share) / (rows * samples))
        assert abs(shares.mean() - share) < 4.0 * spread
        np.testing.assert_allclose(found.B[:, :, 1], exact.B[:, :, 1], rtol=0.0, atol=1e-9)
        np.testing.assert_allclose(found.A, exact.A, rtol=0.0, atol=1e-9)


BALL = """
<mujoco>
  <option timestep="0.005"/>
  <worldbody>
    <geom type="plane" size="1 1 1" solimp="{onset} 0.95 0.05 0.5 2"/>
    <body pos="0 0 0.1">
      <joint type="slide" axis="0 0 1"/>
      <geom size="0.1" solimp="{onset} 0.95 0.05 0.5 2"/>
    </body>
  </worldbody>
</mujoco>
"""


def smoothed_derivative(model, height, speed, sd):
    """d/dz E[F(z + sd n)] by quadrature of -F p' over a fine grid: no derivative of F."""
    offsets = np.linspace(-6.0 * sd, 6.0 * sd, 801)
    states = np.stack([height + offsets, np.full_like(offsets, speed)], axis=1)
    values = reference.steps(model, states, np.zeros((len(states), 0)))
    density = np.exp(-0.5 * (offsets / sd) ** 2) / (sd * math.sqrt(2.0 * math.pi))
    return np.trapezoid(values * (density * offsets / sd**2)[:, None], offsets, axis=0)


def first_column(model, height, speed, sd, rows, **options):
    """The bundle's A e_z averaged over many independent rows, and its standard error."""
    sim = Simulator(model, threads=1)
    # Rows that differ in the last bits alone: the same point, other perturbations.
    states = np.stack([height + 1e-12 * np.arange(rows), np.full(rows, speed)], axis=1)
    smoothing = RandomizedSmoothing(samples=8, position_sd=sd)
    columns = sim.linearize(states, np.zeros((rows, 0)), smoothing=smoothing, **options).A[:, :, 0]
    return columns.mean(axis=0), columns.std(axis=0) / math.sqrt(rows)


def test_randomized_is_the_derivative_of_the_smoothed_step_where_contact_sets_in_smoothly():
    model = mujoco.MjModel.from_xml_string(BALL.format(onset=0.0))
    for height, speed in [(0.005, -0.5), (0.0, 0.0), (-0.01, -0.2)]:
        expected = smoothed_derivative(model, height, speed, 0.01)
        mean, error = first_column(model, height, speed, 0.01, rows=400, centered=True)
        # MuJoCo clips impedance to 1e-4, a jump of F by as much: far below the standard error.
        assert (np.abs(mean - expected) < 4.0 * error).all()
        assert abs(expected[1]) > 20.0 * error[1]


def test_randomized_misses_what_jumps():
    model = mujoco.MjModel.from_xml_string(BALL.format(onset=0.9))
    expected = smoothed_derivative(model, 0.005, -0.5, 0.01)
    mean, error = first_column(model, 0.005, -0.5, 0.01, rows=400, eps=2.0**-36)
    assert np.abs(mean - expected)[1] > 0.5 * abs(expected[1]) > 20.0 * error[1]


@methods
@each
def test_the_same_numbers_in_any_company_and_at_any_thread_count(smoothing, method):
    model = models.own("contact_elliptic")
    states, ctrls = reference.samples(model, 5)
    one, two = (Simulator(model, frame_skip=2, threads=n) for n in (1, 2))
    options = {"method": method, "smoothing": smoothing}
    expected = one.linearize(states, ctrls, **options)
    for found, rows in [
        (two.linearize(states, ctrls, **options), slice(None)),
        (two.linearize(states[::-1], ctrls[::-1], **options), slice(None, None, -1)),
        (one.linearize(states[3:4], ctrls[3:4], **options), slice(3, 4)),
    ]:
        np.testing.assert_array_equal(found.A, expected.A[rows])
        np.testing.assert_array_equal(found.B, expected.B[rows])


def test_a_seed_is_a_bundle_of_its_own():
    sim = Simulator(models.own("mixed"), threads=1)
    points = reference.samples(sim.model, 2)
    first, same, other = (
        sim.linearize(*points, smoothing={"kind": "randomized", "samples": 2, "seed": seed}).A
        for seed in (0, 0, 1)
    )
    np.testing.assert_array_equal(first, same)
    assert (first != other).any(axis=(1, 2)).all()


def test_negative_zeros_are_zeros():
    smoothing, spec = RandomizedSmoothing(), Simulator(models.own("limit"), threads=1).spec
    zeros = np.zeros((1, 4)), np.zeros((1, 2))
    np.testing.assert_array_equal(
        smoothing.perturbations(*zeros, spec), smoothing.perturbations(-zeros[0], -zeros[1], spec)
    )


@methods
@pytest.mark.parametrize("nothing", NOTHING, ids=["impedance", "randomized"])
@pytest.mark.parametrize("name", ["contact_elliptic", "mixed"])
def test_smoothing_by_nothing_is_exact(name, nothing, method):
    sim = Simulator(models.own(name), threads=1)
    points = reference.samples(sim.model, 3)
    expected = sim.linearize(*points, method=method)
    found = sim.linearize(*points, method=method, smoothing=nothing)
    np.testing.assert_array_equal(found.A, expected.A)
    np.testing.assert_array_equal(found.B, expected.B)


@each
def test_the_simulated_model_and_the_callers_are_untouched(smoothing):
    model = models.own("contact_pyramidal")
    before = models.model_bytes(model)
    points = reference.samples(model, 3, length=150)
    sim = Simulator(model, threads=1)
    private, following = models.model_bytes(sim.model), sim.step(*points)
    sim.linearize(*points, smoothing=smoothing)
    assert models.model_bytes(model) == before
    assert models.model_bytes(sim.model) == private
    np.testing.assert_array_equal(sim.step(*points), following)
    np.testing.assert_array_equal(following, reference.steps(model, *points))


def test_differentiations_that_are_kept_are_few():
    sim = Simulator(models.own("limit"), threads=1)
    points = reference.samples(sim.model, 1)
    widths = [0.01 * k for k in range(1, 30)]
    first = sim.linearize(*points, smoothing=ImpedanceSmoothing(width=widths[0])).A
    for width in widths:
        sim.linearize(*points, smoothing=ImpedanceSmoothing(width=width))
    assert len(sim._linearizer._built) < 10
    again = sim.linearize(*points, smoothing=ImpedanceSmoothing(width=widths[0])).A
    np.testing.assert_array_equal(again, first)


def test_rows_that_diverge_are_named():
    sim = Simulator(mujoco.MjModel.from_xml_string(models.LINEAR), threads=1)
    states = np.zeros((3, 4))
    states[1, 2] = 9.99e9  # MuJoCo's limit is 1e10
    with pytest.raises(DivergenceError) as caught:
        sim.linearize(
            states, np.zeros((3, 2)), eps=0.1, smoothing=RandomizedSmoothing(velocity_sd=1e8)
        )
    assert caught.value.rows == (1,)


@pytest.mark.parametrize(
    ("value", "error", "message"),
    [
        ({"kind": "impedence"}, ConfigError, r"^smoothing\.kind: unknown .*did you mean 'impedanc"),
        ({"width": 0.1}, ConfigError, r"^smoothing\.kind: unknown value None; legal: impedance, r"),
        ({"kind": "impedance", "widht": 0.1}, ConfigError, r"'smoothing\.widht'; .*mean 'width'"),
        ({"kind": "impedance", "width": "a"}, ConfigError, r"^smoothing\.width must be a finite"),
        ({"kind": "impedance", "width": -1}, ArgumentError, r"^smoothing\.width must be at least"),
        ({"kind": "impedance", "onset": 1.5}, ArgumentError, r"^smoothing\.onset must lie .* 1.5"),
        ({"kind": "impedance", "margin": -0.1}, ArgumentError, r"^smoothing\.margin must be at le"),
        ({"kind": "impedance", "slowdown": 0.5}, ArgumentError, r"^smoothing\.slowdown .* 1.0"),
        ({"kind": "randomized", "samples": 3}, ArgumentError, r"^smoothing\.samples .* even .* 3$"),
        ({"kind": "randomized", "samples": 0}, ArgumentError, r"^smoothing\.samples .* even .* 0$"),
        ({"kind": "randomized", "seed": -1}, ArgumentError, r"^smoothing\.seed must be .* got -1$"),
        ({"kind": "randomized", "velocity_sd": -1.0}, ArgumentError, r"^smoothing\.velocity_sd"),
        ("impedance", ArgumentError, r"^smoothing must be a mapping .*, got 'impedance'$"),
        (ImpedanceSmoothing, ArgumentError, r"^smoothing must be a mapping"),
    ],
)
def test_bad_options_are_named(value, error, message):
    sim = Simulator(models.own("limit"), threads=1)
    with pytest.raises(error, match=message):
        sim.linearize(*reference.samples(sim.model, 1), smoothing=value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "0.1", True, None])
def test_numbers_are_numbers(value):
    with pytest.raises(ArgumentError, match=r"^width must be at least 0\.0, and finite, got"):
        ImpedanceSmoothing(width=value)


def test_objects_and_mappings_say_the_same():
    assert smoothing_of(None) is None
    assert smoothing_of({"kind": "impedance", "width": 1}) == ImpedanceSmoothing(width=1.0)
    made = RandomizedSmoothing(samples=2)
    assert smoothing_of(made) is made
