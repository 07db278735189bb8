"""The op with parameters: every mode of differentiation against serial runs of edited models."""

import copy

import mujoco
import numpy as np
import pytest
import torch
from torch.func import grad, hessian, jacfwd, jacrev, jvp, vjp, vmap

import mbrl
from mbrl.errors import ArgumentError, DivergenceError, SecondDerivativeError
from mbrl.ops import MujocoDynamics, sweep
from tests import models
from tests.models import reference
from tests.ops.common import EXACT, MODEL, NU, NX, SKIP, loss_of, points
from tests.physics.parametric import edited

# torch itself, when forward mode is first used.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")

# Bodies under the ball joint and under the free joint, so that quaternions feel them.
NAMES = ["body_mass[2]", "dof_damping[0]", "actuator_gear[2,0]", "body_inertia[4,1]"]
NUMBERS = [
    ("body_mass", 2),
    ("dof_damping", 0),
    ("actuator_gear", (2, 0)),
    ("body_inertia", (4, 1)),
]
SIMULATOR = mbrl.Simulator(MODEL, frame_skip=SKIP, threads=1)
PARAMETERS = mbrl.ModelParameters(SIMULATOR, NAMES)
OWN = torch.from_numpy(PARAMETERS.values)
P = 4


def dynamics_of(**keywords):
    return mbrl.ParametricDynamics(SIMULATOR, PARAMETERS, **({"centered": True} | keywords))


DYNAMICS = dynamics_of()


def inputs(*batch, seed=0):
    """States, actions, and parameters up to 20 % off in every row."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(*batch, P, generator=generator, dtype=torch.float64)
    return (*points(*batch, seed=seed), OWN * (0.8 + 0.4 * noise))


def joined(z):
    """The op on state, action and parameters joined: [..., nx + nu + P] -> [..., nx]."""
    return DYNAMICS(z[..., :NX], z[..., NX : NX + NU], z[..., NX + NU :])


def serial(x, u, p, steps=1):
    """States (nx,) after serial steps of an edited model."""
    model = edited(MODEL, dict(zip(NUMBERS, np.asarray(p).tolist(), strict=True)))
    data = mujoco.MjData(model)
    for _ in range(steps):
        x = reference.step(model, data, x, u, SKIP)
    return x


def slope(function, p, h=1e-5):
    """Fourth-order difference quotients of a function of parameters, one each, relative steps."""
    quotients = []
    for j, size in enumerate(np.abs(p)):
        step = np.zeros(len(p))
        step[j] = h * size
        outer = function(p + 2 * step) - function(p - 2 * step)
        quotients.append((8 * (function(p + step) - function(p - step)) - outer) / (12 * h * size))
    return np.stack(quotients)


# --- reverse mode --------------------------------------------------------------------------------


def test_gradients_of_the_parameters_of_every_row():
    states, actions, parameters = inputs(3)
    found = grad(lambda p: loss_of(DYNAMICS(states, actions, p)))(parameters)
    for row in range(3):
        x, u = states[row].numpy(), actions[row].numpy()
        expected = slope(
            lambda p, x=x, u=u: loss_of(torch.from_numpy(serial(x, u, p))), parameters[row].numpy()
        )
        np.testing.assert_allclose(found[row], expected, rtol=1e-6, atol=1e-8)
        assert np.abs(expected).min() > 1e-5


def test_the_gradient_of_an_unroll_under_shared_parameters():
    steps = 6
    states, actions, _ = inputs(3)
    parameters = (1.1 * OWN).requires_grad_()
    state = states
    for _ in range(steps):
        state = DYNAMICS(state, actions, parameters)
    loss_of(state).backward()

    def loss(p):
        rows = zip(states.numpy(), actions.numpy(), strict=True)
        finals = [torch.from_numpy(serial(x, u, p, steps)) for x, u in rows]
        return loss_of(torch.stack(finals)).item()

    expected = slope(loss, parameters.detach().numpy())
    np.testing.assert_allclose(parameters.grad, expected, rtol=1e-5)


def test_state_and_action_get_the_gradients_of_an_edited_model():
    states, actions, parameters = inputs(1)
    changes = dict(zip(NUMBERS, parameters[0].tolist(), strict=True))
    other = MujocoDynamics(
        mbrl.Simulator(edited(MODEL, changes), frame_skip=SKIP, threads=1), centered=True
    )
    assert torch.equal(other(states, actions), DYNAMICS(states, actions, parameters))
    expected = grad(lambda x, u: loss_of(other(x, u)), (0, 1))(states, actions)
    found = grad(lambda x, u: loss_of(DYNAMICS(x, u, parameters)), (0, 1))(states, actions)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_an_upstream_gradient_across_the_tangent_plane_has_no_effect():
    states, actions, parameters = inputs(4)
    following, pull = vjp(lambda p: DYNAMICS(states, actions, p), parameters)
    upstream = torch.randn(4, NX).double()
    (expected,) = pull(upstream)
    for q in SIMULATOR.spec.quaternion_x:
        upstream[:, q] += 3.0 * following[:, q]
    torch.testing.assert_close(pull(upstream)[0], expected, **EXACT)


def test_shared_parameters_get_the_sum_of_the_rows_gradients():
    states, actions, _ = inputs(5)
    one = OWN.clone().requires_grad_()
    each = OWN.repeat(5, 1).requires_grad_()
    for parameters in (one, each):
        loss_of(DYNAMICS(states, actions, parameters)).backward()
    torch.testing.assert_close(one.grad, each.grad.sum(0), **EXACT)


# --- forward mode and transforms -----------------------------------------------------------------


def test_jvp_of_the_parameters():
    states, actions, parameters = inputs(3)
    tangent = torch.randn(3, P).double() * OWN
    following, found = jvp(lambda p: DYNAMICS(states, actions, p), (parameters,), (tangent,))
    assert torch.equal(following, DYNAMICS(states, actions, parameters))
    for row in range(3):
        x, u, p = states[row].numpy(), actions[row].numpy(), parameters[row].numpy()
        slopes = slope(lambda p, x=x, u=u: serial(x, u, p), p)  # (P, nx)
        np.testing.assert_allclose(found[row], tangent[row].numpy() @ slopes, rtol=0, atol=1e-7)


def test_dual_numbers_of_all_arguments_add_up():
    arguments = inputs(3)
    tangents = [torch.randn_like(value) for value in arguments]
    _, expected = jvp(DYNAMICS, arguments, tuple(tangents))
    with torch.autograd.forward_ad.dual_level():
        parts = []
        for k in range(3):
            dual = list(arguments)
            dual[k] = torch.autograd.forward_ad.make_dual(dual[k], tangents[k])
            parts.append(torch.autograd.forward_ad.unpack_dual(DYNAMICS(*dual)).tangent)
    torch.testing.assert_close(sum(parts), expected, **EXACT)
    assert all(part.abs().sum() > 0.0 for part in parts)


def explicit_jacobian(z):
    """d next / d (state, action, parameters), row by row, by reverse mode alone."""
    rows = []
    for row in z:
        leaf = row.clone().requires_grad_()
        following = joined(leaf)
        rows.append(
            torch.stack([torch.autograd.grad(y, leaf, retain_graph=True)[0] for y in following])
        )
    return torch.stack(rows)


@pytest.mark.parametrize(
    "transform",
    [
        lambda f: vmap(jacrev(f)),
        lambda f: vmap(jacfwd(f)),
        lambda f: lambda z: torch.stack([jacrev(f)(row) for row in z]),
        lambda f: lambda z: vmap(vmap(jacrev(f)))(z.unflatten(0, (2, 2))).flatten(0, 1),
        lambda f: lambda z: jacfwd(vmap(f))(z).diagonal(dim1=0, dim2=2).movedim(-1, 0),
        lambda f: lambda z: jacrev(f)(z).diagonal(dim1=0, dim2=2).movedim(-1, 0),
    ],
    ids=["vmap(jacrev)", "vmap(jacfwd)", "jacrev", "vmap(vmap)", "jacfwd(vmap)", "of a batch"],
)
def test_every_way_to_a_jacobian_leads_to_the_same(transform):
    z = torch.cat(inputs(4), dim=1)
    torch.testing.assert_close(transform(joined)(z), explicit_jacobian(z), **EXACT)


def test_vmap_over_parameters_alone():
    states, actions, parameters = inputs(3)
    found = vmap(DYNAMICS, in_dims=(None, None, 0))(states[0], actions[0], parameters)
    expected = DYNAMICS(states[:1].expand(3, -1), actions[:1].expand(3, -1), parameters)
    assert torch.equal(found, expected)
    shared = vmap(DYNAMICS, in_dims=(0, 0, None))(states, actions, OWN)
    assert torch.equal(shared, DYNAMICS(states, actions, OWN))


SECOND = {
    "hessian": hessian,
    "jacrev(jacrev)": lambda f: jacrev(jacrev(f)),
    "jacfwd(jacrev)": lambda f: jacfwd(jacrev(f)),
    "jacfwd(jacfwd)": lambda f: jacfwd(jacfwd(f)),
    "grad(grad)": lambda f: grad(lambda z: grad(lambda w: f(w).sum())(z).sum()),
}


@pytest.mark.parametrize("second", SECOND)
def test_second_derivatives_raise(second):
    states, actions, parameters = inputs(2)

    def loss(p):
        return loss_of(DYNAMICS(states, actions, p))

    with pytest.raises(SecondDerivativeError):
        SECOND[second](loss)(parameters)


@pytest.mark.parametrize("state_too", [False, True])
def test_differentiating_a_recorded_gradient_raises(state_too):
    states, actions, parameters = inputs(2)
    parameters.requires_grad_()
    states.requires_grad_(state_too)
    loss = loss_of(DYNAMICS(states, actions, parameters))
    (first,) = torch.autograd.grad(loss, parameters, create_graph=True)
    with pytest.raises(SecondDerivativeError):
        (first**2).sum().backward()


# --- pooling -------------------------------------------------------------------------------------


def counted(monkeypatch):
    """An op that writes down how many points each question is about."""
    dynamics, asked = dynamics_of(), {"linearize": [], "sensitivity": []}
    for name, rows in asked.items():
        inner = getattr(dynamics.simulator, name)

        def spy(state, ctrl, values, inner=inner, rows=rows, **keywords):
            rows.append(len(state))
            return inner(state, ctrl, values, **keywords)

        monkeypatch.setattr(dynamics.simulator, name, spy)
    return dynamics, asked


def test_an_unroll_is_linearised_in_one_call(monkeypatch):
    dynamics, asked = counted(monkeypatch)
    states, actions, _ = inputs(3)
    parameters = OWN.clone().requires_grad_()
    state = states.requires_grad_()
    for _ in range(7):
        state = dynamics(state, actions, parameters)
    loss_of(state).backward()
    assert asked == {"linearize": [21], "sensitivity": []}


def test_one_step_predictions_difference_parameters_alone(monkeypatch):
    dynamics, asked = counted(monkeypatch)
    states, actions, _ = inputs(6)
    alone = OWN.clone().requires_grad_()
    loss_of(dynamics(states, actions, alone)).backward()
    assert asked == {"linearize": [], "sensitivity": [6]}
    both = OWN.clone().requires_grad_()
    loss_of(dynamics(states.requires_grad_(), actions, both)).backward()
    assert asked == {"linearize": [6], "sensitivity": [6]}
    assert torch.equal(alone.grad, both.grad)


def test_gradients_do_not_depend_on_the_size_of_a_chunk(monkeypatch):
    def gradient():
        dynamics = dynamics_of()
        parameters = OWN.clone().requires_grad_()
        state, actions, _ = inputs(3)
        for _ in range(7):
            state = dynamics(state, actions, parameters)
        loss_of(state).backward()
        return parameters.grad

    expected = gradient()
    for budget in (0, 3 * 3 * 8 * 26 * (26 + NU + P)):
        monkeypatch.setattr(sweep, "_CHUNK_BYTES", budget)
        torch.testing.assert_close(gradient(), expected, rtol=1e-13, atol=0.0)


def test_a_chunk_counts_the_columns_of_parameters(monkeypatch):
    monkeypatch.setattr(sweep, "_CHUNK_BYTES", 8 * 3 * 8 * 26 * (26 + NU + P))
    dynamics, asked = counted(monkeypatch)
    states, actions, _ = inputs(3)
    state = states.requires_grad_()
    for _ in range(9):
        state = dynamics(state, actions, OWN)
    loss_of(state).backward()
    assert asked["linearize"] == [24, 3]  # without those of the parameters, 27 would fit


# --- arguments -----------------------------------------------------------------------------------


def test_the_models_own_parameters_give_the_plain_op():
    states, actions, _ = inputs(3)
    plain = MujocoDynamics(SIMULATOR, centered=True)
    assert torch.equal(DYNAMICS(states, actions, OWN), plain(states, actions))
    expected = grad(lambda x: loss_of(plain(x, actions)))(states)
    found = grad(lambda x: loss_of(DYNAMICS(x, actions, OWN)))(states)
    torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("shape", [(), (1,), (3, 2)])
def test_any_batch_shape(shape):
    states, actions, parameters = inputs(*shape)
    found = DYNAMICS(states, actions, parameters)
    flat = DYNAMICS(states.reshape(-1, NX), actions.reshape(-1, NU), parameters.reshape(-1, P))
    assert found.shape == (*shape, NX)
    assert torch.equal(found.reshape(-1, NX), flat)


def test_single_precision():
    states, actions, _ = inputs(2)
    single = OWN.float().requires_grad_()
    double = single.detach().double().requires_grad_()
    for parameters in (single, double):
        loss_of(DYNAMICS(states, actions, parameters)).backward()
    assert single.grad.dtype == torch.float32
    assert torch.equal(single.grad, double.grad.float())


def test_copies_are_independent_and_equal():
    states, actions, parameters = inputs(2)
    expected = DYNAMICS(states, actions, parameters)
    assert torch.equal(copy.deepcopy(DYNAMICS)(states, actions, parameters), expected)


def test_precision_reaches_the_differences():
    states, actions, parameters = inputs(2)

    def gradient(**keywords):
        dynamics = dynamics_of(**keywords)
        return grad(lambda p: loss_of(dynamics(states, actions, p)))(parameters)

    centred = gradient()
    assert (gradient(centered=False) - centred).norm() > 1e-10 * centred.norm()
    assert (gradient(eps=0.05) - centred).norm() > 1e-6 * centred.norm()


def test_bad_arguments():
    states, actions, parameters = inputs(2)
    for bad, message in (
        (parameters[:, :2], r"parameters must have shape \[4\] or \[2, 4\], got \[2, 2\]"),
        (parameters[[0, 1, 1]], r"got \[3, 4\]"),
        (OWN.numpy(), "parameters must be a tensor of real numbers, got ndarray"),
        (OWN * 1j, "parameters must be a tensor of real numbers, got torch.complex128"),
        (-OWN, r"body_mass\[2\] must lie between 0 and inf, got -"),
        (OWN * torch.nan, r"parameters must be finite"),
    ):
        with pytest.raises(ArgumentError, match=message):
            DYNAMICS(states, actions, bad)
    with pytest.raises(ArgumentError, match="state and action must have widths"):
        DYNAMICS(states[:, 1:], actions, parameters)
    with pytest.raises(ArgumentError, match="eps must lie between 0 and 1"):
        dynamics_of(eps=3.0)
    with pytest.raises(ArgumentError, match="those of another model"):
        mbrl.ParametricDynamics(mbrl.Simulator(models.own("ball")), PARAMETERS)


def test_divergence_names_its_rows():
    states, actions, parameters = inputs(4)
    states[2, MODEL.nq] = 1e12
    with pytest.raises(DivergenceError) as caught:
        DYNAMICS(states, actions, parameters)
    assert caught.value.rows == (2,)
