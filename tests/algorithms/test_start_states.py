"""Where rollouts begin."""

import pytest
import torch

from mbrl.algorithms import PolicyGradient, Setting
from mbrl.algorithms.start_states import ReplayStart, ResetStart
from mbrl.errors import ArgumentError
from mbrl.types import Trajectory
from tests.algorithms.linear import CLOSED, OPEN, TIMELESS, LinearQuadratic


class Goals(LinearQuadratic):
    """Contexts that say which start they belong to."""

    context_size = 1

    def start(self, batch, generator):
        start = super().start(batch, generator)
        return start._replace(context=start.state[:, :1].clone())


def trajectory(states, alive, ended=None):
    states, alive = torch.tensor(states, dtype=torch.float64), torch.tensor(alive)
    values = {} if ended is None else {"terminated": torch.tensor(ended)}
    empty = torch.zeros(*alive.shape, 1)
    return Trajectory(states[..., None].expand(-1, -1, 2), empty, empty[..., 0], alive, values)


def remembered(start, context):
    start.note(*context)
    state = start.state_dict()["replay"]
    return state["states"][:, 0].tolist(), state["contexts"][:, 0].tolist()


def test_states_are_remembered_while_their_row_runs_with_their_context():
    # Row 0 runs to the end; row 1 ends on arriving at 11; row 2 with the last step.
    rollouts = trajectory(
        [[0, 10, 20], [1, 11, 21], [2, 11, 22]],
        [[True, True, True], [True, False, True]],
        [[False, True, False], [False, True, True]],
    )
    context = torch.tensor([[0.5], [1.5], [2.5]], dtype=torch.float64)
    states, contexts = remembered(ReplayStart(Goals()), (rollouts, context))
    assert states == [0, 10, 20, 1, 21, 2]
    assert contexts == [0.5, 1.5, 2.5, 0.5, 2.5, 0.5]


def test_without_terminations_the_last_state_is_remembered_too():
    rollouts = trajectory([[0, 10], [1, 11]], [[True, True]])
    context = torch.zeros(2, 0, dtype=torch.float64)
    start = ReplayStart(LinearQuadratic(), size=3)
    start.note(rollouts, context)
    assert start.state_dict()["replay"]["states"][:, 0].sort()[0].tolist() == [1, 10, 11]


@pytest.mark.parametrize(("fresh", "count"), [(0.0, 0), (0.25, 3), (0.3, 3), (0.31, 4), (1.0, 10)])
def test_the_share_of_fresh_states(fresh, count):
    task, generator = Goals(), torch.Generator().manual_seed(0)
    start = ReplayStart(task, fresh=fresh)
    first = start.draw(10, generator)
    assert torch.equal(first.state, task.start(10, torch.Generator().manual_seed(0)).state)
    start.note(trajectory([[50.0] * 10, [60.0] * 10], [[True] * 10]), torch.full((10, 1), 7.0))
    second = start.draw(10, generator)
    assert second.state.shape == (10, 2)
    old = second.state[:, 0] >= 50
    assert old.tolist() == [False] * count + [True] * (10 - count)
    assert bool((second.context[old] == 7).all())
    assert torch.equal(second.context[~old], second.state[~old][:, :1])


def make(start=None, policy=TIMELESS, task=None, **options):
    setting = Setting(
        task or LinearQuadratic(),
        {"nodes": {"policy": policy}},
        torch.Generator().manual_seed(0),
    )
    return PolicyGradient(
        setting, **{"horizon": 4, "batch": 6, "start": start or {"kind": "reset"}, **options}
    )


def test_rollouts_begin_where_earlier_ones_were():
    algorithm = make({"kind": "replay", "size": 20, "fresh": 0.5})
    drawn, visited = [], []
    original = algorithm._estimator.estimate

    def spied(problem):
        drawn.append(problem.start.state)
        estimate = original(problem)
        visited.append(estimate.trajectory.states.detach())
        return estimate

    algorithm._estimator.estimate = spied
    for _ in range(4):
        algorithm.update()
    for i in range(1, 4):
        recent = torch.cat([v.flatten(0, 1) for v in visited[:i]])[-20:]
        for row in drawn[i][3:]:
            assert bool((recent == row).all(1).any())
        for row in drawn[i][:3]:
            assert not bool((recent == row).all(1).any())


def test_states_that_end_an_episode_are_not_begun_from():
    task = LinearQuadratic(spread=0.0, limit=0.86)  # all begin above it, at 1
    algorithm = make({"kind": "replay", "fresh": 1.0}, task=task, horizon=1)
    ended = 0
    for _ in range(5):
        measured = algorithm.update()
        assert measured["env_steps"] == 6
        states = algorithm._start.state_dict()["replay"]["states"][:, 0]
        ended = 12 * (algorithm._done) - len(states)
        assert bool(((states <= 0.86) | (states == 1.0)).all())
    assert 0 < ended < 30


def test_mistakes_are_named():
    class Timed(LinearQuadratic):
        uses_time = True

    for options, message in (
        ({"size": 0}, "algorithm.start.size must be at least 1, got 0"),
        ({"fresh": 1.5}, r"algorithm.start.fresh must lie in \[0, 1\], got 1.5"),
    ):
        with pytest.raises(ArgumentError, match=message):
            make({"kind": "replay", **options})
    with pytest.raises(
        ArgumentError, match="replay does not fit linear, which depends on the step"
    ):
        make({"kind": "replay"}, task=Timed())
    for policy in (OPEN, CLOSED):
        with pytest.raises(ArgumentError, match=r"does not fit graph.nodes.policy, which depends"):
            make({"kind": "replay"}, policy=policy)
    assert isinstance(make(task=Timed())._start, ResetStart)
