"""Jacobians against the test's own centred differences and against closed forms."""

import functools

import mujoco
import numpy as np
import pytest

from mbrl.errors import ArgumentError, ModelError
from mbrl.physics import Simulator
from mbrl.physics.linearization import METHODS, converged
from tests import models
from tests.models import reference

# Largest admissible error of [A B] over the states of one model, relative, in Frobenius' norm.
MEDIAN = {"implicit": 1e-6, "step": 1e-5, "transition": 1e-5}
# (method, centered) -> bound, at the states that have a Jacobian
WORST = {
    ("implicit", False): 5e-6,
    ("step", False): 1e-4,
    ("step", True): 1e-5,
    ("transition", False): 1e-4,
    ("transition", True): 1e-5,
}
CLOSED_FORM = 1e-8
REFUSED = {"clamped": "activation limits"}  # by method "transition", besides RK4


@functools.cache
def case_of(name, integrator, frame_skip, n):
    model = models.stock(name) if name in models.STOCK else models.own(name)
    if integrator is not None:
        model.opt.integrator = models.INTEGRATORS[integrator]
    return reference.Case(model, n, frame_skip=frame_skip)


def check_accuracy(case, method, centered):
    sim = Simulator(case.model, frame_skip=case.frame_skip, threads=2)
    linearization = sim.linearize(case.states, case.ctrls, method=method, centered=centered)
    median, worst = case.errors(linearization)
    assert 2 * case.trusted.sum() > len(case.trusted)
    assert median <= MEDIAN[method]
    assert worst <= WORST[method, centered]
    assert sim.linearization_fallbacks == {}


def own_cases(n):
    for name in models.OWN:
        for integrator in models.INTEGRATORS:
            for frame_skip in (1, 5):
                yield pytest.param(name, integrator, frame_skip, n)


def stock_cases(n):
    for name in models.STOCK:
        for frame_skip in (1, 5):
            yield pytest.param(name, None, frame_skip, n)


def matrix(cases):
    def decorate(function):
        for decorator in (
            pytest.mark.parametrize(
                ("method", "centered"),
                [pytest.param(*key, id="-".join([key[0], *["centred"] * key[1]])) for key in WORST],
            ),
            pytest.mark.parametrize(("name", "integrator", "frame_skip", "n"), cases),
        ):
            function = decorator(function)
        return function

    return decorate


@matrix([*own_cases(4), *stock_cases(3)])
def test_accuracy(name, integrator, frame_skip, n, method, centered):
    model = models.stock(name) if name in models.STOCK else models.own(name, integrator)
    if method == "transition" and (
        name in REFUSED or model.opt.integrator == int(models.INTEGRATORS["RK4"])
    ):
        pattern = REFUSED.get(name, "the integrator RK4")
        if name in REFUSED and model.opt.integrator == int(models.INTEGRATORS["RK4"]):
            pattern = "the integrator RK4"
        with pytest.raises(ModelError, match=f"^method 'transition' cannot .*{pattern}"):
            Simulator(model, threads=1).linearization_method(method)
        return
    if method == "implicit" and model.opt.integrator == int(models.INTEGRATORS["discrete"]):
        with pytest.raises(ModelError, match=r"^method 'implicit' does not cover the discrete"):
            Simulator(model, threads=1).linearization_method(method)
        return
    case = case_of(name, integrator, frame_skip, n)
    check_accuracy(case, method, centered)


@pytest.mark.slow
@matrix(
    [
        *(
            p
            for p in own_cases(16)
            if p.values[0] not in REFUSED and p.values[1] not in ("RK4", "discrete")
        ),
        *(pytest.param(name, "Euler", skip, 12) for name in models.STOCK for skip in (1, 5)),
    ]
)
def test_accuracy_at_more_states(name, integrator, frame_skip, n, method, centered):
    check_accuracy(case_of(name, integrator, frame_skip, n), method, centered)


@pytest.mark.slow
@pytest.mark.parametrize("centered", [False, True])
@pytest.mark.parametrize("frame_skip", [1, 5])
@pytest.mark.parametrize("name", models.STOCK)
def test_accuracy_of_stock_models_at_more_states(name, frame_skip, centered):
    check_accuracy(case_of(name, None, frame_skip, 12), "step", centered)


def linear_system(integrator):
    """The exact one-step matrices of models.LINEAR under an integrator: (A, B)."""
    h = 0.01
    mass = np.array([[3.5, 1.5], [1.5, 1.5]])  # relative coordinates: both move with the first
    stiffness, damping, gear = np.diag([30.0, 20.0]), np.diag([1.5, 0.7]), np.diag([3.0, -2.0])
    zero, one = np.zeros((2, 2)), np.eye(2)
    if integrator == "RK4":
        rate = np.block([[zero, one], [-np.linalg.solve(mass, np.hstack([stiffness, damping]))]])
        force = np.vstack([zero, np.linalg.solve(mass, gear)])
        powers = [np.linalg.matrix_power(h * rate, k) for k in range(4)]
        series = h * (powers[0] + powers[1] / 2 + powers[2] / 6 + powers[3] / 24)
        return np.eye(4) + series @ rate, series @ force
    # (mass + h damping) v+ = mass v + h (gear u - stiffness q), and springs, too, at the end of
    # the step with "discrete".
    metric, pull = mass + h * damping, -h * stiffness
    if integrator == "discrete":
        metric = metric + h**2 * stiffness
    a = np.linalg.solve(metric, np.hstack([pull, mass]))
    b = np.linalg.solve(metric, h * gear)
    return np.vstack([np.hstack([one, zero]) + h * a, a]), np.vstack([h * b, b])


@pytest.mark.parametrize("centered", [False, True], ids=["forward", "centred"])
@pytest.mark.parametrize("frame_skip", [1, 5])
@pytest.mark.parametrize(
    ("integrator", "method"),
    [
        (integrator, method)
        for integrator in models.INTEGRATORS
        for method in ("step", "transition", "auto")
        if (integrator, method) != ("RK4", "transition")  # refused
    ],
)
def test_a_linear_system_is_exact(integrator, method, frame_skip, centered):
    model = mujoco.MjModel.from_xml_string(models.LINEAR)
    model.opt.integrator = models.INTEGRATORS[integrator]
    a, b = linear_system(integrator)
    expected_a, expected_b = np.eye(4), np.zeros((4, 2))
    for _ in range(frame_skip):
        expected_a, expected_b = a @ expected_a, a @ expected_b + b
    rng = np.random.default_rng(0)
    states, ctrls = rng.standard_normal((32, 4)), rng.standard_normal((32, 2))
    sim = Simulator(model, frame_skip=frame_skip, threads=1)
    following = states @ expected_a.T + ctrls @ expected_b.T
    np.testing.assert_allclose(sim.step(states, ctrls), following, rtol=0.0, atol=1e-13)
    found = np.concatenate(sim.linearize(states, ctrls, method=method, centered=centered), axis=2)
    expected = np.broadcast_to(np.hstack([expected_a, expected_b]), found.shape)
    worst = reference.relative_error(found, expected).max()
    assert worst <= CLOSED_FORM


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", ["contact_elliptic", "mixed", "equality"])
def test_the_same_numbers_at_any_thread_count_and_in_any_company(name, method):
    model = models.own(name)
    states, ctrls = reference.samples(model, 5)
    one, two = (Simulator(model, frame_skip=2, threads=n) for n in (1, 2))
    expected = one.linearize(states, ctrls, method=method)
    for found, rows in [
        (two.linearize(states, ctrls, method=method), slice(None)),
        (two.linearize(states[::-1], ctrls[::-1], method=method), slice(None, None, -1)),
        (two.linearize(states[3:4], ctrls[3:4], method=method), slice(3, 4)),
    ]:
        np.testing.assert_array_equal(found.A, expected.A[rows])
        np.testing.assert_array_equal(found.B, expected.B[rows])


@pytest.mark.parametrize("method", METHODS)
def test_a_model_without_actuators(method):
    model = mujoco.MjModel.from_xml_string(
        models.BALL[: models.BALL.index("<actuator>")] + "</mujoco>"
    )
    states, ctrls = reference.samples(model, 3)
    a, b = Simulator(model, threads=2).linearize(states, ctrls, method=method, centered=True)
    assert b.shape == (3, 8, 0)
    for x, u, found in zip(states, ctrls, a, strict=True):
        assert reference.relative_error(found, reference.jacobian(model, x, u)) < 1e-8


def test_what_is_differentiated_is_the_converged_step():
    # Two rounds of PGS are far from the optimum, whose derivative is the same for every solver.
    model = models.own("contact_pyramidal")
    states, ctrls = reference.samples(model, 4, length=150)
    expected = Simulator(model, threads=1).linearize(states, ctrls)
    model.opt.solver, model.opt.iterations = mujoco.mjtSolver.mjSOL_PGS, 2
    model.opt.tolerance = 1e-2
    sim = Simulator(model, threads=1)
    np.testing.assert_array_equal(sim.linearize(states, ctrls).A, expected.A)
    assert sim.model.opt.solver == int(mujoco.mjtSolver.mjSOL_PGS)
    np.testing.assert_array_equal(  # while it simulates with the model's own solver
        sim.step(states, ctrls), reference.steps(model, states, ctrls)
    )


def test_converged_copies():
    model = models.stock("Humanoid")
    before = models.model_bytes(model)
    own = converged(model)
    assert models.model_bytes(model) == before
    assert own.opt.solver == int(mujoco.mjtSolver.mjSOL_NEWTON)
    assert own.opt.iterations >= 100
    assert own.opt.integrator == model.opt.integrator
    model.opt.iterations = 300
    assert converged(model).opt.iterations == 300


def test_noslip_is_differentiated_too():
    model = models.own("contact_elliptic")
    model.opt.noslip_iterations, model.opt.noslip_tolerance = 5, 0.0
    case = reference.Case(model, 4)
    model.opt.noslip_tolerance = 1e-2  # stopping early would be noise
    sim = Simulator(model, threads=1)
    for method in ("step", "transition"):
        found = sim.linearize(case.states, case.ctrls, method=method, centered=True)
        assert max(case.errors(found)) < 1e-6
    with pytest.raises(ModelError, match=r"^method 'implicit' does not cover noslip iterations; "):
        sim.linearization_method("implicit")


@pytest.mark.parametrize("name", ["Hopper", "HalfCheetah"])
def test_auto_differentiates_every_model(name):
    sim = Simulator(models.stock(name), threads=1)
    states, ctrls = reference.samples(sim.model, 2)
    resolved = sim.linearization_method("auto")
    assert resolved == sim.linearization_method()
    assert resolved in METHODS
    np.testing.assert_array_equal(
        sim.linearize(states, ctrls).A, sim.linearize(states, ctrls, method=resolved).A
    )


def test_unknown_methods_are_named_with_a_suggestion():
    sim = Simulator(models.own("ball"), threads=1)
    pattern = (
        r"^unknown method 'setp'; legal: auto, implicit, step, transition; did you mean 'step'\?$"
    )
    with pytest.raises(ArgumentError, match=pattern):
        sim.linearize(np.zeros((1, 9)), np.zeros((1, 3)), method="setp")
    with pytest.raises(ArgumentError, match=pattern):
        sim.linearization_method("setp")


@pytest.mark.parametrize("eps", [0.0, -1e-6, 1.0, np.nan, np.inf])
def test_eps_lies_between_zero_and_one(eps):
    sim = Simulator(models.own("ball"), threads=1)
    with pytest.raises(ArgumentError, match=r"^eps must lie between 0 and 1, or be None, got"):
        sim.linearize(*reference.samples(sim.model, 1), eps=eps)


@pytest.mark.parametrize("name", ["limit", "contact_elliptic"])
def test_free_fall_from_rest_needs_no_fallback(name):
    model = models.own(name)  # no spring: without contact and control only gravity acts
    state = np.concatenate([model.qpos0, np.zeros(model.nv)])[None]
    if name == "contact_elliptic":
        state[0, [2, 9]] += 1.0
    sim = Simulator(model, threads=1)
    found = np.concatenate(sim.linearize(state, np.zeros((1, 2)), method="implicit"), axis=2)
    expected = reference.jacobian(model, state[0], np.zeros(2))[None]
    assert reference.relative_error(found, expected).max() <= 5e-6
    assert sim.linearization_fallbacks == {}
