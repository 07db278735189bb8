"""What a check says."""

import re

import mujoco
import pytest
import torch
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv

import mbrl
from mbrl.checking import check

FIXED = {"kind": "linear_feedback", "gains": [[0.0] * 4], "limit": None}


@pytest.fixture(scope="module")
def pendulum():
    return mbrl.make_task("InvertedPendulum-v5", threads=1)


def report(task, section=None, states=12):
    """Return the report's lines, every note on one."""
    text = check(mbrl.build_graph(section, task), torch.Generator().manual_seed(0), states=states)
    assert text.endswith("\n")
    assert max(map(len, text.splitlines())) <= 130
    return re.sub(r"\n    (?=\S)", " ", text).splitlines()


def notes(lines):
    return [line.removeprefix("  - ") for line in lines[lines.index("Notes") + 1 :]]


def nodes(**entries):
    return {"nodes": entries}


def test_a_calm_model(pendulum):
    lines = report(pendulum, nodes(policy={**FIXED, "offset": [0.1]}))
    assert lines[0] == "InvertedPendulum-v5"
    assert "RK4, frame skip 2" in lines[2]
    assert "'implicit' (the graph asks for 'auto'" in lines[3]
    assert any("refused: method 'transition' cannot" in line and "RK4" in line for line in lines)
    assert notes(lines) == ["nothing stands in the way of gradients in these states"]


def test_the_size_of_its_differences_is_no_fault_of_the_engine():
    lines = report(mbrl.make_task("HalfCheetah-v5", threads=1))
    assert not [note for note in notes(lines) if "set eps" in note]


def test_controls_beyond_their_limit(pendulum):
    lines = report(pendulum, nodes(policy={**FIXED, "offset": [3.5]}))
    (note,) = notes(lines)
    assert note == (
        "the gradient vanishes for actuator 'slide' in 100 % of the policy's states: its control "
        "is beyond its limit"
    )
    (row,) = [line for line in lines if "without any effect" in line]
    assert row.split()[-4:] == ["100", "%", "0", "%"]


def test_controls_at_their_limit(pendulum):
    (note,) = notes(report(pendulum, nodes(policy={**FIXED, "offset": [-3.0]})))
    assert note.startswith("the control of actuator 'slide' is at its limit in 100 % of")


def test_what_the_graph_asks_for():
    task = mbrl.make_task("HalfCheetah-v5", threads=1)
    options = {"method": "transition", "eps": 1e-3, "centered": True}
    lines = report(task, nodes(dynamics={"kind": "dynamics", **options}), states=6)
    assert "'transition' (the graph asks for 'transition'), centred" in lines[3]
    assert "eps 1.0e-03" in lines[3]
    found = notes(lines)
    assert any(note.startswith("centred differences near eps 1.0e-03 err") for note in found)
    assert any(note.startswith("halving eps changes Jacobians by") for note in found)


def test_contacts_of_a_standing_cheetah():
    lines = report(mbrl.make_task("HalfCheetah-v5", threads=1), states=6)
    (row,) = [line for line in lines if line.lstrip().startswith("contacts ")]
    assert row.split()[1:3] == ["100", "%"]


def test_a_method_that_cannot_is_refused_in_one_line(pendulum):
    with pytest.raises(mbrl.MbrlError, match="cannot differentiate the integrator RK4"):
        report(pendulum, nodes(dynamics={"kind": "dynamics", "method": "transition"}))


def test_an_environment_that_is_differentiated_itself(own_controls):
    found = notes(report(mbrl.make_task(own_controls, threads=1)))
    assert any("differentiates the environment's own step" in note for note in found)
    assert any("makes its controls in its own step" in note for note in found)


def test_the_node_step_is_the_environments_own(pendulum):
    section = {
        "base": "empty",
        "nodes": {
            "observe": {"kind": "observe"},
            "policy": {**FIXED, "offset": [0.1]},
            "step": {"kind": "step"},
        },
        "carry": {"state": "next_state"},
    }
    (note,) = notes(report(pendulum, section))
    assert "differentiates the environment's own step" in note


def test_a_solver_that_stops_early(register):
    class Hasty(HalfCheetahEnv):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.model.opt.solver, self.model.opt.iterations = mujoco.mjtSolver.mjSOL_PGS, 2

    found = notes(report(mbrl.make_task(register("Hasty-v0", Hasty), threads=1), states=6))
    assert any(note.startswith("the model's solver (PGS, tolerance 1e-08)") for note in found)
