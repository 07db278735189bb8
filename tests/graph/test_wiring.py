"""Graph sections: merging, order, defaults, and a message for every mistake."""

import pytest

import mbrl
from mbrl.errors import ConfigError, GraphError
from mbrl.graph import Node, completed_section, parse
from mbrl.graph.nodes import VANILLA
from mbrl.registry import NODES


def names(spec):
    return [node.name for node in spec.nodes]


def test_nothing_means_the_vanilla_graph():
    assert names(parse(None)) == ["observe", "policy", "dynamics", "reward", "terminate"]
    assert parse({}) == parse(VANILLA | {"base": "empty"})


def test_nodes_given_are_merged_over_the_base():
    spec = parse({"nodes": {"policy": {"hidden": [7]}}})
    policy = next(node for node in spec.nodes if node.name == "policy")
    assert policy.options["hidden"] == (7,)
    assert policy.kind == "deterministic_mlp"
    other = parse({"nodes": {"policy": {"kind": "gaussian_mlp", "initial_sd": 0.3}}})
    assert next(n for n in other.nodes if n.name == "policy").options["initial_sd"] == 0.3


def test_nodes_run_in_an_order_in_which_values_exist():
    reversed_nodes = dict(reversed(VANILLA["nodes"].items()))
    spec = parse({"base": "empty", "nodes": reversed_nodes, "carry": VANILLA["carry"]})
    order = names(spec)
    assert order.index("observe") < order.index("policy") < order.index("dynamics")
    assert order.index("dynamics") < order.index("reward")


def test_a_completed_section_says_everything_and_means_the_same():
    section = {"nodes": {"policy": {"hidden": [5]}}}
    complete = completed_section(section)
    assert complete["base"] == "empty"
    assert complete["nodes"]["dynamics"]["method"] == "auto"
    assert parse(complete) == parse(section)
    assert completed_section(complete) == complete


MISTAKES = [
    ({"nods": {}}, "graph.nods", "nodes"),
    ({"base": "vanila"}, "vanila", "'vanilla'"),
    ({"base": ["vanilla"]}, "graph.base", "vanilla"),
    ({"nodes": {"policy": {"kind": "gausian_mlp"}}}, "graph.nodes.policy", "'gaussian_mlp'"),
    ({"nodes": {"extra": {"inputs": ["state"]}}}, "graph.nodes.extra", "kind"),
    ({"nodes": {"extra": "dynamics"}}, "graph.nodes.extra", "mapping"),
    ({"nodes": {"policy": {"hiden": [3]}}}, "graph.nodes.policy.hiden", "'hidden'"),
    ({"nodes": {"policy": {"hidden": "many"}}}, "graph.nodes.policy.hidden", "list"),
    ({"nodes": {"policy": {"inputs": {"observatoin": "state"}}}}, "policy.inputs", "'observation'"),
    ({"nodes": {"policy": {"inputs": ["a", "b"]}}}, "policy.inputs", "ports"),
    ({"nodes": {"policy": {"inputs": [3]}}}, "policy.inputs.observation", "3"),
    ({"nodes": {"policy": {"actuator": [0]}}}, "graph.nodes.policy.actuator", "'actuators'"),
    ({"nodes": {"policy": {"actuators": ["hip"]}}}, "graph.nodes.policy.actuators", "list of int"),
    ({"nodes": {"policy": {"actuators": 0}}}, "graph.nodes.policy.actuators", "list of integers"),
    ({"nodes": {"clock": {"kind": "phase"}}}, "missing key", "graph.nodes.clock.period"),
    ({"nodes": {"hold": {"kind": "hold", "steps": 2.5}}}, "graph.nodes.hold.steps", "an integer"),
    ({"nodes": {"both": {"kind": "sum", "inputs": ["state"], "limit": "clamp"}}},
     "graph.nodes.both.limit", "clip"),
    ({"nodes": {"reward": {"inputs": {"state": "stat"}}}}, "nothing produces 'stat'", "'state'"),
    ({"nodes": {"second": {"kind": "observe"}}}, "graph.nodes.second", "by observe"),
    ({"nodes": {"policy": {"inputs": ["next_state"]}}}, "circle", "graph.carry"),
    ({"nodes": {"policy": {"inputs": ["next_state"]}}},
     "in a circle, policy <- 'next_state' <- dynamics <- 'action' <- policy; hand", "graph.carry"),
    ({"nodes": {"smooth": {"kind": "concat", "inputs": ["observation", "smoothed"],
                           "outputs": ["smoothed"]},
                "policy": {"inputs": ["smoothed"]}}},
     "in a circle, smooth <- 'smoothed' <- smooth; hand", "graph.carry"),
    ({"carry": {"state": "nextstate"}}, "graph.carry.state", "'next_state'"),
    ({"carry": {"m": {"source": "action", "widht": 2}}}, "graph.carry.m.widht", "'width'"),
    ({"carry": {"memory": {"source": "action", "width": "nz"}}}, "graph.carry.memory.width", "nx"),
    ({"carry": {"state": {"source": "next_state", "initial": 3.0}}}, "graph.carry.state", "alone"),
    ({"carry": {"state": {"source": "next_state", "width": 7}}}, "graph.carry.state", "width nx"),
    ({"carry": {"seen": {"source": "observation", "initial": "observe", "width": 99}}},
     "graph.carry.seen.width must be n_obs", "got 99"),
    ({"carry": {"memory": 3}}, "graph.carry.memory", "3"),
    ({"base": "empty"}, "state", "next state"),
    ({"base": "empty", "nodes": {"a": {"kind": "observe"}}, "carry": {"state": "observation"}},
     "'action'", "observation"),
]  # fmt: skip


@pytest.mark.parametrize(("section", "names_what", "says_how"), MISTAKES)
def test_every_mistake_is_one_line_that_names_it(section, names_what, says_how):
    with pytest.raises(ConfigError) as caught:
        parse(section)
    message = str(caught.value)
    assert names_what in message
    assert says_how in message
    assert "\n" not in message


def joined(inputs):
    return {"nodes": {"seen": {"kind": "concat", "inputs": inputs}}}


def test_inputs_of_any_number_are_a_list():
    for inputs in (["state", "action", "state"], {"values": ["state", "action", "state"]}):
        spec = parse(joined(inputs))
        seen = next(node for node in spec.nodes if node.name == "seen")
        assert list(seen.inputs.values()) == ["state", "action", "state"]
        complete = completed_section(joined(inputs))
        assert complete["nodes"]["seen"]["inputs"] == ["state", "action", "state"]
        assert parse(complete) == spec
    for inputs in ("state", ["state"], {"values": "state"}):
        assert parse(joined(inputs)) == parse(joined(["state"]))


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        (None, "seen.inputs must list one value or more as 'values', got None"),
        ([], "seen.inputs must list one value or more as 'values', got []"),
        (7, "seen.inputs must list one value or more as 'values', got 7"),
        ({"values": 7}, "one value or more"),
        ({"value": ["state"]}, "one value or more as 'values'"),
        ({"values": ["state"], "more": "state"}, "no port 'more'"),
        (["state", 7], "seen.inputs.values[1] must name a value, got 7"),
        (["state", "stat"], "nothing produces 'stat'"),
        (["state", "joined"], "circle"),
    ],
)
def test_lists_of_inputs_are_checked(inputs, says):
    with pytest.raises(ConfigError) as caught:
        parse(joined(inputs))
    assert says in str(caught.value)
    assert "graph" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_kind_may_have_other_ports_before_its_list():
    class Gate(Node):
        inputs = {"share": 0, "values": "nu"}
        outputs = {"mixed": "nu"}
        variadic = True

    mbrl.register_node("test_gate")(Gate)
    try:
        wires = {"share": "reward", "values[0]": "action", "values[1]": "action"}
        for inputs in (
            ["reward", "action", "action"],
            {"share": "reward", "values": ["action", "action"]},
        ):
            section = {"nodes": {"gate": {"kind": "test_gate", "inputs": inputs}}}
            spec = parse(section)
            assert next(n for n in spec.nodes if n.name == "gate").inputs == wires
            assert parse(completed_section(section)) == spec
        with pytest.raises(GraphError, match=r"must list one value or more as 'values'"):
            parse({"nodes": {"gate": {"kind": "test_gate", "inputs": ["reward"]}}})
        task = mbrl.make_task("HalfCheetah-v5", threads=1)
        section = {"nodes": {"gate": {"kind": "test_gate", "inputs": ["reward", "state"]}}}
        with pytest.raises(GraphError, match=r"port 'values\[0\]' takes width 6, but 'state'"):
            mbrl.build_graph(section, task)
    finally:
        del NODES._entries["test_gate"]
