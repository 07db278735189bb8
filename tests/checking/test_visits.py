"""Which states and controls a check looks at."""

import numpy as np
import pytest
import torch

import mbrl
from mbrl.checking import visits
from mbrl.errors import TaskError


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def graph_of(name, section=None, **kwargs):
    return mbrl.build_graph(section, mbrl.make_task(name, threads=1, **kwargs))


@pytest.fixture(scope="module")
def pendulum():
    return mbrl.make_task("InvertedPendulum-v5", threads=1)


def fixed(offset):
    """A policy that asks for one control, whatever it sees."""
    options = {"kind": "linear_feedback", "gains": [[0.0] * 4], "offset": [offset], "limit": None}
    return {"nodes": {"policy": options}}


def test_half_are_the_policys(pendulum):
    met = visits(mbrl.build_graph(fixed(0.25), pendulum), 21, seeded())
    assert (met.states.shape, met.ctrls.shape, met.by_policy) == ((21, 4), (21, 1), 10)
    assert met.known
    assert (met.ctrls[:10] == 0.25).all()
    others = met.ctrls[10:]
    assert len(np.unique(others)) == 11
    assert (np.abs(others) <= 3.0).all()
    assert np.abs(others).max() > 1.0  # they reach through the range [-3, 3]


def test_states_are_those_of_running_episodes(pendulum):
    # An episode of the pendulum ends past 0.2 rad; no step is taken from there.
    met = visits(mbrl.build_graph(fixed(3.0), pendulum), 40, seeded())
    assert (np.abs(met.states[:, 1]) <= 0.2).all()
    assert np.abs(met.states[:, 1]).max() > 0.1
    assert len(np.unique(met.states, axis=0)) == len(met.states)


def test_short_episodes_give_fewer(pendulum):
    # Eight episodes; under full thrust each is over after some ten steps.
    met = visits(mbrl.build_graph(fixed(3.0), pendulum), 2000, seeded())
    assert 8 <= met.by_policy < 8 * 20
    assert met.by_policy < len(met.states) < 2000


def test_the_same_seed_gives_the_same(pendulum):
    graph = mbrl.build_graph(None, pendulum)
    first, again, other = (visits(graph, 8, seeded(seed)) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.states, again.states)
    np.testing.assert_array_equal(first.ctrls, again.ctrls)
    assert (first.states != other.states).any()


def test_wrapped_actions_are_turned_into_controls(rescaled):
    options = {"kind": "linear_feedback", "gains": [[0.0] * 4], "offset": [0.5], "limit": None}
    met = visits(graph_of(rescaled, {"nodes": {"policy": options}}), 10, seeded())
    np.testing.assert_allclose(met.ctrls[: met.by_policy], 1.5)  # half of the range [-3, 3]


def test_hidden_controls_are_drawn_within_the_models_limits(own_controls):
    met = visits(graph_of(own_controls, fixed(50.0)), 20, seeded())
    assert not met.known
    assert met.ctrls.shape == (20, 1)
    assert (np.abs(met.ctrls) <= 3.0).all()
    assert len(np.unique(met.ctrls)) == 20


def test_episodes_with_goals():
    met = visits(graph_of("mbrl/Reach-v0"), 12, seeded())
    assert met.states.shape == (12, met.states.shape[1])
    assert met.known


def test_a_task_without_a_simulator_is_refused(pendulum):
    class Bare(type(pendulum)):
        def __init__(self):
            vars(self).update(vars(pendulum))
            self.name, self.simulator = "bare", None

    graph = mbrl.build_graph(None, pendulum)
    graph.task = Bare()
    with pytest.raises(TaskError, match=r"^bare has no MuJoCo simulator"):
        visits(graph, 4, seeded())
