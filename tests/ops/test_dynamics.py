"""The dynamics op: gradients in every mode against differences made here, and clear refusals."""

import mujoco
import numpy as np
import pytest
import torch
from torch.func import grad, jacfwd, jacrev, jvp, vjp, vmap

from mbrl.errors import ArgumentError, DivergenceError, ModelError
from mbrl.ops import first_order, sweep
from tests import models
from tests.models import reference
from tests.ops.common import (
    DYNAMICS,
    EXACT,
    MODEL,
    NDX,
    NU,
    NX,
    SKIP,
    dynamics_of,
    following,
    loss_of,
    points,
)

# torch itself, when forward mode is first used.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")


def curve(x, u, dx, du, h):
    """Next state (nx,) from the state moved along mj_integratePos; plain MuJoCo alone."""
    data = mujoco.MjData(MODEL)
    return reference.step(MODEL, data, reference.retract(MODEL, x, h * dx), u + h * du, SKIP)


def derivative(function, h=1e-5):
    """Fourth-order difference quotient at 0."""
    return (8.0 * (function(h) - function(-h)) - (function(2 * h) - function(-2 * h))) / (12.0 * h)


def ambient(x, dx):
    """The velocity of x (+) t dx at t = 0 in coordinates, by differences."""
    return derivative(lambda h: reference.retract(MODEL, x, h * dx))


def directions(seed=0):
    rng = np.random.default_rng(seed)
    for _ in range(6):
        yield rng.standard_normal(NDX), rng.standard_normal(NU)


# --- reverse mode --------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["step", "transition"])
def test_gradients_along_integrate_pos(method):
    states, ctrls = points(3)
    op = dynamics_of(method=method)
    gx, gu = grad(lambda x, u: loss_of(op(x, u)), (0, 1))(states, ctrls)
    for row in range(3):
        x, u = states[row].numpy(), ctrls[row].numpy()
        for dx, du in directions(row):

            def along(h, x=x, u=u, dx=dx, du=du):
                return loss_of(torch.from_numpy(curve(x, u, dx, du, h))).item()

            found = gx[row].numpy() @ ambient(x, dx) + gu[row].numpy() @ du
            assert found == pytest.approx(derivative(along), rel=1e-6)


def test_gradients_lie_in_the_tangent_plane():
    states, ctrls = points(5)
    (gradient,) = torch.autograd.grad(loss_of(DYNAMICS(states.requires_grad_(), ctrls)), (states,))
    for q in DYNAMICS.simulator.spec.quaternion_x:
        quaternion, part = states.detach()[:, q], gradient[:, q]
        assert part.norm(dim=1).min() > 1e-2
        assert (quaternion * part).sum(1).abs().max() < 1e-12 * part.norm(dim=1).max()


def test_an_upstream_gradient_across_the_tangent_plane_has_no_effect():
    states, ctrls = points(4)
    following, pull = vjp(DYNAMICS, states, ctrls)
    upstream = torch.randn(4, NX).double()
    expected = pull(upstream)
    for q in DYNAMICS.simulator.spec.quaternion_x:
        upstream[:, q] += 3.0 * following[:, q]
    for found, wanted in zip(pull(upstream), expected, strict=True):
        torch.testing.assert_close(found, wanted, **EXACT)


def test_the_gradient_of_an_unroll_is_the_chain_rule_made_by_hand():
    steps, batch = 7, 3
    sim = DYNAMICS.simulator
    state, _ = points(batch)
    ctrls = torch.from_numpy(
        np.random.default_rng(1).uniform(-0.9, 0.9, (steps, batch, NU))
    ).requires_grad_()
    start = state.clone().requires_grad_()
    visited = [start]
    for ctrl in ctrls:
        visited.append(DYNAMICS(visited[-1], ctrl))
    sum(map(loss_of, visited[1:])).backward()

    weight = np.linspace(-1.0, 2.0, NX)
    states = [v.detach().numpy() for v in visited]
    costate = np.zeros((batch, NDX))
    for t in reversed(range(steps)):
        a, b = sim.linearize(states[t], ctrls[t].detach().numpy(), centered=True)
        for row in range(batch):
            y = states[t + 1][row]
            slope = weight + 0.3 * np.cos(3.0 * y)
            basis = np.stack([ambient(y, e) for e in np.eye(NDX)], axis=1)  # E(y) (nx, ndx)
            total = costate[row] + basis.T @ slope
            costate[row] = a[row].T @ total
            np.testing.assert_allclose(ctrls.grad[t, row], b[row].T @ total, rtol=1e-8, atol=1e-9)
    for row in range(batch):
        basis = np.stack([ambient(states[0][row], e) for e in np.eye(NDX)], axis=1)
        np.testing.assert_allclose(basis.T @ start.grad[row].numpy(), costate[row], rtol=1e-8)


# --- forward mode --------------------------------------------------------------------------------


def test_jvp_along_integrate_pos():
    states, ctrls = points(3)
    for dx, du in directions():
        tangent = torch.from_numpy(np.stack([ambient(x, dx) for x in states.numpy()]))
        along = torch.from_numpy(du).expand(3, NU)
        following, found = jvp(DYNAMICS, (states, ctrls), (tangent, along))
        torch.testing.assert_close(following, DYNAMICS(states, ctrls), rtol=0.0, atol=0.0)
        for row in range(3):
            x, u = states[row].numpy(), ctrls[row].numpy()
            expected = derivative(lambda h, x=x, u=u, dx=dx, du=du: curve(x, u, dx, du, h))
            np.testing.assert_allclose(found[row], expected, rtol=0.0, atol=1e-6)


def test_dual_numbers():
    states, ctrls = points(3)
    tangents = torch.randn_like(states), torch.randn_like(ctrls)
    _, expected = jvp(DYNAMICS, (states, ctrls), tangents)
    with torch.autograd.forward_ad.dual_level():
        dual = [
            torch.autograd.forward_ad.make_dual(value, tangent)
            for value, tangent in zip((states, ctrls), tangents, strict=True)
        ]
        both = torch.autograd.forward_ad.unpack_dual(DYNAMICS(*dual)).tangent
        one = torch.autograd.forward_ad.unpack_dual(DYNAMICS(dual[0], ctrls)).tangent
        other = torch.autograd.forward_ad.unpack_dual(DYNAMICS(states, dual[1])).tangent
    torch.testing.assert_close(both, expected, **EXACT)
    torch.testing.assert_close(one + other, expected, **EXACT)
    assert one.abs().sum() > 0.0
    assert other.abs().sum() > 0.0


def test_forward_and_reverse_are_adjoint():
    states, ctrls = points(4)
    for seed in range(3):
        torch.manual_seed(seed)
        upstream = torch.randn(4, NX).double()
        dx, du = torch.randn(4, NX).double(), torch.randn(4, NU).double()
        _, pull = vjp(DYNAMICS, states, ctrls)
        gx, gu = pull(upstream)
        _, moved = jvp(DYNAMICS, (states, ctrls), (dx, du))
        torch.testing.assert_close((upstream * moved).sum(), (gx * dx).sum() + (gu * du).sum())


# --- transforms ----------------------------------------------------------------------------------


def explicit_jacobian(states, ctrls):
    """d next / d (state, ctrl) in coordinates, row by row, by reverse mode without transforms."""
    rows = []
    for x, u in zip(states, ctrls, strict=True):
        x, u = x.clone().requires_grad_(), u.clone().requires_grad_()
        following = DYNAMICS(x, u)
        parts = [torch.autograd.grad(y, (x, u), retain_graph=True) for y in following]
        rows.append(torch.stack([torch.cat(part) for part in parts]))
    return torch.stack(rows)


@pytest.mark.parametrize(
    "transform",
    [
        lambda f: vmap(jacrev(f)),
        lambda f: vmap(jacfwd(f)),
        lambda f: vmap(jacrev(f), chunk_size=2),
        lambda f: lambda z: torch.stack([jacrev(f)(row) for row in z]),
        lambda f: lambda z: torch.stack([jacfwd(f)(row) for row in z]),
        lambda f: lambda z: vmap(vmap(jacrev(f)))(z.unflatten(0, (2, 2))).flatten(0, 1),
        lambda f: lambda z: vmap(vmap(jacfwd(f)))(z.unflatten(0, (2, 2))).flatten(0, 1),
        lambda f: lambda z: jacrev(vmap(f))(z).diagonal(dim1=0, dim2=2).movedim(-1, 0),
        lambda f: lambda z: jacfwd(vmap(f))(z).diagonal(dim1=0, dim2=2).movedim(-1, 0),
        lambda f: lambda z: jacrev(f)(z).diagonal(dim1=0, dim2=2).movedim(-1, 0),
        lambda f: lambda z: jacfwd(f)(z).diagonal(dim1=0, dim2=2).movedim(-1, 0),
    ],
    ids=[
        "vmap(jacrev)",
        "vmap(jacfwd)",
        "vmap(jacrev) in chunks",
        "jacrev",
        "jacfwd",
        "vmap(vmap(jacrev))",
        "vmap(vmap(jacfwd))",
        "jacrev(vmap)",
        "jacfwd(vmap)",
        "jacrev of a batch",
        "jacfwd of a batch",
    ],
)
def test_every_way_to_a_jacobian_leads_to_the_same(transform):
    states, ctrls = points(4)
    found = transform(lambda z: DYNAMICS(z[..., :NX], z[..., NX:]))(
        torch.cat([states, ctrls], dim=1)
    )
    torch.testing.assert_close(found, explicit_jacobian(states, ctrls), **EXACT)


def test_vmap_maps_any_argument_along_any_dimension():
    states, ctrls = points(3, 2)
    expected = DYNAMICS(states.flatten(0, 1), ctrls.flatten(0, 1)).unflatten(0, (3, 2))
    for found in (
        vmap(DYNAMICS)(states, ctrls),
        vmap(vmap(DYNAMICS))(states, ctrls),
        vmap(DYNAMICS, in_dims=(2, 1))(states.movedim(0, 2), ctrls.movedim(0, 1)),
        vmap(DYNAMICS, in_dims=1, out_dims=1)(states, ctrls),
    ):
        assert torch.equal(found, expected)
    one = vmap(DYNAMICS, in_dims=(None, 0))(states[0, 0], ctrls[:, 1])
    assert torch.equal(one, DYNAMICS(states[0, 0].expand(3, NX), ctrls[:, 1]))


def test_vmap_of_grad_is_the_gradient_of_each_row():
    states, ctrls = points(4)
    found = vmap(grad(lambda x, u: loss_of(DYNAMICS(x, u)), (0, 1)))(states, ctrls)
    x, u = states.clone().requires_grad_(), ctrls.clone().requires_grad_()
    loss_of(DYNAMICS(x, u)).backward()
    torch.testing.assert_close(found[0], x.grad, **EXACT)
    torch.testing.assert_close(found[1], u.grad, **EXACT)


def test_grad_through_vmap_and_an_unroll():
    states, ctrls = points(4)

    def loss(u):
        once = vmap(DYNAMICS)(states, u)
        return loss_of(DYNAMICS(once, 0.5 * u))

    u = ctrls.clone().requires_grad_()
    loss_of(DYNAMICS(DYNAMICS(states, u), 0.5 * u)).backward()
    torch.testing.assert_close(grad(loss)(ctrls), u.grad, **EXACT)


@pytest.mark.parametrize("transform", [jacrev, jacfwd], ids=lambda f: f.__name__)
def test_transforms_need_no_grad_mode(transform):
    z = torch.cat(points(2), dim=1)
    with torch.no_grad():
        found = vmap(transform(following))(z)
        pulled = vjp(following, z)[1](torch.ones(2, NX).double())[0]
    torch.testing.assert_close(found, explicit_jacobian(z[:, :NX], z[:, NX:]), **EXACT)
    torch.testing.assert_close(pulled, found.sum(1), **EXACT)


def test_batched_gradients_of_autograd():
    states, ctrls = points(2)
    u = ctrls.clone().requires_grad_()
    following = DYNAMICS(states, u)
    upstream = torch.randn(5, 2, NX).double()
    (found,) = torch.autograd.grad(following, u, upstream, retain_graph=True, is_grads_batched=True)
    for one, expected in zip(upstream, found, strict=True):
        (alone,) = torch.autograd.grad(following, u, one, retain_graph=True)
        torch.testing.assert_close(alone, expected, **EXACT)
    vectorised = torch.autograd.functional.jacobian(
        lambda v: DYNAMICS(states, v), ctrls, vectorize=True
    )
    looped = torch.autograd.functional.jacobian(lambda v: DYNAMICS(states, v), ctrls)
    torch.testing.assert_close(vectorised, looped, **EXACT)


def test_a_point_that_does_not_match_is_linearised_by_itself():
    (states, ctrls), (others, other_ctrls) = points(2), points(2, seed=1)
    point = sweep.SavedPoint()
    DYNAMICS.op.sweep.record(point, others.numpy(), other_ctrls.numpy(), None)
    a, b = first_order._Linearize.apply(states, ctrls, None, DYNAMICS.op, point)
    expected = DYNAMICS.simulator.linearize(states.numpy(), ctrls.numpy(), centered=True)
    np.testing.assert_array_equal(a, expected.A)
    np.testing.assert_array_equal(b, expected.B)


# --- arguments -----------------------------------------------------------------------------------


def test_values_are_those_of_the_simulator():
    states, ctrls = points(3)
    found = DYNAMICS(states, ctrls)
    np.testing.assert_array_equal(found, reference.steps(MODEL, states, ctrls, SKIP))
    assert found.dtype == torch.float64
    assert not found.requires_grad
    assert DYNAMICS(states, ctrls.requires_grad_()).requires_grad


@pytest.mark.parametrize("shape", [(), (1,), (2,), (3, 2), (2, 1, 2)])
def test_any_batch_shape(shape):
    states, ctrls = points(*shape)
    u = ctrls.clone().requires_grad_()
    found = DYNAMICS(states, u)
    assert found.shape == (*shape, NX)
    loss_of(found).backward()
    flat, action = states.reshape(-1, NX), ctrls.reshape(-1, NU).clone().requires_grad_()
    expected = DYNAMICS(flat, action)
    assert torch.equal(found, expected.reshape(found.shape))
    loss_of(expected).backward()
    assert u.grad.shape == u.shape
    torch.testing.assert_close(u.grad, action.grad.reshape(u.shape), **EXACT)


def test_single_precision_comes_back_as_such():
    states, ctrls = (value.float().requires_grad_() for value in points(3))
    loss_of(DYNAMICS(states, ctrls)).backward()
    x, u = (value.detach().double().requires_grad_() for value in (states, ctrls))
    found = DYNAMICS(x, u)
    assert found.dtype == torch.float64
    loss_of(found).backward()
    for single, double in ((states, x), (ctrls, u)):
        assert single.grad.dtype == torch.float32
        assert torch.equal(single.grad, double.grad.float())


def test_views_that_are_not_contiguous():
    states, ctrls = points(4)
    wide = torch.zeros(8, NX + 3).double()
    wide[::2, 1 : NX + 1] = states
    tall = ctrls.t().contiguous()
    x, u = wide.requires_grad_(), tall.requires_grad_()
    found = DYNAMICS(x[::2, 1 : NX + 1], u.t())
    assert torch.equal(found, DYNAMICS(states, ctrls))
    loss_of(found).backward()
    expected = grad(lambda a, b: loss_of(DYNAMICS(a, b)), (0, 1))(states, ctrls)
    torch.testing.assert_close(x.grad[::2, 1 : NX + 1], expected[0], **EXACT)
    torch.testing.assert_close(u.grad.t(), expected[1], **EXACT)
    assert not x.grad[1::2].any()


def test_changing_the_input_in_place_is_noticed():
    states, ctrls = points(2)
    u = ctrls.clone().requires_grad_()
    loss = loss_of(DYNAMICS(states, u))
    states += 0.1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_changing_the_output_in_place_is_noticed():
    states, ctrls = points(2)
    following = DYNAMICS(states, ctrls.requires_grad_())
    loss = loss_of(following)
    with torch.no_grad():
        following += 0.1
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_model_without_actuators():
    xml = models.BALL[: models.BALL.index("<actuator>")] + "</mujoco>"
    op = dynamics_of(mujoco.MjModel.from_xml_string(xml))
    states = torch.from_numpy(reference.samples(op.simulator.model, 3)[0]).requires_grad_()
    op(states, torch.zeros(3, 0)).sum().backward()
    assert states.grad.abs().sum() > 1.0
    assert op(states[0], torch.zeros(0)).shape == (9,)


@pytest.mark.parametrize(
    ("state", "action", "message"),
    [
        ((2, NX - 1), (2, NU), "must have widths 28 and 4"),
        ((2, NX), (2, NU + 1), "must have widths 28 and 4"),
        ((2, NX), (3, NU), "must have the same batch"),
        ((NX,), (1, NU), "must have the same batch"),
        ((), (NU,), "must have widths"),
    ],
)
def test_wrong_shapes_are_named(state, action, message):
    with pytest.raises(ArgumentError, match=message):
        DYNAMICS(torch.zeros(state), torch.zeros(action))


@pytest.mark.parametrize("name", ["state", "ctrl"])
def test_numbers_that_are_not_finite_are_refused(name):
    states, ctrls = points(3)
    (states if name == "state" else ctrls)[1, 0] = torch.nan
    with pytest.raises(ArgumentError, match=rf"^{name} must be finite, .* rows \[1\]$"):
        DYNAMICS(states, ctrls)


def test_divergence_names_its_rows():
    states, ctrls = points(4)
    states[2, MODEL.nq] = 1e12
    with pytest.raises(DivergenceError) as caught:
        DYNAMICS(states, ctrls)
    assert caught.value.rows == (2,)


def test_methods_are_checked_at_once():
    with pytest.raises(ArgumentError, match="unknown method 'magic'"):
        dynamics_of(method="magic")
    with pytest.raises(ModelError, match="RK4"):
        dynamics_of(models.own("ball", "RK4"), method="transition")


def test_precision_reaches_the_linearisation():
    states, ctrls = points(2)
    upstream = torch.randn(2, NX).double()

    def gradient(**keywords):
        return vjp(dynamics_of(method="step", **keywords), states, ctrls)[1](upstream)[0]

    centred = gradient()
    assert (gradient(centered=False) - centred).norm() > 1e-10 * centred.norm()
    assert (gradient(centered=False, eps=1e-3) - centred).norm() > 1e-5 * centred.norm()
    assert (gradient(eps=1e-2) - centred).norm() > 1e-7 * centred.norm()
