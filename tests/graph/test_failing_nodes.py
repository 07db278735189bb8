"""Nodes of a user's that fail, or return what they must not."""

import functools
import inspect

import pytest
import torch

import mbrl
from mbrl.errors import GraphError, NotFiniteError
from mbrl.graph import Node
from mbrl.registry import NODES
from mbrl.runner import run
from tests.tiny import runs, stored, tiny_config


class Answering(Node):
    """Returns whatever ``answer`` makes of the action that the policy wants."""

    inputs = {"wanted": "nu"}
    outputs = {"action": "nu"}
    answer = None

    def forward(self, step, wanted):
        return type(self).answer(wanted)


@pytest.fixture
def section(monkeypatch):
    """Return a graph section with such a node between policy and physics."""
    monkeypatch.setattr(NODES, "_entries", dict(NODES._entries))
    mbrl.register_node("test_answering")(Answering)
    return {
        "nodes": {
            "policy": {"kind": "deterministic_mlp", "outputs": ["wanted"]},
            "own": {"kind": "test_answering"},
        }
    }


def unrolled(monkeypatch, section, answer, batch=3):
    monkeypatch.setattr(Answering, "answer", staticmethod(answer))
    task = mbrl.make_task("InvertedPendulum-v5")
    graph = mbrl.build_graph(section, task)
    return graph.unroll(task.reset(batch, torch.Generator().manual_seed(0)), 2)


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda w: None, "must return tensors for action, got NoneType"),
        (lambda w: 0.5, "must return tensors for action, got float"),
        (lambda w: (w, w), "must return tensors for action, got 2"),
        (lambda w: (0.5,), "'action' must be a tensor of shape [3, 1], got float"),
        (lambda w: torch.cat([w, w], -1), "'action' must be a tensor of shape [3, 1], got [3, 2]"),
        (lambda w: w[:, 0], "'action' must be a tensor of shape [3, 1], got [3]"),
        (lambda w: w[:1], "'action' must be a tensor of shape [3, 1], got [1, 1]"),
    ],
)
def test_what_it_returns_must_fit_its_ports(monkeypatch, section, answer, said):
    with pytest.raises(GraphError) as caught:
        unrolled(monkeypatch, section, answer)
    assert said in str(caught.value)
    assert str(caught.value).startswith("graph.nodes.own (test_answering)")


def raise_error(wanted):
    raise ValueError("two\nlines")


def test_what_it_raises_is_told_with_its_place(monkeypatch, section):
    with pytest.raises(GraphError) as caught:
        unrolled(monkeypatch, section, raise_error)
    line = inspect.getsourcelines(raise_error)[1] + 1
    told = "graph.nodes.own (test_answering) raised ValueError: two lines"
    assert str(caught.value) == f"{told}; at {__file__}:{line}"
    assert isinstance(caught.value.__cause__, ValueError)


def test_an_error_inside_of_torch_is_placed_where_the_node_called_it(monkeypatch, section):
    with pytest.raises(GraphError, match=rf"raised RuntimeError: .*; at {__file__}:"):
        unrolled(monkeypatch, section, lambda w: torch.nn.functional.linear(w, w.new_ones(5, 7)))


def test_errors_of_the_package_pass(monkeypatch, section):
    def refuse(wanted):
        raise mbrl.errors.TaskError("no such place")

    with pytest.raises(mbrl.errors.TaskError, match=r"^no such place$"):
        unrolled(monkeypatch, section, refuse)


def test_the_node_that_makes_nan_is_named(monkeypatch, section):
    def spoil(wanted):
        return torch.where(torch.tensor([[True], [False], [True]]), wanted, torch.nan)

    with pytest.raises(NotFiniteError, match=r"own \(.*\) made 'action' so") as caught:
        unrolled(monkeypatch, section, spoil)
    assert caught.value.rows == (1,)


def test_nan_that_was_given_is_nobodys_fault(monkeypatch, section):
    monkeypatch.setattr(Answering, "answer", staticmethod(lambda wanted: wanted))
    graph = mbrl.build_graph(section, mbrl.make_task("InvertedPendulum-v5"))
    with pytest.raises(NotFiniteError) as caught:
        graph.unroll(torch.full((2, 4), torch.nan, dtype=torch.float64), 1)
    assert "graph.nodes" not in str(caught.value)


def test_a_bug_of_ours_stays_one(monkeypatch, section):
    def fail(self, *arguments):
        return functools.reduce(lambda a, b: 1 // 0, [1, 2])

    fail.__globals__["__name__"], before = "mbrl.graph.nodes", fail.__globals__["__name__"]
    monkeypatch.setattr(NODES.get("observe"), "forward", fail)
    try:
        with pytest.raises(ZeroDivisionError):
            unrolled(monkeypatch, section, lambda wanted: wanted)
    finally:
        fail.__globals__["__name__"] = before


def test_a_run_whose_node_fails_late_has_saved_what_was_before(tmp_path, monkeypatch, section):
    calls = []

    def fail_late(wanted):
        calls.append(1)
        if len(calls) > 5:
            raise ValueError("enough")
        return wanted

    monkeypatch.setattr(Answering, "answer", staticmethod(fail_late))
    with pytest.raises(GraphError, match="raised ValueError: enough"):
        run(tiny_config(tmp_path, graph=section, checkpoint={"every": 100}))
    (run_dir,) = runs(tmp_path)
    assert stored(run_dir)["update"] == 1


def test_actions_of_a_model_without_actuators_have_width_zero(tmp_path):
    """And are checked like any others, not taken for scalars."""
    model = tmp_path / "free.xml"
    model.write_text(
        "<mujoco><worldbody><body><joint name='j' type='slide' axis='1 0 0'/>"
        "<geom size='0.1'/></body></worldbody></mujoco>"
    )
    cost = {"x": {"residual": {"kind": "joint_position", "joint": "j"}, "weight": 1.0}}
    arguments = {"model": str(model), "cost": cost, "max_episode_steps": 5}
    task = mbrl.make_task("mbrl/Residual-v0", **arguments)
    policy = {"kind": "linear_feedback", "gains": []}
    graph = mbrl.build_graph({"nodes": {"policy": policy}}, task)
    state = torch.tensor([[0.3, 0.2], [0.1, 0.0]], dtype=torch.float64)
    trajectory = graph.unroll(state, 2)
    assert trajectory.actions.shape == (2, 2, 0)
    drifted = state[:, 0] + 2 * 0.002 * state[:, 1]  # the time step of MuJoCo
    torch.testing.assert_close(trajectory.states[2, :, 0], drifted)
