"""Rows that diverge begin again from rest, and the others as if nothing had happened."""

import numpy as np
import pytest
import torch

import mbrl
from mbrl.errors import DivergenceError
from mbrl.planning import ICEM, ILQR, Plan, Problem, RecedingHorizon, Schedule, TorchModel
from mbrl.planning.restart import plan_or_restart
from tests.planning.gradient_problems import Cliff
from tests.planning.problems import SquaredCost

LIMIT = 1.5


def cliff(horizon=4):
    """One coordinate drawn to 1, and NaN past 1.5."""
    one = torch.ones(1, dtype=torch.float64)
    return Problem(
        TorchModel(Cliff(LIMIT), 1), SquaredCost(one, 0.01 * one, one), -one, one, horizon
    )


def column(*values):
    return torch.tensor(values, dtype=torch.float64)[:, None]


def forward(rows):
    """Full steps of 0.5, over the cliff from 0 on in the fourth."""
    return torch.ones(4, rows, 1, dtype=torch.float64)


def same(one: Plan, other: Plan) -> None:
    for a, b in zip(one[:4], other[:4], strict=True):
        assert torch.equal(a, b)
    assert one.memory.keys() == other.memory.keys()
    assert all(torch.equal(one.memory[name], other.memory[name]) for name in one.memory)


def generator():
    return torch.Generator().manual_seed(0)


def test_the_rows_that_diverge_begin_again_and_the_others_go_on():
    problem, planner = cliff(), ILQR()
    state, start = column(-0.6, 0.3, -1.0), forward(3)  # the second reaches 2.3
    memory = {
        "regularization": column(0.5, 0.7, 0.0)[None],
        "growth": column(2.0, 4.0, 1.0)[None],
    }
    plan, again = plan_or_restart(
        planner, problem, state, start, generator=generator(), memory=memory, iterations=1
    )
    assert again.tolist() == [1]
    others = torch.tensor([0, 2])
    kept = {name: series[:, others] for name, series in memory.items()}
    same(
        plan.rows(others),
        planner.plan(problem, state[others], start[:, others], memory=kept, iterations=1),
    )
    same(plan.rows(again), planner.plan(problem, state[again], iterations=1))


def test_without_a_divergence_it_is_the_planner():
    problem, planner = cliff(), ICEM(samples=12, elites=3)
    state, start = column(-0.6, -1.0), 0.5 * forward(2)
    plan, again = plan_or_restart(planner, problem, state, start, generator=generator())
    assert not len(again)
    assert plan.memory["elites"].shape == (4, 3, 2, 1)
    expected = planner.plan(problem, state, start, generator=generator())
    assert torch.equal(plan.actions, expected.actions)
    assert torch.equal(plan.memory["elites"], expected.memory["elites"])


def test_rows_that_diverge_from_rest_are_named():
    with pytest.raises(DivergenceError) as caught:
        plan_or_restart(
            ILQR(), cliff(), column(0.0, 2.0, -1.0, 3.0), 0 * forward(4), generator=generator()
        )
    assert caught.value.rows == (1, 3)


class Halting(Cliff):
    """Raises instead of being NaN, by the row; its Jacobians do so past 1 already."""

    def forward(self, state, action):
        following = state + 0.5 * action
        limit = 1.0 if torch.is_grad_enabled() else self.cliff
        rows = (following.abs() > limit).any(-1).nonzero()[:, 0].tolist()
        if rows:
            raise DivergenceError(f"rows {rows}", rows)
        return following


def test_rows_that_cannot_be_linearised_are_named_by_their_place_in_the_batch():
    one = torch.ones(1, dtype=torch.float64)
    model = TorchModel(Halting(LIMIT), 1)
    problem = Problem(model, SquaredCost(one, 0.01 * one, one), -one, one, 4)
    state = column(-1.0, -0.7, -0.9)  # after four steps at 1, 1.3 and 1.1
    plan, again = plan_or_restart(
        ILQR(), problem, state, forward(3), generator=generator(), iterations=1
    )
    assert again.tolist() == [1, 2]
    same(plan.rows(again), ILQR().plan(problem, state[again], iterations=1))
    # Rows that converge are no longer linearised: what is named is not counted among the rest.
    search = ILQR().begin(problem, column(1.0, -0.7), 0 * forward(2), generator())
    search.iterate()
    search._actions = torch.cat([search._actions[:, :1], forward(1)], dim=1)
    search._states = problem.rollout(column(1.0, -0.7), search._actions[:, None])[0][:, 0]
    search._done, search._fresh = torch.tensor([True, False]), torch.tensor([False, True])
    with pytest.raises(DivergenceError) as caught:
        search.iterate()
    assert caught.value.rows == (1,)


def test_a_policy_counts_plans_that_were_begun_again():
    problem = cliff()
    policy = RecedingHorizon(problem, ILQR(), schedule=Schedule(every=1), feedback=False)
    policy.act(column(-1.0, -0.6, -1.0).numpy(), 0)
    assert policy.measured()["plan_restarts"] == 0.0
    # Pushed to where what is left of its plan goes over the cliff.
    pushed = column(-0.5, 1.4, 1.4).numpy()
    warm = policy.plan.shifted(1)
    assert policy.act(pushed, 1).shape == (3, 1)
    assert policy.measured()["plan_restarts"] == 1.0
    alone = ILQR().plan(
        problem.at(1),
        column(-0.5),
        warm.actions[:, :1],
        memory={name: series[:, :1] for name, series in warm.memory.items()},
        iterations=1,
    )
    same(policy.plan.rows(torch.tensor([0])), alone)


def test_a_planning_node_begins_again_as_well(monkeypatch):
    task = mbrl.make_task("InvertedPendulum-v5", threads=1)
    cost = {"upright": {"residual": {"kind": "joint_position", "joint": "hinge"}}}
    graph = mbrl.build_graph(
        {
            "nodes": {
                "observe": None,
                "policy": None,
                "plan": {"kind": "mpc", "horizon": 3, "cost": cost},
            },
            "carry": {"plan": {"source": "next_plan", "width": 3}},
        },
        task,
    )
    node, begin = graph.nodes["plan"], ILQR.begin
    state = task.reset(2, torch.Generator().manual_seed(0))
    expected = graph.unroll(state, 2)
    asked = []

    def refusing(self, problem, state, actions, *rest):
        asked.append(actions[:, :, 0].abs().amax(0).tolist())
        if len(state) == 2 and actions[:, 1].any():
            raise DivergenceError("row 1", [1])
        return begin(self, problem, state, actions, *rest)

    monkeypatch.setattr(ILQR, "begin", refusing)
    found = graph.unroll(state, 2)
    assert len(asked) == 4  # at rest, both from the plan before, row 0 from it, row 1 from rest
    assert asked[2] == asked[1][:1]
    assert asked[3] == [0.0]
    assert torch.equal(found.actions[:, 0], expected.actions[:, 0])
    fresh = ILQR().plan(node.problem.at(1), found.states[1, 1:], iterations=1)
    np.testing.assert_array_equal(found.actions[1, 1], fresh.actions[0, 0])
