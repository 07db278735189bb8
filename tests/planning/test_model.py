"""Models of dynamics: simulated against differentiated ops, and against differences."""

import mujoco
import numpy as np
import pytest
import torch
from torch import nn

import mbrl
from mbrl.errors import DivergenceError
from mbrl.physics import Simulator
from mbrl.planning import Scene, SimulatorModel, TorchModel, model_of

FREE = """
<mujoco><option timestep="0.01"/><worldbody><geom type="plane" size="5 5 1"/>
  <body pos="0 0 0.3"><freejoint/><geom type="box" size=".1 .08 .05" mass="1"/>
    <body pos=".1 0 0"><joint type="ball" damping=".1"/>
      <geom type="capsule" fromto="0 0 0 .2 0 0" size=".02" mass=".3"/>
      <site name="tip" pos=".2 0 0"/></body></body></worldbody>
<actuator><motor site="tip" gear="1 0 0 0 .2 0"/><motor site="tip" gear="0 0 2 0 0 0"/></actuator>
</mujoco>"""
HERE = Scene()


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(scope="module")
def free():
    simulator = Simulator(mujoco.MjModel.from_xml_string(FREE), frame_skip=2, threads=1)
    at_rest = torch.from_numpy(simulator.model.qpos0).repeat(3, 1)
    start = torch.cat([at_rest, torch.zeros(3, simulator.spec.nv).double()], dim=1)
    moved = simulator.spec.retract(start.numpy(), 0.3 * normal(0, 3, simulator.spec.ndx).numpy())
    return simulator, torch.from_numpy(moved)


@pytest.fixture(scope="module")
def models(free):
    simulator, _ = free
    dynamics = mbrl.MujocoDynamics(simulator)
    return SimulatorModel(simulator), TorchModel(dynamics, simulator.spec.nx, simulator.spec)


def test_both_models_of_one_system_agree(free, models):
    actions = normal(1, 6, 3, 2)
    states = [model.rollout(free[1], actions, HERE) for model in models]
    assert torch.equal(*states)
    pairs = [model.linearize(states[0][:-1], actions, HERE) for model in models]
    for ours, theirs in zip(*pairs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
    gradients = normal(2, 7, 3, models[0].tangent_size), normal(3, 6, 3, 2)
    found = [model.adjoint(states[0], actions, *gradients, HERE) for model in models]
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-9)


def test_adjoint_is_the_derivative_of_a_rollout(free, models):
    model, actions = models[0], normal(4, 5, 3, 2)
    weights = normal(5, 3, model.tangent_size)
    states = model.rollout(free[1], actions, HERE)

    def value(moved):
        last = model.rollout(free[1], moved, HERE)[-1]
        return (weights * model.difference(states[-1], last)).sum()

    by_states = torch.zeros(6, 3, model.tangent_size, dtype=torch.float64)
    by_states[-1] = weights
    found = model.adjoint(states, actions, by_states, torch.zeros_like(actions), HERE)
    direction, eps = normal(6, 5, 3, 2), 1e-5
    slope = (value(actions + eps * direction) - value(actions - eps * direction)) / (2 * eps)
    torch.testing.assert_close((found * direction).sum(), slope, rtol=1e-5, atol=1e-8)


def test_gradients_and_hessians_in_tangent_space(free, models):
    """Of a smooth function of coordinates, against differences along the manifold."""
    model, spec, x = models[0], free[0].spec, free[1]
    center = normal(7, spec.nx)

    def function(state):  # of coordinates, not invariant to the quaternions' norm
        return ((state - center).square().sum(-1) + (state * center).sum(-1).sin()) / 2

    def moved(tangent):
        return function(torch.from_numpy(spec.retract(x.numpy(), tangent.numpy())))

    at = x.clone().requires_grad_()
    gradient = torch.autograd.grad(function(at).sum(), at, create_graph=True)[0]
    hessian = torch.stack(
        [torch.autograd.grad(g.sum(), at, retain_graph=True)[0] for g in gradient.unbind(1)], 1
    )
    gradient = gradient.detach()
    found_g = model.to_tangent(x, gradient)
    found_h = model.hessian_to_tangent(x, gradient, hessian)
    eps, eye = 1e-4, torch.eye(spec.ndx, dtype=torch.float64)
    for i in range(spec.ndx):
        slope = (moved(eps * eye[i]) - moved(-eps * eye[i])) / (2 * eps)
        torch.testing.assert_close(found_g[:, i], slope, rtol=1e-6, atol=1e-7)
        for j in range(spec.ndx):
            both, one = eps * (eye[i] + eye[j]), eps * (eye[i] - eye[j])
            curve = (moved(both) + moved(-both) - moved(one) - moved(-one)) / (4 * eps * eps)
            torch.testing.assert_close(found_h[:, i, j], curve, rtol=1e-5, atol=2e-6)


def test_closed_loop_feeds_states_back(free, models):
    nq = free[0].spec.nq

    def law(t, states):
        return torch.stack([states[:, 2] * (t + 1), -states[:, nq]], dim=1)

    for model in models:
        states, actions = model.closed_loop(free[1], law, 4, HERE)
        for t in range(4):
            torch.testing.assert_close(actions[t], law(t, states[t]))
        torch.testing.assert_close(model.rollout(free[1], actions, HERE), states, rtol=0, atol=0)


def test_effort_is_counted(free):
    model = SimulatorModel(free[0])
    actions = normal(8, 4, 3, 2)
    states = model.rollout(free[1], actions, HERE)
    model.linearize(states[:-1], actions, HERE)
    model.closed_loop(free[1], lambda t, x: actions[t], 2, HERE)
    assert (model.control_steps, model.linearizations) == (4 * 3 + 2 * 3, 4 * 3)


def test_learned_dynamics_see_time_and_context():
    class Clocked(nn.Module):
        def forward(self, state, action, t, context):
            return state * context + t * action

    model = TorchModel(Clocked(), 2)
    scene = Scene(5, torch.tensor([[2.0, 2.0], [3.0, 3.0]], dtype=torch.float64))
    x, u = normal(9, 2, 2), normal(10, 3, 2, 2)
    states = model.rollout(x, u, scene)
    expected = x
    for t in range(3):
        expected = expected * scene.context + (5 + t) * u[t]
        torch.testing.assert_close(states[t + 1], expected)
    a, b = model.linearize(states[:-1], u, scene)
    torch.testing.assert_close(a[1, 1], 3 * torch.eye(2).double())
    torch.testing.assert_close(b[2, 0], 7 * torch.eye(2).double())


@pytest.mark.parametrize(
    ("name", "kind"),
    [("HalfCheetah-v5", SimulatorModel), ("Humanoid-v5", SimulatorModel)],
)
def test_tasks_plan_in_their_own_simulator(name, kind):
    task = mbrl.make_task(name, threads=1)
    model = model_of(task)
    assert isinstance(model, kind)
    assert model.simulator is task.simulator


def test_options_go_to_the_physics_alone(free):
    task = mbrl.make_task("HalfCheetah-v5", threads=1)
    smooth = model_of(task, smoothing={"kind": "impedance", "width": 0.01})
    u = torch.zeros(1, 1, 6, dtype=torch.float64)
    x = task.reset(1, torch.Generator().manual_seed(0))
    x = model_of(task).rollout(x, u.repeat(40, 1, 1), HERE)[-1]  # fallen to the ground
    plain = model_of(task).linearize(x[None], u, HERE)[0]
    assert (smooth.linearize(x[None], u, HERE)[0] - plain).abs().max() > 1e-3
    assert torch.equal(*(m.rollout(x, u, HERE) for m in (smooth, model_of(task))))


@pytest.mark.parametrize(
    "options",
    [
        {"smoothing": {"kind": "impedance", "width": 0.01}},
        {"method": "step", "eps": 1e-3},
        {"method": "step", "eps": 1e-3, "centered": True},
    ],
)
def test_dynamics_that_are_given_bring_their_own_derivatives(options):
    task = mbrl.make_task("HalfCheetah-v5", threads=1)
    given = model_of(task, mbrl.MujocoDynamics(task.simulator, **options))
    x = task.reset(2, torch.Generator().manual_seed(0))
    u = torch.full((1, 2, 6), 0.3, dtype=torch.float64)
    x = model_of(task).rollout(x, u.repeat(40, 1, 1), HERE)[-1]
    wanted = task.simulator.linearize(x.numpy(), u[0].numpy(), **options)
    for found, expected in zip(given.linearize(x[None], u, HERE), wanted, strict=False):
        assert np.array_equal(found[0], expected)
    exact = task.simulator.linearize(x.numpy(), u[0].numpy())
    assert np.abs(exact.A - wanted.A).max() > 1e-4


SLIDING = """
<mujoco><option timestep="0.5"/><worldbody><body>
  <joint name="slide" type="slide" axis="1 0 0"/><geom size=".1" mass="1"/>
</body></worldbody><actuator><motor joint="slide"/></actuator></mujoco>"""


def test_rows_that_diverge_are_marked_and_others_are_not_touched():
    simulator = Simulator(mujoco.MjModel.from_xml_string(SLIDING), threads=1)
    model = SimulatorModel(simulator)
    # At this speed a row leaves the world that MuJoCo takes for finite, 1e10, in the third step.
    x = torch.tensor([[0.1, 0.0], [3e9, 5e9], [0.2, 0.0]], dtype=torch.float64)
    u = normal(11, 6, 3, 1)
    states = model.rollout(x, u, HERE)
    assert states[:3].isfinite().all()
    assert states[3:, 1].isnan().all()
    kept = model.rollout(x[[0, 2]], u[:, [0, 2]], HERE)
    assert torch.equal(states[:, [0, 2]], kept)
    with pytest.raises(DivergenceError, match=r"1 of 3 rows \[1\]"):
        simulator.rollout(x.numpy(), u.numpy())
    assert torch.equal(model.rollout(x[[0, 2]], u[:, [0, 2]], HERE), kept)


def test_rows_that_diverge_in_differentiated_ops_are_marked_too():
    simulator = Simulator(mujoco.MjModel.from_xml_string(SLIDING), threads=1)
    model = TorchModel(mbrl.MujocoDynamics(simulator), 2, simulator.spec)
    x = torch.tensor([[0.1, 0.0], [3e9, 5e9], [0.2, 0.0]], dtype=torch.float64)
    u = normal(11, 6, 3, 1)
    assert torch.equal(
        model.rollout(x, u, HERE).nan_to_num(7.0),
        SimulatorModel(simulator).rollout(x, u, HERE).nan_to_num(7.0),
    )


def test_dynamics_are_linearised_at_the_time_of_their_steps():
    class Clocked(nn.Module):
        def forward(self, state, action, t):
            return t * state + action

    x, u = normal(12, 2, 1, 1), normal(13, 2, 1, 1)
    a, _ = TorchModel(Clocked(), 1).linearize(x, u, Scene(5), [0, 3])
    assert a.flatten().tolist() == [5.0, 8.0]
