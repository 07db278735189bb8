"""The adjoint sweep against differences of rollouts made here, closed forms and the chain rule."""

import mujoco
import numpy as np
import pytest

from mbrl.errors import ArgumentError, DivergenceError, ModelError
from mbrl.physics import Simulator, adjoint
from tests import models
from tests.models import reference
from tests.physics.test_linearization import linear_system

STEPS, BATCH = 7, 3


class Problem:
    """A rollout of a model, and the partial derivatives of a function of it, at random."""

    def __init__(self, model, *, frame_skip=2, threads=1, steps=STEPS, batch=BATCH, seed=0):
        self.sim = Simulator(model, frame_skip=frame_skip, threads=threads)
        spec, rng = self.sim.spec, np.random.default_rng(seed)
        low, high = np.where(
            model.actuator_ctrllimited, model.actuator_ctrlrange.T, [[-1.0], [1.0]]
        )
        self.state, _ = reference.samples(model, batch, seed=seed)
        shape = (steps, batch, spec.nu)
        self.ctrls = (low + high) / 2 + 0.45 * (high - low) * rng.uniform(-1.0, 1.0, shape)
        self.states = self.sim.rollout(self.state, self.ctrls)
        self.by_states = rng.standard_normal((steps + 1, batch, spec.ndx))
        self.by_ctrls = rng.standard_normal(shape)
        self.gains = 0.1 * rng.standard_normal((*shape, spec.ndx))

    def sweep(self, *, gains=None, **options):
        return self.sim.adjoint(
            self.states, self.ctrls, self.by_states, self.by_ctrls, gains=gains, **options
        )

    def chain(self, *, gains=None, **options):
        """The same derivatives, by products of whole Jacobians, forward in time."""
        steps, batch, nu = self.ctrls.shape
        ndx = self.by_states.shape[2]
        by_state, by_ctrls = np.zeros((batch, ndx)), np.zeros(self.ctrls.shape)
        slopes = np.zeros((steps, batch, nu, ndx)) if gains is None else gains
        for row in range(batch):
            # of x_t and u_t by [x_0, u_0, ..., u_{T-1}]
            state = np.eye(ndx, ndx + steps * nu)
            total = self.by_states[0, row] @ state
            for t in range(steps):
                here = slice(ndx + t * nu, ndx + (t + 1) * nu)
                ctrl = slopes[t, row] @ state
                ctrl[:, here] += np.eye(nu)
                a, b = self.sim.linearize(
                    self.states[t, row : row + 1], self.ctrls[t, row : row + 1], **options
                )
                state = a[0] @ state + b[0] @ ctrl
                total += self.by_states[t + 1, row] @ state + self.by_ctrls[t, row] @ ctrl
            by_state[row], by_ctrls[:, row] = total[:ndx], total[ndx:].reshape(steps, nu)
        return by_state, by_ctrls


def assert_close(found, expected, tolerance=1e-10):
    for one, other in zip(found, expected, strict=True):
        assert one.shape == other.shape
        scale = np.abs(other).max(initial=1e-300)
        np.testing.assert_allclose(one, other, rtol=0.0, atol=tolerance * scale)


# --- values --------------------------------------------------------------------------------------


@pytest.mark.parametrize("feedback", [False, True], ids=["open loop", "feedback"])
@pytest.mark.parametrize("method", ["implicit", "step", "transition"])
@pytest.mark.parametrize("name", ["mixed", "contact_elliptic", "muscle", "limit"])
def test_the_sweep_is_the_chain_rule(name, method, feedback):
    problem = Problem(models.own(name))
    gains = problem.gains if feedback else None
    assert_close(
        problem.sweep(gains=gains, method=method), problem.chain(gains=gains, method=method)
    )


@pytest.mark.parametrize("feedback", [False, True], ids=["open loop", "feedback"])
@pytest.mark.parametrize("method", ["auto", "step", "transition"])
@pytest.mark.parametrize("integrator", ["Euler", "discrete"])
def test_a_linear_system_is_exact(integrator, method, feedback):
    model = mujoco.MjModel.from_xml_string(models.LINEAR)
    model.opt.integrator = models.INTEGRATORS[integrator]
    problem = Problem(model, frame_skip=1, steps=40)
    a, b = linear_system(integrator)
    gains = problem.gains if feedback else np.zeros_like(problem.gains)

    def value(state, ctrls, row):
        # Linear in its arguments: its derivatives are its values at unit vectors.
        total = problem.by_states[0, row] @ state
        for t, ctrl in enumerate(ctrls):
            applied = ctrl + gains[t, row] @ state
            state = a @ state + b @ applied
            total += problem.by_states[t + 1, row] @ state + problem.by_ctrls[t, row] @ applied
        return total

    zero = np.zeros((40, 2))
    by_state = np.array([[value(e, zero, row) for e in np.eye(4)] for row in range(BATCH)])
    by_ctrls = np.array(
        [[value(np.zeros(4), e.reshape(40, 2), row) for e in np.eye(80)] for row in range(BATCH)]
    )
    expected = by_state, np.moveaxis(by_ctrls.reshape(BATCH, 40, 2), 1, 0)
    found = problem.sweep(gains=problem.gains if feedback else None, method=method, centered=True)
    assert_close(found, expected, 1e-8)


def rollout_value(problem, row, dx, dus):
    """The function whose partial derivatives the problem has, in plain MuJoCo, to first order."""
    model, skip = problem.sim.model, problem.sim.frame_skip
    data = mujoco.MjData(model)
    x = reference.retract(model, problem.states[0, row], dx)
    total = problem.by_states[0, row] @ dx
    for t, du in enumerate(dus):
        applied = problem.ctrls[t, row] + du
        x = reference.step(model, data, x, applied, skip)
        moved = reference.difference(model, problem.states[t + 1, row], x)
        total += problem.by_states[t + 1, row] @ moved + problem.by_ctrls[t, row] @ du
    return total


@pytest.mark.parametrize(
    ("name", "integrator"),
    [
        ("mixed", "Euler"),
        ("mixed", "RK4"),
        ("mixed", "discrete"),  # method "implicit" refuses it
        ("free", "implicitfast"),
        ("muscle", "Euler"),
        ("servo", "implicit"),
        ("fluid", "Euler"),
    ],
)
def test_gradients_along_integrate_pos(name, integrator):
    problem = Problem(models.own(name, integrator))
    by_state, by_ctrls = problem.sweep(centered=True)
    rng, h = np.random.default_rng(1), 1e-4
    for row in range(BATCH):
        for _ in range(3):
            dx = rng.standard_normal(problem.by_states.shape[2])
            dus = 0.3 * rng.standard_normal((STEPS, problem.sim.spec.nu))
            ends = {k: rollout_value(problem, row, k * h * dx, k * h * dus) for k in (-2, -1, 1, 2)}
            slope = (8 * (ends[1] - ends[-1]) - (ends[2] - ends[-2])) / (12 * h)
            found = by_state[row] @ dx + (by_ctrls[:, row] * dus).sum()
            assert found == pytest.approx(slope, rel=1e-6)


def test_smoothed_derivatives_are_swept_too():
    problem = Problem(models.own("contact_pyramidal"))
    exact = problem.sweep()
    for smoothing in (
        {"kind": "impedance", "width": 0.02},
        {"kind": "randomized", "samples": 4, "velocity_sd": 0.01},
    ):
        found = problem.sweep(smoothing=smoothing)
        assert_close(found, problem.chain(smoothing=smoothing))
        assert np.abs(found.ctrls - exact.ctrls).max() > 1e-4 * np.abs(exact.ctrls).max()


def test_precision_reaches_the_linearisation():
    problem = Problem(models.own("mixed"))
    exact = problem.sweep(method="step", centered=True).ctrls
    assert np.abs(problem.sweep(method="step").ctrls - exact).max() > 1e-10
    coarse = problem.sweep(method="step", centered=True, eps=1e-2).ctrls
    assert np.abs(coarse - exact).max() > 1e-7


# --- chunks and states that fall back ------------------------------------------------------------


def touching():
    """A problem with a point, row 1 of step 4, where a box touches the ground to a difference."""
    problem = Problem(models.own("contact_elliptic"), frame_skip=1)
    model = problem.sim.model
    problem.states[4, 1] = np.concatenate([model.qpos0, np.zeros(model.nv)])
    problem.states[4, 1, 2] = 0.1 - 1e-8
    return problem


def test_a_state_that_falls_back_is_differenced_within_the_sweep():
    problem = touching()
    found = problem.sweep(method="implicit", gains=problem.gains)
    assert problem.sim.linearization_fallbacks == {
        "the contacts change within a difference of geometry": 1
    }
    expected = problem.chain(method="implicit", gains=problem.gains)
    assert_close(found, expected)
    assert problem.sim.linearization_fallbacks.popitem()[1] == 2


@pytest.mark.parametrize("points", [1, BATCH, 2 * BATCH + 1, STEPS * BATCH - 1])
@pytest.mark.parametrize("method", ["implicit", "step"])
def test_chunks_change_nothing(method, points, monkeypatch):
    for problem in (touching(), Problem(models.own("contact_elliptic"))):
        whole = problem.sweep(method=method, gains=problem.gains)
        monkeypatch.setattr(adjoint, "_CHUNK_POINTS", points)
        parts = problem.sweep(method=method, gains=problem.gains)
        monkeypatch.undo()
        for one, other in zip(whole, parts, strict=True):
            np.testing.assert_array_equal(one, other)


def test_memory_is_bounded(monkeypatch):
    problem = Problem(models.own("mixed"))
    method = type(problem.sim._linearizer.differentiation("step"))
    linearize, sizes = method.__call__, []

    def counted(self, state, ctrl, **options):
        sizes.append(len(state))
        return linearize(self, state, ctrl, **options)

    monkeypatch.setattr(method, "__call__", counted)
    ndx, nu = problem.sim.spec.ndx, problem.sim.spec.nu
    monkeypatch.setattr(adjoint, "_CHUNK_BYTES", 2 * BATCH * 8 * ndx * (ndx + nu))
    problem.sweep(method="step")
    assert sizes == [2 * BATCH] * 3 + [BATCH]


def test_threads_change_nothing():
    one, two = (Problem(models.own("contact_elliptic"), threads=n).sweep() for n in (1, 2))
    np.testing.assert_array_equal(one.state, two.state)
    np.testing.assert_array_equal(one.ctrls, two.ctrls)


def test_arguments_are_left_alone():
    problem = Problem(models.own("mixed"))
    kept = [v.copy() for v in (problem.states, problem.ctrls, problem.by_states, problem.by_ctrls)]
    for method in ("implicit", "step"):
        problem.sweep(method=method)
    for value, copy in zip(
        (problem.states, problem.ctrls, problem.by_states, problem.by_ctrls), kept, strict=True
    ):
        np.testing.assert_array_equal(value, copy)


# --- borders -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["implicit", "step"])
def test_no_steps(method):
    problem = Problem(models.own("mixed"), steps=0)
    found = problem.sweep(method=method)
    np.testing.assert_array_equal(found.state, problem.by_states[0])
    assert found.ctrls.shape == (0, BATCH, 4)


@pytest.mark.parametrize("method", ["implicit", "step"])
def test_a_model_without_actuators(method):
    xml = models.BALL[: models.BALL.index("<actuator>")] + "</mujoco>"
    problem = Problem(mujoco.MjModel.from_xml_string(xml))
    found = problem.sweep(method=method)
    assert_close(found, problem.chain(method=method))
    assert found.ctrls.shape == (STEPS, BATCH, 0)


def test_gradients_of_controls_may_be_left_out():
    problem = Problem(models.own("ball"))
    problem.by_ctrls[:] = 0.0
    found = problem.sim.adjoint(problem.states, problem.ctrls, problem.by_states)
    assert_close(found, problem.sweep(), 0.0)


@pytest.mark.parametrize("method", ["implicit", "step"])
def test_gradients_that_are_not_numbers_stay_so(method):
    problem = Problem(models.own("ball"))
    problem.by_states[4, 1, 0] = np.nan
    found = problem.sweep(method=method)
    assert np.isnan(found.state[1]).any()
    assert np.isfinite(found.state[[0, 2]]).all()
    assert np.isfinite(found.ctrls[4:]).all()


@pytest.mark.parametrize("points", [1, 4096])
@pytest.mark.parametrize("method", ["implicit", "step", "transition"])
def test_divergence_names_step_and_rows(method, points, monkeypatch):
    monkeypatch.setattr(adjoint, "_CHUNK_POINTS", points)
    problem = Problem(models.own("ball"))
    problem.states[3, 1, 6:] = 1e12
    problem.states[2, 0, 6:] = 1e12
    with pytest.raises(DivergenceError, match=r"^step 3: linearising states \[1\]") as caught:
        problem.sweep(method=method)
    assert caught.value.rows == (1,)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ctrls": (3, 2)}, r"ctrls must have shape \[T, B, 3\], got \[3, 2\]"),
        ({"ctrls": (7, 3, 2)}, r"ctrls must have shape \[T, B, 3\], got \[7, 3, 2\]"),
        ({"ctrls": (7, 0, 3)}, r"ctrls must have shape \[T, B, 3\], got \[7, 0, 3\]"),
        ({"states": (7, 3, 9)}, r"states must have shape \[8, 3, 9\], got \[7, 3, 9\]"),
        ({"by_states": (8, 3, 9)}, r"state_gradients must have shape \[8, 3, 8\], got \[8, 3, 9\]"),
        ({"by_ctrls": (7, 3)}, r"ctrl_gradients must have shape \[7, 3, 3\], got \[7, 3\]"),
    ],
)
def test_wrong_shapes_are_named(changes, message):
    problem = Problem(models.own("ball"))
    for name, shape in changes.items():
        setattr(problem, name, np.zeros(shape))
    with pytest.raises(ArgumentError, match=f"^{message}$"):
        problem.sweep()


def test_other_bad_arguments_are_named():
    problem = Problem(models.own("ball"))
    with pytest.raises(ArgumentError, match=r"^gains must have shape \[7, 3, 3, 8\], got \[1\]$"):
        problem.sweep(gains=np.zeros(1))
    with pytest.raises(ArgumentError, match=r"^unknown method 'stpe'; .* mean 'step'\?$"):
        problem.sweep(method="stpe")
    with pytest.raises(ArgumentError, match=r"^eps must lie between 0 and 1"):
        problem.sweep(eps=2.0)
    with pytest.raises(ModelError, match=r"^method 'implicit' does not cover the discrete"):
        Problem(models.own("ball", "discrete")).sweep(method="implicit")
    problem.states[2, 1, 0] = np.inf
    with pytest.raises(ArgumentError, match=r"^states\[2\] must be finite, .* in rows \[1\]$"):
        problem.sweep()
