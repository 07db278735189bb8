"""Smoothing in the dynamics op and in graphs: values untouched, gradients those of A and B."""

import copy

import numpy as np
import pytest
import torch

import mbrl
from mbrl.errors import ArgumentError, ConfigError
from mbrl.ops import sweep
from mbrl.physics import ImpedanceSmoothing, RandomizedSmoothing, Simulator
from tests import models
from tests.models import reference

SMOOTHINGS = [
    ImpedanceSmoothing(width=0.01),
    RandomizedSmoothing(samples=2, position_sd=0.01, control_sd=0.05),
]
each = pytest.mark.parametrize("smoothing", SMOOTHINGS, ids=["impedance", "randomized"])
IMPEDANCE = {"kind": "impedance", "width": 0.01}


def simulator():
    return Simulator(models.own("limit"), frame_skip=3, threads=1)


def unrolled(dynamics, states, controls):
    """States (T+1, B, nx) of a rollout, and the gradient of a function of the last ones."""
    controls = controls.clone().requires_grad_()
    visited = [states]
    for control in controls:
        visited.append(dynamics(visited[-1], control))
    loss = torch.sin(3.0 * visited[-1]).sum()
    return torch.stack(visited).detach(), torch.autograd.grad(loss, controls)[0]


def problem(steps=6, batch=3):
    """A slider that starts and stays about its limit."""
    generator = torch.Generator().manual_seed(0)
    states = 0.05 * torch.randn(batch, 4, generator=generator, dtype=torch.float64)
    states[:, 1] = 0.049
    shape = steps, batch, 2
    return states, torch.rand(shape, generator=generator, dtype=torch.float64) * 1.8 - 0.9


@pytest.mark.parametrize("smoothing", [ImpedanceSmoothing(width=0.01, limits=True), SMOOTHINGS[1]])
def test_gradients_are_products_of_smoothed_matrices_along_the_unmodified_rollout(smoothing):
    sim = simulator()
    states, controls = problem()
    visited, gradient = unrolled(mbrl.MujocoDynamics(sim, smoothing=smoothing), states, controls)
    plain, exact = unrolled(mbrl.MujocoDynamics(sim), states, controls)
    assert torch.equal(visited, plain)
    np.testing.assert_array_equal(visited.numpy(), sim.rollout(states.numpy(), controls.numpy()))
    costate = 3.0 * np.cos(3.0 * visited[-1].numpy())
    for t in reversed(range(len(controls))):  # the state space is Euclidean
        a, b = sim.linearize(visited[t].numpy(), controls[t].numpy(), smoothing=smoothing)
        expected = np.einsum("bi,bij->bj", costate, b)
        np.testing.assert_allclose(gradient[t].numpy(), expected, rtol=1e-12, atol=1e-15)
        costate = np.einsum("bi,bij->bj", costate, a)
    assert (gradient - exact).norm() > 1e-3 * exact.norm()


@each
def test_step_by_step_and_pooled_linearisations_have_the_same_bits(smoothing, monkeypatch):
    dynamics = mbrl.MujocoDynamics(simulator(), smoothing=smoothing)
    _, pooled = unrolled(dynamics, *problem())
    monkeypatch.setattr(sweep, "_CHUNK_BYTES", 1)
    _, single = unrolled(dynamics, *problem())
    assert torch.equal(single, pooled)


@each
def test_copies_keep_their_smoothing(smoothing):
    dynamics = mbrl.MujocoDynamics(simulator(), smoothing=smoothing)
    _, expected = unrolled(dynamics, *problem())
    _, found = unrolled(copy.deepcopy(dynamics), *problem())
    assert torch.equal(found, expected)


def test_bad_smoothings_are_refused_at_once():
    with pytest.raises(ConfigError, match=r"^smoothing\.kind: unknown value 'soft'; legal: impeda"):
        mbrl.MujocoDynamics(simulator(), smoothing={"kind": "soft"})


# --- in YAML -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def hopper():
    return mbrl.make_task("mbrl/SmoothHopper-v0", threads=1)


def section(smoothing):
    return {"nodes": {"dynamics": {"kind": "dynamics", "smoothing": smoothing}}}


def test_a_graph_simulates_as_before_and_differentiates_the_smoothed_step(hopper):
    controls, gradients, rewards = None, [], []
    states, _ = reference.samples(hopper.simulator.model, 4, length=60, frame_skip=4)
    for smoothing in (None, IMPEDANCE, {"kind": "randomized", "position_sd": 0.01, "samples": 2}):
        graph = mbrl.build_graph(
            section(smoothing), hopper, generator=torch.Generator().manual_seed(0)
        )
        trajectory = graph.unroll(torch.from_numpy(states), 3)
        rewards.append(trajectory.rewards.detach())
        (weight, *_) = graph.parameters()
        gradients.append(torch.autograd.grad(trajectory.rewards.sum(), weight)[0])
        if controls is not None:
            assert torch.equal(controls, trajectory.actions.detach())
        controls = trajectory.actions.detach()
    assert torch.equal(rewards[0], rewards[1])
    assert torch.equal(rewards[0], rewards[2])
    for smoothed in gradients[1:]:
        assert (smoothed - gradients[0]).norm() > 1e-4 * gradients[0].norm()


def test_a_configuration_is_complete(tmp_path):
    config = mbrl.load_config(
        "configs/hopper.yaml", ["graph.nodes.dynamics.smoothing={kind: impedance, width: 0.01}"]
    )
    assert config.graph["nodes"]["dynamics"]["smoothing"] == {
        "kind": "impedance",
        "width": 0.01,
        "onset": 0.0,
        "margin": None,
        "slowdown": 1.0,
        "limits": False,
    }
    assert mbrl.load_config("configs/hopper.yaml").graph["nodes"]["dynamics"]["smoothing"] is None


@pytest.mark.parametrize(
    ("smoothing", "message"),
    [
        ({"kind": "impedence"}, r"^graph\.nodes\.dynamics\.smoothing\.kind: .*mean 'impedance'\?$"),
        (IMPEDANCE | {"widht": 1.0}, r"^unknown key 'graph\.nodes\.dynamics\.smoothing\.widht'; "),
        (IMPEDANCE | {"width": -1.0}, r"^graph\.nodes\.dynamics\.smoothing\.width must be at "),
        (
            "impedance",
            r"^graph\.nodes\.dynamics\.smoothing must be a mapping with a kind or null, got 'impe",
        ),
    ],
)
def test_mistakes_in_yaml_are_named(hopper, smoothing, message):
    with pytest.raises((ConfigError, ArgumentError), match=message):
        mbrl.build_graph(section(smoothing), hopper)


def test_an_environments_own_step_is_not_smoothed():
    task = mbrl.make_task("HumanoidStandup-v5", threads=1)
    with pytest.raises(ArgumentError, match=r"smoothing is for plain physics, .*HumanoidStandup"):
        mbrl.build_graph(section(IMPEDANCE), task)
