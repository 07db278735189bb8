"""Nodes, policies and algorithms of a user's in runs: their random numbers, what they hand back."""

import functools
import itertools
import os
import signal

import numpy as np
import pytest
import torch

import mbrl
from mbrl import runner
from mbrl.algorithms import PolicyGradient
from mbrl.errors import ArgumentError, CheckpointError, GraphError
from mbrl.graph import Node
from mbrl.registry import ALGORITHMS, NODES, POLICIES
from mbrl.runner import run
from mbrl.seeding import reseed, seeded
from mbrl.signals import Interrupted
from tests.tiny import newest, resume, same_runs, stored, tiny_config


@pytest.fixture(autouse=True)
def _own(monkeypatch):
    """Spare the disk, and forget what a test registers."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    for table in (ALGORITHMS, NODES, POLICIES):
        monkeypatch.setattr(table, "_entries", dict(table._entries))


@pytest.fixture
def config(tmp_path):
    return functools.partial(tiny_config, tmp_path)


class Drawing(Node):
    """Weights and noise that are torch's own to draw."""

    inputs = {"wanted": "nu"}
    outputs = {"action": "nu"}

    def __init__(self, place):
        super().__init__(place)
        self.net = torch.nn.Linear(1, 1).double()

    def forward(self, step, wanted):
        return torch.nn.functional.dropout(self.net(wanted), 0.3)


@pytest.fixture
def drawing():
    """Return a graph with such a node."""
    mbrl.register_node("test_drawing")(Drawing)
    policy = {"kind": "deterministic_mlp", "hidden": [8], "outputs": ["wanted"]}
    return {"nodes": {"policy": policy, "own": {"kind": "test_drawing"}}}


def test_a_seed_is_that_of_users_nodes_too(config, drawing):
    first = run(config(graph=drawing)).run_dir
    torch.manual_seed(12345)
    before = torch.get_rng_state()
    second = run(config(graph=drawing)).run_dir
    assert torch.equal(before, torch.get_rng_state()), "it is the caller's"
    assert same_runs(first, second)
    other = run(config(graph=drawing, seed=1)).run_dir
    weights = [
        stored(path)["algorithm"]["graph"]["nodes.own.net.weight"] for path in (first, other)
    ]
    assert not torch.equal(*weights)


def test_a_run_whose_nodes_draw_continues_bit_for_bit_however_it_is_looked_at(
    config, drawing, monkeypatch
):
    options = {"graph": drawing, "evaluation": {"episodes": 2, "every": 1}}
    reference = run(config(**options)).run_dir
    original, calls = runner.evaluate_actor, []

    def interrupted(*arguments, **keywords):
        calls.append(None)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return original(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(runner, "evaluate_actor", interrupted)
        with pytest.raises(Interrupted) as stopped:
            run(config(**options))
    resume(stopped.value.run_dir)
    assert same_runs(reference, stopped.value.run_dir)
    again = mbrl.finished_runs.evaluate_run(reference, config(**options))
    assert float(again.returns.mean()) == pytest.approx(
        mbrl.finished_runs.evaluate_run(reference, config(**options)).returns.mean(), abs=0
    )
    seldom = run(config(graph=drawing)).run_dir
    assert torch.equal(
        *(stored(p)["algorithm"]["graph"]["nodes.own.net.weight"] for p in (reference, seldom))
    )


def test_ranks_draw_other_numbers_than_each_other_and_in_other_updates():
    with seeded(3):
        drawn = []
        for update, rank in itertools.product(range(2), range(2)):
            for _ in range(2):
                reseed(3, update, rank)
                drawn.append(torch.rand(4))
    for i, j in itertools.combinations(range(len(drawn)), 2):
        assert torch.equal(drawn[i], drawn[j]) == (i // 2 == j // 2)


class Own(PolicyGradient):
    """What a user's algorithm may hand back."""

    measured = None
    extra = 0.5

    def update(self):
        found = super().update()
        return found if self.measured is None else self.measured

    def state_dict(self):
        return {**super().state_dict(), "extra": self.extra}


@pytest.mark.parametrize("measured", [{"return_mean": 1.0}, 3.0, [("env_steps", 1)]])
def test_an_update_that_does_not_say_what_it_took_is_named(config, monkeypatch, measured):
    mbrl.register_algorithm("test_own")(Own)
    monkeypatch.setattr(Own, "measured", measured)
    algorithm = {"kind": "test_own", "updates": 2, "horizon": 3, "batch": 2}
    with pytest.raises(ArgumentError, match=r"algorithm test_own: update\(\) must return a dict"):
        run(config(algorithm=algorithm))


def test_numbers_of_numpys_are_saved_as_numbers(config, monkeypatch):
    mbrl.register_algorithm("test_own")(Own)
    monkeypatch.setattr(Own, "extra", {"mean": np.float64(0.5), "list": [np.int64(3)]})
    algorithm = {"kind": "test_own", "updates": 2, "horizon": 3, "batch": 2}
    path = run(config(algorithm=algorithm)).run_dir
    assert stored(path)["algorithm"]["extra"] == {"mean": 0.5, "list": [3]}


def test_a_state_that_cannot_be_read_back_is_found_out_before_the_first_update(config, monkeypatch):
    mbrl.register_algorithm("test_own")(Own)
    monkeypatch.setattr(Own, "extra", Own)
    monkeypatch.setattr(Own, "update", lambda self: pytest.fail("an update was made"))
    with pytest.raises(CheckpointError, match="something other than tensors and plain data"):
        run(config(algorithm={"kind": "test_own", "updates": 2, "horizon": 3, "batch": 2}))


def test_a_policy_that_is_none_is_named(config, tmp_path):
    mbrl.register_policy("test_bare")(lambda size, low, high, generator: torch.nn.Linear(size, 1))
    with pytest.raises(GraphError, match=r"policy.kind: test_bare must make a mbrl.nn.Policy"):
        run(config(graph={"nodes": {"policy": {"kind": "test_bare"}}}))
    assert not (tmp_path / "outputs").exists() or not newest(tmp_path / "outputs")


def test_an_end_that_is_no_boolean_is_named_before_a_row_ends(config):
    @mbrl.register_node("test_ends")
    class Ends(Node):
        inputs = {"next_state": "nx"}
        outputs = {"terminated": 0}

        def forward(self, step, state):
            return (state[:, 0] > 1e9).double()

    graph = {"nodes": {"terminate": {"kind": "test_ends"}}}
    with pytest.raises(
        GraphError, match=r"terminate .*'terminated' must be boolean, got .*float64"
    ):
        run(config(graph=graph))
