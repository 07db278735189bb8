"""Success by construction, and evaluations that count it."""

import copy
import pickle

import gymnasium
import numpy as np
import pytest
import torch

import mbrl
from mbrl.physics import Simulator
from mbrl.tasks import evaluate
from mbrl.tasks.residual import Success
from tests.tasks.residual.test_environment import NAME

TABLE = {"model": "point_mass.xml", "cost": {"a": {"residual": {"kind": "control"}}}}
NEAR = {"residual": {"kind": "joint_position"}, "below": 0.1}


def made(last=0.0, terms=None, steps=10, **changes):
    success = {"terms": terms or {"near": NEAR}, "last": last}
    options = {**TABLE, "max_episode_steps": steps, "success": success, **changes}
    return mbrl.make_task(NAME, threads=1, **options)


def idle(observations):
    return np.zeros((len(observations), 2))


@pytest.mark.parametrize(("at", "wanted"), [(0.05, True), (0.15, False)])
def test_standing_still_within_the_bound_or_beyond_it(at, wanted):
    task = made(last=0.05, reset={"joints": {"x": at}})
    result = evaluate(task, idle, episodes=2, seed=0)
    assert result.successes.tolist() == [wanted, wanted]
    assert result.successes.dtype == bool


@pytest.mark.parametrize("force", [-1.0, 1.0])
def test_all_of_the_last_seconds_count(force):
    """Pushed in from beyond the bound the ball ends within it, pushed out from within beyond it."""
    steps, start = 20, {"reset": {"joints": {"x": 0.1 - 0.03 * force}}}
    env = gymnasium.make(NAME, **TABLE, **start)
    env.reset(seed=0)
    action = np.array([force, 0.0])
    near = [abs(env.step(action)[0][0]) < 0.1 for _ in range(steps)]
    assert len(set(near)) == 2
    found = []
    for last in range(1, steps + 2):
        task = made(last=0.01 * last, steps=steps, **start)
        assert task.success.steps == last
        result = evaluate(task, lambda o: np.tile(action, (len(o), 1)), episodes=1, seed=0)
        assert result.successes[0] == (last <= steps and all(near[-last:]))
        found.append(bool(result.successes[0]))
    assert found[0] == (force < 0)
    assert not found[-1]


def test_success_may_follow_a_recording(tmp_path):
    np.savez(tmp_path / "still.npz", time=[0.0, 0.05], qpos=[[0.0, 0.0], [0.2, 0.0]])
    term = {"residual": {"kind": "track", "recording": str(tmp_path / "still.npz")}, "below": 0.09}
    success = made(terms={"a": term}).success
    state = torch.zeros(3, 4, dtype=torch.float64)
    # At the end of steps 0, 1 and 2 the recording is at 0.04, 0.08 and 0.12.
    assert success.satisfied(state, torch.arange(3)).tolist() == [True, True, False]
    assert success.satisfied(state, 4).tolist() == [False] * 3


@pytest.mark.parametrize("again", [copy.copy, lambda s: pickle.loads(pickle.dumps(s))])
def test_copies(again):
    success = again(made(last=0.03).success)
    assert success.steps == 3
    state = torch.tensor([[0.05, 0, 0, 0], [0.15, 0, 0, 0]])
    assert success.satisfied(state).tolist() == [True, False]


def test_an_entry_above():
    sim = Simulator(made().simulator.model, threads=1)
    state = torch.tensor([[0.2, 0.3, 0, 0], [0.2, -0.3, 0, 0], [0.1, 0.3, 0, 0]])
    term = {"residual": {"kind": "joint_position"}, "above": 0.15}
    assert Success(sim, terms={"a": term}).satisfied(state).tolist() == [True, False, False]
    both = {"residual": {"kind": "joint_position"}, "above": 0.05, "below": 0.25}
    assert Success(sim, terms={"a": both}).satisfied(state).tolist() == [False] * 3
    two = {"a": term, "b": {"residual": {"kind": "joint_position", "joint": "y"}, "below": 0.31}}
    assert Success(sim, terms=two).satisfied(state).tolist() == [True, False, False]
