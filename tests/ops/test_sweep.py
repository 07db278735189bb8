"""The sweep: few calls, bounded memory, nothing linearised in vain, and the same bits."""

import gc
import subprocess
import sys
import weakref

import mujoco
import numpy as np
import pytest
import torch

from mbrl.errors import DivergenceError
from mbrl.ops import MujocoDynamics, sweep
from mbrl.physics import RandomizedSmoothing, Simulator
from tests import models
from tests.models import reference

MODEL = models.own("mixed")
STEPS, BATCH = 9, 3


class Counter:
    """Stands before a simulator's linearize and writes down what is asked."""

    def __init__(self, simulator):
        self.rows, self.most, self.poison = [], 0, None
        self._linearize, self._alive = simulator.linearize, []
        simulator.linearize = self

    def __call__(self, state, ctrl, **keywords):
        self.rows.append(len(state))
        if self.poison is not None and (bad := np.flatnonzero(ctrl[:, 0] == self.poison)).size:
            raise DivergenceError("poisoned", bad)
        found = self._linearize(state, ctrl, **keywords)
        self._alive = [ref for ref in self._alive if ref() is not None]
        self._alive += [weakref.ref(part) for part in found]
        self.most = max(self.most, sum(ref().nbytes for ref in self._alive))
        return found


def counted():
    simulator = Simulator(MODEL, threads=1)
    counter = Counter(simulator)
    return MujocoDynamics(simulator), counter


def inputs(seed, steps=STEPS):
    states, _ = reference.samples(MODEL, BATCH, seed=seed)
    rng = np.random.default_rng(seed)
    ctrls = torch.from_numpy(rng.uniform(-0.9, 0.9, (steps, BATCH, MODEL.nu)))
    return torch.from_numpy(states).requires_grad_(), ctrls.requires_grad_()


def unrolled(dynamics, state, ctrls):
    total = 0.0
    for ctrl in ctrls:
        state = dynamics(state, ctrl)
        total = total + (state * state).sum()
    return total


def gradients(dynamics, seed=0):
    state, ctrls = inputs(seed)
    return torch.autograd.grad(unrolled(dynamics, state, ctrls), (state, ctrls))


def bytes_of(rows):
    return rows * 8 * 26 * (26 + 4)


def same(found, expected):
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


def test_one_call_serves_a_whole_unroll():
    dynamics, counter = counted()
    gradients(dynamics)
    assert counter.rows == [STEPS * BATCH]


def test_every_option_reaches_the_simulator():
    simulator, asked = Simulator(MODEL, threads=1), []
    linearize = simulator.linearize

    def spy(state, ctrl, **keywords):
        asked.append(keywords)
        return linearize(state, ctrl, **keywords)

    simulator.linearize = spy
    options = {
        "method": "transition",
        "eps": 1e-7,
        "centered": True,
        "smoothing": RandomizedSmoothing(samples=2),
    }
    gradients(MujocoDynamics(simulator, **options))
    assert asked == [options]


@pytest.mark.parametrize("steps", [0, 1, 2, 4, 100])
def test_gradients_do_not_depend_on_the_size_of_a_chunk(steps, monkeypatch):
    expected = gradients(MujocoDynamics(Simulator(MODEL, threads=2)))
    monkeypatch.setattr(sweep, "_CHUNK_BYTES", bytes_of(steps * BATCH))
    dynamics, counter = counted()
    assert same(gradients(dynamics), expected)
    per_call = max(1, min(steps, STEPS)) * BATCH
    assert max(counter.rows) == per_call
    assert sum(counter.rows) == STEPS * BATCH
    assert len(counter.rows) == -(-STEPS * BATCH // per_call)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_no_more_jacobians_are_alive_than_a_chunk_holds(steps, monkeypatch):
    budget = bytes_of(steps * BATCH)
    monkeypatch.setattr(sweep, "_CHUNK_BYTES", budget)
    dynamics, counter = counted()
    gc.disable()  # nothing may hang in a cycle either
    try:
        gradients(dynamics)
        gradients(dynamics, seed=1)
    finally:
        gc.enable()
    assert budget / 2 < counter.most <= budget


def test_jacobians_die_with_their_graph():
    dynamics, counter = counted()
    state, ctrls = inputs(0)
    loss = unrolled(dynamics, state, ctrls)
    loss.backward()
    del loss
    gradients(dynamics, seed=1)
    assert counter.most == bytes_of(STEPS * BATCH)


def test_a_second_backward_of_a_retained_graph(monkeypatch):
    for chunk in (0, bytes_of(4 * BATCH), bytes_of(100 * BATCH)):
        monkeypatch.setattr(sweep, "_CHUNK_BYTES", chunk)
        dynamics = MujocoDynamics(Simulator(MODEL, threads=1))
        state, ctrls = inputs(0)
        loss = unrolled(dynamics, state, ctrls)
        first = torch.autograd.grad(loss, (state, ctrls), retain_graph=True)
        second = torch.autograd.grad(loss, (state, ctrls))
        assert same(second, first)


def test_dropped_graphs_are_not_linearised():
    dynamics, counter = counted()
    for seed in range(5):
        state, ctrls = inputs(seed)
        loss = unrolled(dynamics, state, ctrls)
    del loss
    with torch.no_grad():
        unrolled(dynamics, *inputs(7))
    gradients(dynamics)
    assert counter.rows == [STEPS * BATCH]


def test_an_endless_simulation_without_backward_keeps_nothing(monkeypatch):
    monkeypatch.setattr(sweep, "_COMPACT_EVERY", 16)
    dynamics, _ = counted()
    state, ctrls = inputs(0)
    with torch.no_grad():
        for _ in range(100):
            dynamics(state, ctrls[0])
    assert len(dynamics.op.sweep._points) <= 16


def test_two_interleaved_unrolls(monkeypatch):
    expected = [gradients(MujocoDynamics(Simulator(MODEL, threads=1)), seed) for seed in (0, 1)]
    for chunk in (0, bytes_of(4 * BATCH), bytes_of(100 * BATCH)):
        monkeypatch.setattr(sweep, "_CHUNK_BYTES", chunk)
        for order in ((0, 1), (1, 0)):
            dynamics, counter = counted()
            leaves = [inputs(seed) for seed in (0, 1)]
            states, totals = [state for state, _ in leaves], [0.0, 0.0]
            for t in range(STEPS):
                for k in (0, 1):
                    states[k] = dynamics(states[k], leaves[k][1][t])
                    totals[k] = totals[k] + (states[k] * states[k]).sum()
            for k in order:
                assert same(torch.autograd.grad(totals[k], leaves[k]), expected[k])
        assert chunk < bytes_of(100) or sum(counter.rows) == 2 * STEPS * BATCH


def test_a_backward_through_half_of_the_graph_first():
    dynamics = MujocoDynamics(Simulator(MODEL, threads=1))
    state, ctrls = inputs(0)
    middle = state
    for ctrl in ctrls[:4]:
        middle = dynamics(middle, ctrl)
    loss = unrolled(dynamics, middle, ctrls[4:])
    torch.autograd.grad(middle.sum(), ctrls, retain_graph=True)
    found = torch.autograd.grad(loss, (state, ctrls))
    fresh = MujocoDynamics(Simulator(MODEL, threads=1))
    middle = state
    for ctrl in ctrls[:4]:
        middle = fresh(middle, ctrl)
    assert same(found, torch.autograd.grad(unrolled(fresh, middle, ctrls[4:]), (state, ctrls)))


def test_a_point_that_cannot_be_linearised_raises_only_when_asked_for():
    dynamics, counter = counted()
    counter.poison = 0.123456
    state, ctrls = inputs(0)
    with torch.no_grad():
        ctrls[2, 1, 0] = counter.poison
    abandoned = unrolled(dynamics, state, ctrls[:5])  # alive, but never asked
    clean = MujocoDynamics(Simulator(MODEL, threads=1))
    assert same(gradients(dynamics, seed=1), gradients(clean, seed=1))
    with pytest.raises(DivergenceError) as caught:
        abandoned.backward()
    assert caught.value.rows == (1,)  # of its own batch of three
    assert same(gradients(dynamics, seed=1), gradients(clean, seed=1))


def test_physics_that_diverges_within_the_differences_only():
    # MuJoCo bears accelerations up to 1e10, that is, controls up to 0.3.
    xml = models.LINEAR.replace('gear="3"', f'gear="{2e10 / 0.3}"')
    simulator = Simulator(mujoco.MjModel.from_xml_string(xml), threads=1)
    dynamics = MujocoDynamics(simulator, method="step", eps=0.25)
    action = torch.zeros(4, 2).double()
    action[2, 0] = 0.1
    action.requires_grad_()
    first = dynamics(torch.zeros(4, 4).double(), torch.zeros(4, 2).double().requires_grad_())
    loss = dynamics(torch.zeros(4, 4).double(), action).sum()
    with pytest.raises(DivergenceError) as caught:
        loss.backward()
    assert caught.value.rows == (2,)
    first.sum().backward()


PROGRAM = """
import resource
import gymnasium, numpy, torch
from mbrl.ops import MujocoDynamics
from mbrl.physics import RandomizedSmoothing, Simulator

torch.set_num_threads(1)
model = gymnasium.make("HalfCheetah-v5").unwrapped.model
dynamics = MujocoDynamics(Simulator(model, frame_skip=5))
state = torch.zeros(64, 18, dtype=torch.float64)
ctrls = 0.8 * torch.randn(1000, 64, 6, generator=torch.Generator().manual_seed(0))
ctrls = ctrls.double().requires_grad_()
total = 0.0
for ctrl in ctrls:
    state = dynamics(state, torch.tanh(ctrl))
    total = total + state[:, 9].mean()
total.backward()
assert ctrls.grad[-100:].isfinite().all()  # before that chaos may overflow
assert (ctrls.grad != 0.0).all()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)  # KiB
"""


@pytest.mark.slow
def test_a_thousand_steps_of_64_cheetahs_stay_below_a_gigabyte():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    peak = int(done.stdout.splitlines()[-1]) * 1024
    print(f"peak resident memory: {peak / 1e6:.0f} MB")
    assert peak < 1e9
