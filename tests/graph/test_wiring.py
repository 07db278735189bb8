"""Graph sections: merging, order, defaults, and a message for every mistake."""

import pytest

import mbrl
from mbrl.errors import ConfigError, GraphError
from mbrl.graph import completed_section, parse
from mbrl.graph.nodes import VANILLA


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
    ({"nodes": {"reward": {"inputs": {"state": "stat"}}}}, "nothing produces 'stat'", "'state'"),
    ({"nodes": {"second": {"kind": "observe"}}}, "graph.nodes.second", "by observe"),
    ({"nodes": {"policy": {"inputs": ["next_state"]}}}, "circle", "graph.carry"),
    ({"carry": {"state": "nextstate"}}, "graph.carry.state", "'next_state'"),
    ({"carry": {"m": {"source": "action", "widht": 2}}}, "graph.carry.m.widht", "'width'"),
    ({"carry": {"memory": {"source": "action", "width": "nz"}}}, "graph.carry.memory.width", "nx"),
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


def test_widths_are_checked_against_the_task():
    task = mbrl.make_task("HalfCheetah-v5", threads=1)
    with pytest.raises(GraphError, match=r"graph\.nodes\.reward: port 'state' takes width 18, but"):
        mbrl.build_graph({"nodes": {"reward": {"inputs": {"state": "observation"}}}}, task)
    with pytest.raises(GraphError, match=r"graph\.carry\.memory: its width is 5, but 'action'"):
        mbrl.build_graph({"carry": {"memory": {"source": "action", "width": 5}}}, task)
    with pytest.raises(GraphError, match=r"graph\.carry\.memory: say its width"):
        mbrl.build_graph({"carry": {"memory": {"source": "next_state"}}}, task)
