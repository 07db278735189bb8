"""The rollout op: against steps chained by autograd and differences made here."""

import copy
import pickle

import mujoco
import numpy as np
import pytest
import torch

import mbrl
from mbrl.errors import ArgumentError, DivergenceError
from mbrl.ops import MujocoDynamics, MujocoRollout
from mbrl.physics import Simulator
from tests import models
from tests.models import reference
from tests.ops.common import EXACT, MODEL, NDX, NU, NX, SKIP
from tests.ops.rollouts import BATCH, NAMES, ROLLOUT, SIMULATOR, STEPS, loss_of, problem


def deviation_of(spec, x, r):
    """x (-) r [B, ndx], written in torch so that autograd differentiates it."""
    parts = [None] * spec.ndx
    for i, j in zip(spec.euclidean_x, spec.euclidean_dx, strict=True):
        parts[j] = x[:, i] - r[:, i]
    for q, v in zip(spec.quaternion_x, spec.quaternion_dx, strict=True):
        a, b = r[:, q] * r.new_tensor([1.0, -1.0, -1.0, -1.0]), x[:, q]
        w = a[:, 0] * b[:, 0] - (a[:, 1:] * b[:, 1:]).sum(1)
        axis = (
            a[:, :1] * b[:, 1:] + b[:, :1] * a[:, 1:] + torch.linalg.cross(a[:, 1:], b[:, 1:])
        ) * torch.sign(w)[:, None]
        sine = axis.norm(dim=1)
        vector = axis * (2.0 * torch.atan2(sine, w.abs()) / sine)[:, None]
        for k, j in enumerate(v):
            parts[j] = vector[:, k]
    return torch.stack(parts, dim=1)


def by_steps(simulator, state, actions, gains=None, reference=None, *, at=None, **options):
    """The same map by the dynamics op, step by step: states, applied actions.

    With ``at`` values are those, derivatives stay the chain's: differences are not continuous, and
    rounding in a torque would show in them.
    """
    dynamics = MujocoDynamics(simulator, **options)
    states, applied = [state], []
    for t, action in enumerate(actions):
        if gains is not None:
            moved = deviation_of(simulator.spec, states[-1], reference[t])
            action = action + (gains[t] @ moved[:, :, None])[:, :, 0]
        if at is not None:
            torch.testing.assert_close(action, at[t], rtol=0.0, atol=1e-12)
            action = action + (at[t] - action).detach()
        applied.append(action)
        states.append(dynamics(states[-1], action))
    return torch.stack(states), torch.stack(applied)


def check_against_steps(simulator, arguments, **options):
    found = MujocoRollout(simulator, **options)(*arguments)
    expected = by_steps(simulator, *arguments, at=found.actions.detach(), **options)
    gradients = []
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0.0, atol=1e-12)
    for results in (found, expected):
        gradients.append(torch.autograd.grad(loss_of(*results), arguments))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=0.0, atol=1e-10 * other.abs().max().item())
        assert other.abs().max() > 1e-3


# --- values and gradients ------------------------------------------------------------------------

MODELS = [
    pytest.param(name, integrator, method, id=f"{name}-{integrator}-{method}")
    for name, integrator, method in [
        ("mixed", "Euler", "auto"),
        ("mixed", "RK4", "step"),
        ("mixed", "discrete", "auto"),  # method "implicit" refuses it
        ("ball", "implicitfast", "transition"),
        ("free", "Euler", "auto"),
        ("contact_elliptic", "Euler", "auto"),
        ("muscle", "Euler", "auto"),
    ]
]


@pytest.mark.parametrize(("name", "integrator", "method"), MODELS)
@pytest.mark.parametrize("feedback", [False, True], ids=["open loop", "feedback"])
def test_equal_to_the_steps(feedback, name, integrator, method):
    simulator = Simulator(models.own(name, integrator), frame_skip=SKIP, threads=1)
    check_against_steps(simulator, problem(simulator)[: 4 if feedback else 2], method=method)


@pytest.mark.parametrize("smoothing", [None, {"kind": "impedance", "width": 0.02}])
def test_equal_to_the_steps_with_smoothing(smoothing):
    simulator = Simulator(models.own("contact_pyramidal"), frame_skip=SKIP, threads=1)
    check_against_steps(simulator, problem(simulator), smoothing=smoothing)


def test_open_loop_values_are_those_of_the_simulator():
    state, actions, *_ = problem()
    found = ROLLOUT(state, actions)
    expected = SIMULATOR.rollout(state.detach().numpy(), actions.detach().numpy())
    np.testing.assert_array_equal(found.states.detach(), expected)
    assert torch.equal(found.actions, actions)
    assert found.states.dtype == torch.float64


def test_feedback_to_its_own_rollout_is_open_loop():
    state, actions, gains, _ = problem()
    nominal = ROLLOUT(state, actions)
    found = ROLLOUT(state, actions, gains, nominal.states[:-1])
    assert torch.equal(found.states, nominal.states)
    assert torch.equal(found.actions, actions)


def value_along(h, arguments, directions):
    """The loss in plain MuJoCo, from arguments moved along mj_integratePos."""
    x, actions, gains, beside = (v.detach().numpy() for v in arguments)
    dx, du, dk, dr = directions
    data = mujoco.MjData(MODEL)
    all_states = np.empty((STEPS + 1, BATCH, NX))
    all_actions = np.empty((STEPS, BATCH, NU))
    for row in range(BATCH):
        state = all_states[0, row] = reference.retract(MODEL, x[row], h * dx[row])
        for t in range(STEPS):
            target = reference.retract(MODEL, beside[t, row], h * dr[t, row])
            gain = gains[t, row] + h * dk[t, row]
            action = actions[t, row] + h * du[t, row]
            action = action + gain @ reference.difference(MODEL, target, state)
            state = reference.step(MODEL, data, state, action, SKIP)
            all_actions[t, row], all_states[t + 1, row] = action, state
    return loss_of(torch.from_numpy(all_states), torch.from_numpy(all_actions)).item()


def derivative(function, h=1e-5):
    """Fourth-order difference quotient at 0."""
    return (8.0 * (function(h) - function(-h)) - (function(2 * h) - function(-2 * h))) / (12.0 * h)


@pytest.mark.parametrize("moved", NAMES)
def test_gradients_along_integrate_pos(moved):
    arguments = problem()
    gradients = torch.autograd.grad(loss_of(*ROLLOUT(*arguments)), arguments)
    tangents = (BATCH, NDX), (STEPS, BATCH, NU), (STEPS, BATCH, NU, NDX), (STEPS, BATCH, NDX)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        directions = [
            (moved == name) * rng.standard_normal(shape)
            for name, shape in zip(NAMES, tangents, strict=True)
        ]
        found = 0.0
        for name, value, gradient, direction in zip(
            NAMES, arguments, gradients, directions, strict=True
        ):
            if name in ("state", "reference"):
                rows = value.detach().reshape(-1, NX).numpy()
                steps = direction.reshape(-1, NDX)
                direction = np.stack(
                    [
                        derivative(lambda h, x=x, d=d: reference.retract(MODEL, x, h * d))
                        for x, d in zip(rows, steps, strict=True)
                    ]
                ).reshape(value.shape)
            found += (gradient.numpy() * direction).sum()
        expected = derivative(lambda h, d=directions: value_along(h, arguments, d))
        assert found == pytest.approx(expected, rel=1e-6)


def test_gains_shared_by_all_rows():
    state, actions, gains, beside = problem()
    shared = gains[:, 0].detach().clone().requires_grad_()
    repeated = shared[:, None].repeat(1, BATCH, 1, 1).detach().requires_grad_()
    results = []
    for leaf in (shared, repeated):
        found = ROLLOUT(state, actions, leaf, beside)
        results.append((found.states, *torch.autograd.grad(loss_of(*found), (leaf, state))))
    assert torch.equal(results[0][0], results[1][0])
    torch.testing.assert_close(results[0][1], results[1][1].sum(1), **EXACT)
    torch.testing.assert_close(results[0][2], results[1][2], **EXACT)


def test_the_initial_state_is_handed_out_as_it_came():
    state, actions, *_ = problem()
    (found,) = torch.autograd.grad(ROLLOUT(state, actions).states[0].sum(), state)
    assert torch.equal(found, torch.ones_like(state))


@pytest.mark.parametrize("wanted", NAMES)
def test_any_argument_may_be_the_only_one_with_a_gradient(wanted):
    arguments = problem()
    everything = torch.autograd.grad(loss_of(*ROLLOUT(*arguments)), arguments)
    chosen = [v if n == wanted else v.detach() for n, v in zip(NAMES, arguments, strict=True)]
    leaf = chosen[NAMES.index(wanted)]
    (found,) = torch.autograd.grad(loss_of(*ROLLOUT(*chosen)), leaf)
    assert torch.equal(found, everything[NAMES.index(wanted)])
    assert not ROLLOUT(*(v.detach() for v in arguments)).states.requires_grad


def test_a_part_of_the_results_may_be_used():
    state, actions, *_ = problem()
    (found,) = torch.autograd.grad(ROLLOUT(state, actions).states[2].sum(), actions)
    (expected,) = torch.autograd.grad(by_steps(SIMULATOR, state, actions)[0][2].sum(), actions)
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-12)
    assert not found[2:].any()


def test_no_steps():
    state = problem()[0]
    found = ROLLOUT(state, torch.zeros(0, BATCH, NU))
    assert torch.equal(found.states, state[None])
    assert found.actions.shape == (0, BATCH, NU)
    (gradient,) = torch.autograd.grad(found.states.sum(), state)
    assert torch.equal(gradient, torch.ones_like(state))


def test_single_precision_comes_back_as_such():
    single = [v.detach().float().requires_grad_() for v in problem()]
    double = [v.detach().double().requires_grad_() for v in single]
    for leaves in (single, double):
        found = ROLLOUT(*leaves)
        assert found.states.dtype == found.actions.dtype == torch.float64
        loss_of(*found).backward()
    for one, other in zip(single, double, strict=True):
        assert one.grad.dtype == torch.float32
        assert torch.equal(one.grad, other.grad.float())


def test_copies_give_the_same():
    arguments = problem()
    expected = torch.autograd.grad(loss_of(*ROLLOUT(*arguments)), arguments)
    for twin in (copy.deepcopy(ROLLOUT), pickle.loads(pickle.dumps(ROLLOUT))):
        found = torch.autograd.grad(loss_of(*twin(*arguments)), arguments)
        assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("changed", ["gains", "reference", "states", "applied actions"])
def test_changing_what_was_saved_is_noticed(changed):
    arguments = problem()
    gains, beside = (v.detach().clone() for v in arguments[2:])
    found = ROLLOUT(*arguments[:2], gains, beside)
    loss = loss_of(*found)
    saved = {"gains": gains, "reference": beside, "states": found[0], "applied actions": found[1]}
    with torch.no_grad():
        saved[changed].add_(0.1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


# --- arguments -----------------------------------------------------------------------------------


def zeros(**shapes):
    standard = {
        "state": (BATCH, NX),
        "actions": (STEPS, BATCH, NU),
        "gains": (STEPS, BATCH, NU, NDX),
        "reference": (STEPS, BATCH, NX),
    }
    return [torch.zeros(shapes.get(name, shape)) for name, shape in standard.items()]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"actions": (BATCH, NU)}, r"actions must have shape \[T, B, 4\], got \[3, 4\]"),
        ({"actions": (6, 3, 5)}, r"actions must have shape \[T, B, 4\], got \[6, 3, 5\]"),
        ({"state": (NX,)}, r"state must have shape \[3, 28\], got \[28\]"),
        ({"state": (2, NX)}, r"state must have shape \[3, 28\], got \[2, 28\]"),
        ({"gains": (6, 3, 4, 28)}, r"gains must have shape \[6, 3, 4, 26\], got \[6, 3, 4, 28\]"),
        ({"gains": (5, 4, 26)}, r"gains must have shape \[6, 4, 26\], got \[5, 4, 26\]"),
        ({"reference": (7, 3, 28)}, r"reference must have shape \[6, 3, 28\], got \[7, 3, 28\]"),
    ],
)
def test_wrong_shapes_are_named(shapes, message):
    with pytest.raises(ArgumentError, match=f"^{message}$"):
        ROLLOUT(*zeros(**shapes))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: MujocoRollout(None), "simulator must be a Simulator, got NoneType"),
        (lambda: MujocoRollout(SIMULATOR, method="magic"), "unknown method 'magic'"),
        (lambda: MujocoRollout(SIMULATOR, eps=7.0), "eps must lie between 0 and 1"),
        (lambda: ROLLOUT(*zeros()[:3]), "given together, got only gains"),
        (lambda: ROLLOUT(*zeros()[:2], None, zeros()[3]), "given together, got only reference"),
        (lambda: ROLLOUT(zeros()[0], np.zeros(3)), "actions must be a tensor .* got ndarray"),
        (lambda: ROLLOUT(None, zeros()[1]), "state must be a tensor .* got NoneType"),
        (lambda: ROLLOUT(1j * zeros()[0], zeros()[1]), "state must be .* got torch.complex64"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ArgumentError, match=message):
        call()


@pytest.mark.parametrize("name", NAMES)
def test_numbers_that_are_not_finite_are_refused(name):
    arguments = dict(zip(NAMES, (v.detach() for v in problem()), strict=True))
    arguments[name].view(-1)[-1] = torch.nan
    with pytest.raises(ArgumentError, match=r"must be finite, .* rows \[2\]$"):
        ROLLOUT(**arguments)


def test_divergence_under_feedback_names_step_and_rows():
    state, actions, gains, beside = (v.detach() for v in problem())
    beside[3, 1, MODEL.nq] += 1e300
    gains[3, 1] = 1e300
    with pytest.raises(DivergenceError, match=r"^step 3: ") as caught:
        ROLLOUT(state, actions, gains, beside)
    assert caught.value.rows == (1,)


def test_the_facade_has_it():
    assert mbrl.MujocoRollout is MujocoRollout
