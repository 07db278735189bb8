"""MPC against closed forms, and against the plans it is made of."""

import numpy as np
import pytest
import torch

from mbrl.errors import ArgumentError, DivergenceError
from mbrl.planning import (
    CEM,
    ILQR,
    Plan,
    Planner,
    PredictiveSampling,
    Problem,
    RecedingHorizon,
    Schedule,
    Search,
    TorchModel,
)
from mbrl.types import Start
from tests.planning.lq import problem_of, random_weights, riccati
from tests.planning.pendulum import HANGING, pendulum
from tests.planning.problems import SquaredCost


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def begun(states):
    return Start(states, states.new_empty(len(states), 0))


def run(policy, model, x, steps):
    """Return states and actions [steps, B, ...] of the policy in the model itself."""
    states, actions = [x], []
    for t in range(steps):
        u = torch.from_numpy(policy.act(states[-1].numpy(), t))
        actions.append(u)
        states.append(model.rollout(states[-1], u[None], policy.problem.scene)[-1])
    return torch.stack(states), torch.stack(actions)


def test_on_a_linear_quadratic_problem_it_is_riccatis_first_gain():
    w, horizon = random_weights(1, 4, 2), 15
    problem, x0 = problem_of(w, horizon), normal(1, 3, 4)
    policy = RecedingHorizon(problem, ILQR(), schedule=Schedule(first=1))
    states, actions = run(policy, problem.model, x0, 10)
    first = riccati(w, horizon)[0][0]
    torch.testing.assert_close(actions, states[:-1] @ first.T, rtol=1e-8, atol=1e-9)


def test_between_plans_the_gains_answer_to_what_is_measured():
    w, horizon = random_weights(2, 3, 1), 12
    problem, x0 = problem_of(w, horizon), normal(2, 2, 3)
    policy = RecedingHorizon(problem, ILQR(), schedule=Schedule(every=5, first=1))
    disturbed = x0
    gains = riccati(w, horizon)[0]
    for t in range(10):
        u = policy.act(disturbed.numpy(), t)
        expected = disturbed @ gains[t % 5].T  # optimal feedback, wherever the state is
        np.testing.assert_allclose(u, expected.numpy(), rtol=1e-7, atol=1e-8)
        noise = 0.3 * normal(10 + t, 2, 3)
        disturbed = disturbed @ w.a.T + torch.from_numpy(u) @ w.b.T + noise
    assert policy.measured()["plans"] == 2
    blind = RecedingHorizon(problem, ILQR(), schedule=Schedule(every=5), feedback=False)
    open_loop = [blind.act(x.numpy(), t) for t, x in enumerate((x0, x0 + 1))]
    np.testing.assert_array_equal(open_loop[1], blind.plan.actions[1].numpy())


def test_swings_the_pendulum_up_and_holds_it():
    problem = pendulum(50)
    policy = RecedingHorizon(problem, ILQR(iterations=50), schedule=Schedule(iterations=2))
    x = HANGING.clone()
    x[0, 0] -= 0.05  # exactly hanging is stationary
    states, actions = run(policy, problem.model, x, 200)
    assert (states[-20:, :, 0].cos() > 0.99).all()
    assert actions.abs().max() <= 2.0


def test_same_measurements_same_actions_bit_for_bit():
    problem = pendulum(30)

    def actions():
        policy = RecedingHorizon(problem, ILQR(iterations=5))
        return run(policy, problem.model, HANGING, 5)[1]

    assert torch.equal(actions(), actions())


def test_reset_begins_anew():
    problem = pendulum(30)
    policy = RecedingHorizon(problem, ILQR(iterations=5))
    once = run(policy, problem.model, HANGING, 4)[1]
    policy.reset()
    assert torch.equal(run(policy, problem.model, HANGING, 4)[1], once)


@pytest.mark.parametrize("every", [1, 4, 30])
def test_other_episodes_begin_anew_without_a_reset(every):
    problem, planner = pendulum(30), PredictiveSampling(samples=8, iterations=2)
    policy = RecedingHorizon(problem, planner, schedule=Schedule(every=every))
    once = run(policy, problem.model, HANGING, 5)[1]
    assert torch.equal(run(policy, problem.model, HANGING, 5)[1], once)
    policy.act(HANGING.numpy(), 0)  # of an episode that had a single step
    assert torch.equal(run(policy, problem.model, HANGING, 5)[1], once)
    fresh = RecedingHorizon(problem, planner, schedule=Schedule(every=every))
    expected = fresh.act(HANGING.numpy(), 40)
    policy.act(HANGING.numpy(), 9)
    np.testing.assert_array_equal(policy.act(HANGING.numpy(), 40), expected)


def test_goes_on_bit_for_bit_from_its_state():
    problem = pendulum(30)
    policy = RecedingHorizon(problem, ILQR(iterations=5), schedule=Schedule(every=3))
    states, _ = run(policy, problem.model, HANGING, 5)
    twin = RecedingHorizon(problem, ILQR(iterations=5), schedule=Schedule(every=3))
    twin.load_state_dict(policy.state_dict())
    x = states[-1].numpy()
    np.testing.assert_array_equal(policy.act(x, 5), twin.act(x, 5))
    np.testing.assert_array_equal(policy.act(x + 0.1, 6), twin.act(x + 0.1, 6))


def test_rows_that_ended_are_left_out():
    problem = pendulum(30)
    both = RecedingHorizon(problem, ILQR(iterations=5))
    x = HANGING.numpy()
    both.act(x, 0)
    action = both.act(x, 1, running=np.array([True, False, True]))
    assert action[1] == 0.0
    alone = RecedingHorizon(problem, ILQR(iterations=5))
    alone.act(x[[0, 2]], 0)
    np.testing.assert_allclose(alone.act(x[[0, 2]], 1), action[[0, 2]], atol=1e-9)
    assert both.plan.actions.shape == (30, 2, 1)


class Noted(Planner):
    """Plans nothing, and notes what it is asked."""

    iterations = 7

    def __init__(self):
        self.asked = []

    def begin(self, problem, state, actions, generator, memory=()):
        planner = self

        class Still(Search):
            def iterate(self):
                planner.asked[-1]["iterations"] += 1

            @property
            def plan(self):
                memory = {"elites": actions[:, None].repeat(1, 4, 1, 1)}
                states = problem.model.rollout(state, actions, problem.scene)
                return Plan(actions, states, problem.costs(states, actions), None, memory)

        self.asked.append(
            {"actions": actions, "memory": memory, "iterations": 0, "start": problem.scene.start}
        )
        return Still(problem, state)


def begun_with(plan, planner, **options):
    """The second plan, after the first one was ``plan``."""
    problem = pendulum(6)
    policy = RecedingHorizon(problem, planner, schedule=Schedule(every=2, iterations=3), **options)
    made = Plan(plan, torch.zeros(7, 1, 2).double(), torch.zeros(1).double())
    policy.prepare(made, begun(torch.zeros(1, 2).double()))
    for t in range(3):
        policy.act(HANGING[:1].numpy(), t)
    return planner.asked


RAMP = torch.arange(6, dtype=torch.float64)[:, None, None] / 10


def test_plans_are_shifted_by_the_time_that_passed():
    first, second = begun_with(RAMP, Noted())
    assert torch.equal(first["actions"], RAMP)
    assert second["actions"][:, 0, 0].tolist() == [0.2, 0.3, 0.4, 0.5, 0.5, 0.5]
    elites = second["memory"]["elites"]
    assert torch.equal(elites, second["actions"][:, None].repeat(1, 4, 1, 1))
    assert (first["iterations"], second["iterations"]) == (7, 3)
    assert (first["start"], second["start"]) == (0, 2)


def test_the_tail_may_rest_or_be_a_policys():
    second = begun_with(RAMP, Noted(), tail="rest")[1]
    assert second["actions"][:, 0, 0].tolist() == [0.2, 0.3, 0.4, 0.5, 0.0, 0.0]
    seen = []

    def policy(states, t, context):
        seen.append((t, states))
        return torch.full((len(states), 1), 0.01 * t).double()

    second = begun_with(RAMP, Noted(), policy=policy)[1]
    torch.testing.assert_close(
        second["actions"][:, 0, 0], torch.tensor([0.2, 0.3, 0.4, 0.5, 0.06, 0.07]).double()
    )
    assert [t for t, _ in seen] == [6, 7]
    problem = pendulum(6)
    end = problem.model.rollout(HANGING[:1], RAMP[2:], problem.scene)[-1]
    torch.testing.assert_close(seen[0][1], end)


def test_a_prepared_plan_is_followed_where_it_was_made_for():
    problem = pendulum(20)
    plan = ILQR(iterations=5).plan(problem, HANGING, torch.full((20, 3, 1), 0.1).double())
    planner = Noted()
    policy = RecedingHorizon(problem, planner, schedule=Schedule(every=20), feedback=False)
    policy.prepare(plan, begun(HANGING))
    order = [2, 0, 0, 1]
    _, actions = run(policy, problem.model, HANGING[order], 20)
    assert torch.equal(actions, plan.actions[:, order])
    assert planner.asked == []
    policy.act(HANGING[order].numpy(), 20)
    assert len(planner.asked) == 1


def test_it_counts_the_steps_that_it_is_not_told():
    problem, one = pendulum(8), HANGING[:1]
    told, counting = (
        RecedingHorizon(problem, ILQR(iterations=2), schedule=Schedule(every=3)) for _ in range(2)
    )
    for _ in range(2):
        told.reset()
        counting.reset()
        state = one
        for t in range(7):
            u = told.act(state.numpy(), t)
            single = counting.act(state[0].numpy())
            assert single.shape == (1,)
            assert np.array_equal(single, u[0])
            state = problem.model.rollout(state, torch.from_numpy(u)[None], problem.scene)[-1]
    again = RecedingHorizon(problem, ILQR(iterations=2), schedule=Schedule(every=3))
    again.load_state_dict(counting.state_dict())
    assert np.array_equal(again.act(state.numpy()), counting.act(state.numpy()))


def test_a_row_that_begins_elsewhere_does_not_change_the_plans_of_others():
    problem = pendulum(20)
    plan = ILQR(iterations=5).plan(problem, HANGING, torch.full((20, 3, 1), 0.1).double())
    planner = Noted()
    policy = RecedingHorizon(problem, planner, schedule=Schedule(every=20), feedback=False)
    policy.prepare(plan, begun(HANGING))
    moved = HANGING.clone()
    moved[1] += 0.1
    policy.act(moved.numpy(), 0)
    assert torch.equal(policy.plan.actions, plan.actions)  # Noted returns where it begins
    assert torch.equal(policy.plan.states[:, [0, 2]], plan.states[:, [0, 2]])
    assert [asked["actions"].shape[1] for asked in planner.asked] == [1]
    end = problem.model.rollout(moved[1:2], plan.actions[:, 1:2], problem.scene)
    torch.testing.assert_close(policy.plan.states[:, 1:2], end)
    # Noted makes no gains, and leaves those of others.
    assert plan.gains is not None
    assert torch.equal(policy.plan.gains[:, [0, 2]], plan.gains[:, [0, 2]])
    assert not policy.plan.gains[:, 1].any()


class Bursts(torch.nn.Module):
    """x' = x + u, but nothing where x was above 5."""

    def forward(self, state, action):
        return torch.where(state > 5, torch.nan, state + action)


def test_a_row_that_diverges_elsewhere_is_named_as_it_is_in_the_batch():
    one = torch.ones(1, dtype=torch.float64)
    problem = Problem(TorchModel(Bursts(), 1), SquaredCost(one, one, one), -one, one, 6)
    calm = torch.zeros(2, 1).double()
    policy = RecedingHorizon(problem, ILQR(iterations=1))
    policy.prepare(ILQR(iterations=1).plan(problem, calm), begun(calm))
    with pytest.raises(DivergenceError) as caught:
        policy.act(np.array([[0.0], [6.0]]), 0)
    assert caught.value.rows == (1,)


def test_a_row_that_diverges_does_not_take_the_tail_from_others():
    one = torch.ones(1, dtype=torch.float64)
    cost = SquaredCost(one, one, one)
    problem = Problem(TorchModel(Bursts(), 1), cost, -one, one, 6)
    planner = Noted()
    policy = RecedingHorizon(
        problem, planner, schedule=Schedule(every=2), feedback=False,
        policy=lambda states, t, context: torch.full((len(states), 1), 0.07).double(),
    )  # fmt: skip
    calm = torch.zeros(2, 1).double()
    policy.act(calm.numpy(), 0)
    policy.act(calm.numpy(), 1)
    policy.act(np.array([[0.0], [6.0]]), 2)
    found = planner.asked[1]["actions"][:, 0, 0]
    torch.testing.assert_close(found, torch.full((6,), 0.07).double())
    assert planner.asked[-1]["actions"].isfinite().all()


def test_a_plan_made_for_another_context_is_no_plan():
    problem, planner = pendulum(6), Noted()
    policy = RecedingHorizon(problem, planner, schedule=Schedule(every=6))
    x, goals = HANGING[[0, 0]], torch.tensor([[1.0], [2.0]]).double()
    plan = ILQR(iterations=1).plan(problem, x, torch.stack([RAMP[:, 0], -RAMP[:, 0]], dim=1))
    policy.prepare(plan, Start(x, goals))
    policy.act(x[0].numpy(), 0, goals[1].numpy())
    assert torch.equal(policy.plan.actions, plan.actions[:, [1]])
    policy.reset()
    policy.act(x.numpy(), 0, goals.flip(0).numpy())  # the same starts in another order
    assert torch.equal(policy.plan.actions, plan.actions[:, [1, 0]])
    assert planner.asked == []
    policy.reset()
    policy.act(x.numpy(), 0, goals.numpy() + 0.1)
    assert len(planner.asked) == 1


def test_a_policy_may_make_all_of_the_next_plan():
    w = random_weights(6, 2, 1)
    problem = problem_of(w, 3)
    planner = Noted()

    def policy(states, t, context):
        return states[:, :1]

    mpc = RecedingHorizon(problem, planner, schedule=Schedule(every=3), policy=policy)
    x = normal(7, 1, 2)
    for t in (0, 3):
        mpc.act(x.numpy(), t)
    assert torch.equal(*(asked["actions"] for asked in planner.asked))


def test_a_plan_goes_on_from_elsewhere_as_its_gains_would_have_it():
    w, horizon = random_weights(5, 3, 1), 10
    problem, x0 = problem_of(w, horizon), normal(5, 1, 3)
    plan, planner = ILQR().plan(problem, x0), Noted()
    policy = RecedingHorizon(problem, planner, schedule=Schedule(every=10))
    policy.prepare(plan, begun(x0))
    x = x0 + 0.5 * normal(6, 1, 3)
    policy.act(x.numpy(), 0)
    gains, expected = riccati(w, horizon)[0], []
    for t in range(horizon):  # the plan is optimal, and so is its feedback anywhere
        expected.append(x @ gains[t].T)
        x = x @ w.a.T + expected[-1] @ w.b.T
    torch.testing.assert_close(
        planner.asked[0]["actions"], torch.stack(expected), atol=1e-8, rtol=0
    )


def test_a_deadline_ends_planning():
    problem = pendulum(50)
    endless = ILQR(iterations=10**9, tolerance=0.0)
    policy = RecedingHorizon(problem, endless, schedule=Schedule(iterations=10**9, seconds=0.05))
    policy.act(HANGING.numpy(), 0)
    policy.act(HANGING.numpy(), 1)
    found = policy.measured()
    assert found["plans"] == 2
    assert 0 < found["planning_hz"] <= 1 / 0.05


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"schedule": Schedule(every=0)}, "every must be at least 1, got 0"),
        ({"schedule": Schedule(first=0)}, "first_iterations must be at least 1, got 0"),
        ({"schedule": Schedule(every=31)}, "every must not exceed the horizon 30, got 31"),
        ({"schedule": Schedule(iterations=0)}, "iterations must be at least 1, got 0"),
        ({"schedule": Schedule(seconds=0.0)}, "seconds must be positive, got 0.0"),
        ({"tail": "hodl"}, "did you mean 'hold'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ArgumentError, match=message):
        RecedingHorizon(pendulum(30), ILQR(), **options)


def test_a_planner_with_more_knots_than_the_horizon_is_refused_at_once():
    with pytest.raises(ArgumentError, match=r"^knots must be at most the horizon 30, got 31$"):
        RecedingHorizon(pendulum(30), CEM(knots=31))
