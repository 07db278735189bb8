"""Widths that follow from each other, and one line for those that do not fit."""

import pytest
import torch

import mbrl
from mbrl.errors import ConfigError, GraphError
from mbrl.graph import Node
from mbrl.registry import NODES


@pytest.fixture(scope="module")
def cheetah():
    return mbrl.make_task("HalfCheetah-v5", threads=1)


@pytest.fixture
def register():
    """Register kinds for one test."""
    names = []

    def add(name, kind):
        mbrl.register_node(name)(kind)
        names.append(name)

    yield add
    for name in names:
        del NODES._entries[name]


MLP = {"kind": "deterministic_mlp"}
FEEDBACK = {"kind": "linear_feedback", "outputs": ["action"]}


def nodes(**entries):
    return {"nodes": entries}


def test_widths_are_checked_against_the_task(cheetah):
    with pytest.raises(GraphError, match=r"graph\.nodes\.reward: port 'state' takes width 18, but"):
        mbrl.build_graph(nodes(reward={"inputs": {"state": "observation"}}), cheetah)
    with pytest.raises(GraphError, match=r"graph\.carry\.memory: its width is 5, but 'action'"):
        mbrl.build_graph({"carry": {"memory": {"source": "action", "width": 5}}}, cheetah)


@pytest.mark.parametrize(
    ("source", "width"),
    [("next_state", 18), ("reward", 0), ("observation", 17), ("action", 6), ("both", 23)],
)
def test_the_width_of_a_carry_is_that_of_its_source(cheetah, source, width):
    section = {
        **nodes(
            both={"kind": "concat", "inputs": ["observation", "action"], "outputs": ["both"]},
            again={"kind": "concat", "inputs": ["memory"], "outputs": ["again"]},
        ),
        "carry": {"memory": source, "later": "memory"},
    }
    graph = mbrl.build_graph(section, cheetah)
    assert graph.widths["memory"] == graph.widths["later"] == width
    assert graph.widths["again"] == max(width, 1)


def test_widths_follow_through_a_chain_of_carries(cheetah):
    section = {
        **nodes(last={"kind": "concat", "inputs": ["reward", "action"], "outputs": ["last"]}),
        "carry": {"three": "two", "two": "one", "one": "last"},
    }
    graph = mbrl.build_graph(section, cheetah)
    assert [graph.widths[name] for name in ("one", "two", "three")] == [7, 7, 7]


def test_a_width_that_follows_from_nothing_is_asked_for(cheetah):
    section = {
        **nodes(grow={"kind": "concat", "inputs": ["memory"], "outputs": ["grown"]}),
        "carry": {"memory": "grown"},
    }
    with pytest.raises(GraphError) as caught:
        mbrl.build_graph(section, cheetah)
    assert str(caught.value) == (
        "graph.carry.memory: say its width (a number, nx, nu or n_obs), which does not follow "
        "from 'grown': e.g. memory: {source: grown, width: 8}"
    )
    section["carry"]["memory"] = {"source": "grown", "width": 8}
    assert mbrl.build_graph(section, cheetah).widths["grown"] == 8


def test_carries_that_only_carry_each_other_have_no_width(cheetah):
    section = {"carry": {"left": "right", "right": "left"}}
    with pytest.raises(GraphError, match=r"graph\.carry\.left: say its width.*from 'right'"):
        mbrl.build_graph(section, cheetah)
    section["carry"]["left"] = {"source": "right", "width": 2}
    widths = mbrl.build_graph(section, cheetah).widths
    assert widths["left"] == widths["right"] == 2


def test_a_node_with_a_memory_says_its_width_itself(cheetah, register):
    class Recall(Node):
        inputs = {"memory": "next_memory", "observation": None}
        outputs = {"next_memory": None, "seen": "observation"}

        def __init__(self, place, *, size: int):
            super().__init__(place)
            self.size = size
            assert "memory" not in place.widths

        def width(self, port):
            return self.size if port == "next_memory" else super().width(port)

        def forward(self, step, memory, observation):
            return memory + 1, observation

    register("test_recall", Recall)
    section = {
        **nodes(recall={"kind": "test_recall", "size": 3}, policy={**MLP, "inputs": ["seen"]}),
        "carry": {"memory": "next_memory"},
    }
    graph = mbrl.build_graph(section, cheetah)
    assert (graph.widths["memory"], graph.widths["seen"]) == (3, 17)
    state = cheetah.reset(2, torch.Generator().manual_seed(0))
    trajectory = graph.unroll(state, 3, record=["memory"])
    assert trajectory.values["memory"][:, 1].tolist() == [[0.0] * 3, [1.0] * 3, [2.0] * 3]
    section["carry"] = {"memory": {"source": "next_memory", "width": 4}}
    with pytest.raises(
        GraphError, match=r"carry\.memory: its width is 4, but 'next_memory' has width 3"
    ):
        mbrl.build_graph(section, cheetah)


def test_weights_do_not_depend_on_what_else_is_declared(cheetah):
    """Declaring a width that follows anyway changes nothing, weights included."""
    section = {
        **nodes(
            seen={"kind": "concat", "inputs": ["observation", "previous"]},
            policy={**MLP, "inputs": ["joined"]},
        ),
        "carry": {"previous": "action"},
    }
    one = mbrl.build_graph(section, cheetah)
    section["carry"] = {"previous": {"source": "action", "width": "nu"}}
    other = mbrl.build_graph(section, cheetah)
    assert one.widths == other.widths
    for a, b in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_declared_width_without_meaning_is_named(cheetah, register):
    class Odd(Node):
        inputs = {"state": "nobs"}
        outputs = {"thing": 1}

    register("test_odd", Odd)
    with pytest.raises(
        GraphError, match=r"odd: Odd declares the width of 'state' as 'nobs'.*n_obs"
    ):
        mbrl.build_graph(nodes(odd={"kind": "test_odd"}), cheetah)


def leg(*actuators):
    return {**MLP, "actuators": list(actuators)}


def legs(left, right, **others):
    return nodes(
        left={**left, "outputs": ["left"]},
        right={**right, "outputs": ["right"]},
        policy={"kind": "assemble", "inputs": ["left", "right"]},
        **others,
    )


def added(**options):
    return nodes(
        policy={**MLP, "outputs": ["one"]},
        part={**leg(0, 1), "outputs": ["two"]},
        rest={**leg(2, 3), "outputs": ["three"]},
        total={"kind": "sum", "outputs": ["action"], **options},
    )


MISTAKES = [
    (legs(leg(0, 1, 2), leg(2, 3, 4, 5)),
     "graph.nodes.policy: actuator 2 is driven twice, by left and by right", "'actuators'"),
    (legs(MLP, leg(2)), "graph.nodes.policy: actuator 2 is driven twice", "by left and by right"),
    (legs(leg(0, 1, 2), leg(4)), "graph.nodes.policy: nothing drives actuator 3, 5", "left, right"),
    (legs(leg(0, 1, 6), leg(2)), "graph.nodes.left.actuators: there is no actuator 6", "0 to 5"),
    (legs(leg(-1), leg(2)), "graph.nodes.left.actuators: there is no actuator -1", "0 to 5"),
    (legs(leg(0, 0), leg(2)), "graph.nodes.left.actuators lists actuator 0 twice", "[0, 0]"),
    (legs(leg(), leg(2)), "graph.nodes.left.actuators must list one actuator or more", "0 to 5"),
    (nodes(policy={"kind": "assemble", "inputs": ["observation"]}),
     "graph.nodes.policy: 'observation' of observe is not known to be an action", "policies"),
    (nodes(policy=leg(1, 0, 2, 3, 4, 5)),
     "graph.nodes.policy: 'action' has the actuators in order, [0, 1, 2, 3, 4, 5], and what it",
     "makes is for [1, 0, 2, 3, 4, 5]; 'assemble'"),
    (nodes(policy=leg(0, 1)), "graph.nodes.dynamics: port 'action' takes width 6", "width 2"),
    (added(inputs=["one", "two"]), "graph.nodes.total: it adds values of one width",
     "'one' has width 6 and 'two' has width 2"),
    (added(inputs=["two", "three"]), "graph.nodes.total: it adds actions of the same actuators",
     "'two' drives 0, 1 and 'three' drives 2, 3"),
    (added(inputs=["two", "two"]), "graph.nodes.total: 'action' must have width 6", "width 2"),
    (added(inputs=["one", "one"], weights=[1.0]), "graph.nodes.total.weights", "(2)"),
    (added(inputs=["observation"], limit="clip"), "graph.nodes.total.limit", "observation"),
    (nodes(policy={**FEEDBACK, "gains": [[1.0] * 17] * 5}),
     "graph.nodes.policy.gains must hold 6 rows (actuators) of 17 numbers", "'observation'"),
    (nodes(policy={**FEEDBACK, "gains": [[1.0] * 17] * 5 + [[1.0]]}),
     "graph.nodes.policy.gains", "got rows of [17, 17, 17, 17, 17, 1]"),
    (nodes(policy={**FEEDBACK, "gains": [[1.0] * 17] * 6, "actuators": [0, 2]}),
     "graph.nodes.policy.gains must hold 2 rows", "17"),
    (nodes(policy={**FEEDBACK, "gains": [[1.0] * 17] * 6, "reference": [0.0]}),
     "graph.nodes.policy.reference must hold 17 numbers", "[0.0]"),
    (nodes(policy={**FEEDBACK, "gains": [[1.0] * 17] * 6, "offset": [0.0] * 17}),
     "graph.nodes.policy.offset must hold 6 numbers", "[0.0"),
    (nodes(eye={"kind": "select", "inputs": ["observation"], "indices": [3, 17]}),
     "graph.nodes.eye.indices: 'observation' has no entry 17", "0 to 16"),
    (nodes(eye={"kind": "select", "inputs": ["observation"], "indices": [-1]}),
     "graph.nodes.eye.indices: 'observation' has no entry -1", "0 to 16"),
    (nodes(eye={"kind": "select", "inputs": ["observation"], "indices": []}),
     "graph.nodes.eye.indices must list one index", "[]"),
    (nodes(eye={"kind": "select", "inputs": ["reward"], "indices": [0]}),
     "graph.nodes.eye: 'reward' is a number", "no entries"),
    (nodes(clock={"kind": "phase", "period": 0.0}), "graph.nodes.clock.period", "positive"),
    (nodes(clock={"kind": "phase", "period": 2.0, "harmonics": 0}),
     "graph.nodes.clock.harmonics", "positive"),
    (nodes(hold={"kind": "hold", "steps": 0, "inputs": ["state", "state"]}),
     "graph.nodes.hold.steps", "positive"),
    (nodes(hold={"kind": "hold", "steps": 2, "inputs": ["state", "observation"]}),
     "graph.nodes.hold: port 'previous' takes width 18", "'observation' has width 17"),
    (nodes(past={"kind": "history", "steps": 2, "inputs": ["observation", "action"]}),
     "graph.nodes.past: port 'past' takes width 34", "'action' has width 6"),
    (nodes(past={"kind": "history", "steps": -1, "inputs": ["state", "state"]}),
     "graph.nodes.past.steps", "positive"),
    (nodes(past={"kind": "history", "steps": 2, "inputs": ["state", "state"]}),
     "graph.nodes.past: port 'past' takes width 36", "'state' has width 18"),
    (nodes(odd={**MLP, "inputs": ["reward"], "outputs": ["odd"]}),
     "graph.nodes.odd: 'reward' is a number", "'concat'"),
]  # fmt: skip


@pytest.mark.parametrize(("section", "names_what", "says_how"), MISTAKES)
def test_every_mistake_is_one_line_that_names_it(cheetah, section, names_what, says_how):
    with pytest.raises(ConfigError) as caught:
        mbrl.build_graph(section, cheetah)
    message = str(caught.value)
    assert names_what in message
    assert says_how in message
    assert "\n" not in message
