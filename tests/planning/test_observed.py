"""Plans in terms of observations: against formulas, differences and Riccati's regulator."""

import numpy as np
import pytest
import torch

import mbrl
from mbrl.errors import ArgumentError, ConfigError
from mbrl.nn import EnsembleDynamics, MLPDynamics
from mbrl.planning import (
    ILQR,
    LearnedMLP,
    ObservingController,
    Plan,
    Problem,
    RandomShooting,
    RecedingHorizon,
    Scene,
    learned_model,
    observed_problem,
)
from mbrl.planning.costs import StagePoints
from mbrl.planning.observed import ObservedStage, PredictedReward
from mbrl.planning.planner import Planner, Search
from tests.planning.lq import Weights, random_weights, riccati

NX, NU, HORIZON = 3, 2, 8


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def network(reward=False, **options):
    generator = torch.Generator().manual_seed(0)
    options = {"hidden": (8,), "activation": "tanh", "dtype": "float64", **options}
    return MLPDynamics(NX, NU, generator, reward=reward, **options)


def curved(o, u, p):
    """A smooth cost that mixes all its arguments; 8 exceeds what bends it downward, at most 6."""
    waves = torch.sin(o[:, 1] + p[:, 0]) + torch.cos(u[:, 0] - o[:, 2] + p[:, 2])
    return o[:, 0] * p[:, 1] + waves + 4 * ((o**2).sum(1) + (u**2).sum(1) + (p**2).sum(1))


def expanded(stage, model, width):
    """The quadratic model of a stage at random points, its parts joined, and where that is."""
    states = normal(1, 2, 4, width)
    actions = normal(2, 1, 4, NU)
    points = StagePoints.along(states, actions, Scene())
    a, b = (m.flatten(0, 1) for m in model.linearize(states[:-1], actions, Scene()))
    found = stage.quadratic(points, a, b, model)
    above, below = [found.xx, found.ux.mT], [found.ux, found.uu]
    hessian = torch.cat([torch.cat(above, dim=2), torch.cat(below, dim=2)], dim=1)
    return torch.cat([found.x, found.u], dim=1), hessian, (points, a, b)


def differences(cost, points, a, b, eps=1e-4):
    """Gradient and Hessian by (x, u) of cost(x, u, y + A dx + B du)."""
    joint_map = torch.cat([a, b], dim=2)
    width = a.shape[1]

    def value(d):
        return cost(
            points.state + d[:width],
            points.action + d[width:],
            points.next_state + (joint_map @ d),
        )

    basis = eps * torch.eye(width + NU, dtype=torch.float64)
    gradient = [(value(d) - value(-d)) / (2 * eps) for d in basis]
    hessian = [
        [(value(d + e) - value(d - e) - value(e - d) + value(-d - e)) / (4 * eps**2) for d in basis]
        for e in basis
    ]
    rows = [torch.stack(row, dim=1) for row in hessian]
    return torch.stack(gradient, dim=1), torch.stack(rows, dim=1)


def test_the_cost_is_that_of_observations_and_actions():
    states, actions = normal(1, 3, 4, NX), normal(2, 2, 4, NU)
    found = ObservedStage(curved, "curved")(StagePoints.along(states, actions, Scene(7)))
    expected = [curved(states[t], actions[t], states[t + 1]) for t in range(2)]
    assert torch.equal(found, torch.cat(expected))


def test_its_quadratic_model_is_that_of_differences():
    model = learned_model(network())
    gradient, hessian, (points, a, b) = expanded(ObservedStage(curved, "curved"), model, NX)
    slope, curvature = differences(curved, points, a, b)
    torch.testing.assert_close(gradient, slope, rtol=0, atol=1e-6)
    torch.testing.assert_close(hessian, curvature, rtol=0, atol=1e-5)


def test_what_bends_downward_is_made_flat():
    model = learned_model(network())
    stage = ObservedStage(lambda o, u, p: -(u**2).sum(1) + o[:, 0], "falling")
    gradient, hessian, (points, *_) = expanded(stage, model, NX)
    torch.testing.assert_close(gradient[:, NX:], -2 * points.action)
    assert not hessian.any()


def test_a_cost_of_steps_has_no_slope():
    """The penalties of the cheetah are of this kind: constants but where they jump."""
    model = learned_model(network())
    stage = ObservedStage(lambda o, u, p: 10.0 * (o[:, 0] >= 0).to(o.dtype), "steps")
    gradient, hessian, (points, *_) = expanded(stage, model, NX)
    assert torch.equal(stage(points), torch.where(points.state[:, 0] >= 0, 10.0, 0.0).double())
    assert not gradient.any()
    assert not hessian.any()


def test_a_reward_that_is_predicted_counts_against_the_cost():
    dynamics = network(reward=True)
    model, stage = learned_model(dynamics), PredictedReward("predicted")
    problem = Problem(model, stage, -torch.ones(NU), torch.ones(NU), 3)
    state, actions = normal(1, 4, NX + 1), normal(2, 3, 4, NU).clamp(-1, 1)
    here, total = state[:, :NX], 0.0
    with torch.no_grad():
        for action in actions:
            here, reward = dynamics.predict(here, action)
            total = total - reward
    _, costs = problem.rollout(state, actions[:, None])
    torch.testing.assert_close(costs[0], total, rtol=1e-12, atol=1e-12)
    gradient, hessian, (points, *_) = expanded(stage, model, NX + 1)
    x, u = points.state[:, :NX].requires_grad_(), points.action.requires_grad_()
    slopes = torch.autograd.grad(-dynamics.predict(x, u).reward.sum(), (x, u))
    torch.testing.assert_close(gradient[:, [0, 1, 2, 4, 5]], torch.cat(slopes, dim=1))
    assert not gradient[:, 3].any()
    assert not hessian.any(), "the model's own curvature is not iLQR's"


def affine_observations():
    """x' = A x + B u as a network without hidden layers, with statistics that normalise."""
    w = random_weights(4, NX, NU)
    made = network(hidden=())
    mean, scale = normal(5, NX + NU), normal(6, NX + NU).abs() + 0.5
    shift, size = normal(7, NX), normal(8, NX).abs() + 0.5
    made.set_statistics(inputs=(mean, scale), differences=(shift, size))
    change = torch.cat([w.a - torch.eye(NX, dtype=torch.float64), w.b], dim=1)
    with torch.no_grad():
        made.network[0].weight.copy_(change * made.input_scale / size[:, None])
        made.network[0].bias.copy_((change @ mean - shift) / size)
    return w, made


def test_ilqr_on_a_model_of_observations_is_riccatis_regulator():
    w, dynamics = affine_observations()
    later = random_weights(9, NX, NU).q

    def cost(o, u, p):
        before = 0.5 * ((o @ w.q) * o).sum(1) + ((0.5 * u @ w.r + o @ w.n.T) * u).sum(1)
        return before + 0.5 * ((p @ later) * p).sum(1)

    high = torch.full((NU,), torch.inf, dtype=torch.float64)
    problem = Problem(LearnedMLP(dynamics), ObservedStage(cost, "lq"), -high, high, HORIZON)
    x0 = normal(3, 4, NX)
    plan = ILQR(iterations=3).plan(problem, x0)
    gains, value = riccati(Weights(w.a, w.b, w.q + later, w.r, w.n, later), HORIZON)
    torch.testing.assert_close(plan.gains, gains[:, None].expand_as(plan.gains))
    # The recursion counts the first observation as if it were a next one, too.
    best = 0.5 * ((x0 @ (value - later)) * x0).sum(1)
    torch.testing.assert_close(plan.costs, best)
    here = x0
    for t in range(HORIZON):
        torch.testing.assert_close(plan.actions[t], here @ gains[t].T)
        here = here @ w.a.T + plan.actions[t] @ w.b.T


# Problems of tasks


def test_a_problem_of_observations_is_for_the_tasks_observed_cost():
    task = mbrl.make_task("mbrl/HalfCheetahTorso-v0", threads=1)
    dynamics = MLPDynamics(20, 6, torch.Generator().manual_seed(0), hidden=(8,), dtype="float64")
    problem = observed_problem(task, 2, learned_model(dynamics))
    observation, actions = normal(1, 3, 20), 2 * torch.rand(2, 3, 6, dtype=torch.float64) - 1
    states, costs = problem.rollout(observation, actions[:, None])
    o, total = states[:, 0].numpy(), np.zeros(3)
    for t in range(2):  # the course's cost, thresholds on the observation before the step
        back = 1.0 * (o[t, :, 5] >= 0.2) + (o[t, :, 6] >= 0) + (o[t, :, 7] >= 0)
        total += 10 * back - (o[t + 1, :, 17] - o[t, :, 17]) / 0.01
    np.testing.assert_allclose(costs[0], total, rtol=1e-12)
    assert torch.equal(problem.low, task.action_low)
    assert torch.equal(problem.high, task.action_high)


def test_a_reward_that_is_learned_is_planned_for_before_all():
    task = mbrl.make_task("mbrl/HalfCheetahTorso-v0", threads=1)
    options = {"hidden": (8,), "reward": True, "dtype": "float64"}
    dynamics = EnsembleDynamics(20, 6, torch.Generator().manual_seed(0), members=2, **options)
    problem = observed_problem(task, 1, learned_model(dynamics))
    observation, actions = normal(1, 3, 21), normal(2, 1, 1, 3, 6).clamp(-1, 1)
    with torch.no_grad():
        reward = dynamics.predict(observation[:, :20], actions[0, 0]).reward
    torch.testing.assert_close(problem.rollout(observation, actions)[1][0], -reward)


def test_a_task_that_says_no_cost_is_told_what_is_legal():
    task = mbrl.make_task("InvertedPendulum-v5", threads=1)
    dynamics = MLPDynamics(4, 1, torch.Generator(), hidden=(8,))
    message = r"^algorithm.space: InvertedPendulum-v5 does not say .*'states', .*reward: true"
    with pytest.raises(ConfigError, match=message):
        observed_problem(task, 2, learned_model(dynamics))


# Controllers


class Noted(Planner):
    """Notes what it is asked, and plans to do nothing."""

    iterations = 1

    def __init__(self):
        self.asked = []

    def begin(self, problem, state, actions, generator, memory=None):
        self.asked.append((problem.scene.start, state.clone()))

        class Nothing(Search):
            def iterate(self):
                pass

            @property
            def plan(self):
                states = self.state.expand(len(actions) + 1, *self.state.shape)
                return Plan(actions, states, torch.zeros(len(self.state), dtype=torch.float64))

        return Nothing(problem, state)


def noted(reward=False):
    planner, high = Noted(), torch.ones(NU, dtype=torch.float64)
    stage = PredictedReward("noted") if reward else ObservedStage(curved, "noted")
    problem = Problem(learned_model(network(reward=reward)), stage, -high, high, 4)
    return ObservingController(RecedingHorizon(problem, planner)), planner


@pytest.mark.parametrize("reward", [False, True])
def test_a_controller_counts_its_steps_and_begins_again_at_a_reset(reward):
    controller, planner = noted(reward)
    seen = normal(1, 5, 2, NX).numpy()
    for observation in seen[:3]:
        assert controller.act(observation).shape == (2, NU)
    controller.reset()
    assert controller.controller.plan is None
    for observation in seen[3:]:
        controller.act(observation)
    assert [start for start, _ in planner.asked] == [0, 1, 2, 0, 1]
    for (_, state), observation in zip(planner.asked, seen, strict=True):
        assert torch.equal(state[:, :NX], torch.from_numpy(observation))
        assert state.shape[1] == NX + reward
        assert not state[:, NX:].any(), "what was earned before does not matter"
    assert controller.measured()["plans"] == 5


def test_rows_that_have_ended_are_not_planned_for():
    controller, planner = noted()
    seen, running = normal(1, 3, NX).numpy(), np.array([True, False, True])
    assert controller.act_at(seen, 0, running).shape == (3, NU)
    ((_, state),) = planner.asked
    assert torch.equal(state, torch.from_numpy(seen[running]))


def test_the_same_episodes_get_the_same_actions():
    high = torch.ones(NU, dtype=torch.float64)
    problem = Problem(learned_model(network()), ObservedStage(curved, "c"), -high, high, 4)
    planner = RandomShooting(samples=20)
    controller = ObservingController(RecedingHorizon(problem, planner, seed=5))
    seen = normal(1, 3, 2, NX).numpy()
    first = [controller.act(observation) for observation in seen]
    controller.reset()
    again = [controller.act(observation) for observation in seen]
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], first[1])


def test_one_observation_may_be_given_alone():
    controller, planner = noted(reward=True)
    seen = normal(1, NX).numpy()
    assert controller.act(seen).shape == (NU,)
    assert controller.act(seen[None]).shape == (1, NU)
    assert [start for start, _ in planner.asked] == [0, 1]


@pytest.mark.parametrize("shape", [(2, NX + 1), (2, NX - 1), (1, 2, NX), ()])
def test_an_observation_of_another_shape_is_named(shape):
    for reward in (False, True):
        controller, _ = noted(reward)
        with pytest.raises(ArgumentError, match=r"^observation must have shape \[3\] or \[B, 3\]"):
            controller.act(np.zeros(shape))
