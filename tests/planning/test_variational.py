"""The variational planner against brute force, and the promises of a planner."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import mbrl
from mbrl.errors import ArgumentError, ConfigError
from mbrl.options import completed
from mbrl.planning import TorchModel, Variational
from mbrl.registry import PLANNERS
from tests.planning.gradient_problems import (
    box_optimum,
    cliff,
    dense,
    inside,
    linear_quadratic,
    point_mass,
    same,
    smooth,
    states,
    stored,
    unrolled,
)

STRATEGIES = [
    "pathwise",
    "score_function",
    "sum",
    "interpolated",
    "interpolated_elementwise",
    "hybrid",
]
SAMPLES = 5
EPS = float(torch.finfo(torch.float32).eps)


class Watched(TorchModel):
    """A model that remembers the actions of its last two rollouts."""

    seen = None

    def rollout(self, state, actions, scene):
        self.before, self.seen = self.seen, actions
        return super().rollout(state, actions, scene)


def planner(strategy="pathwise", **options):
    return Variational(strategy=strategy, **{"samples": SAMPLES, **options})


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def begun(make, problem, x0, actions=None, seed=0):
    actions = problem.still(len(x0)) if actions is None else actions
    return make.begin(problem, x0, actions, generator(seed))


def wide(problem):
    """The same problem with bounds that samples do not reach, but half-ranges as they were."""
    far = torch.full_like(problem.low, math.inf)
    return replace(problem, low=-far, high=far)


def gradient_of(search, name):
    """The gradient that the next iteration feeds to Adam, by what Adam remembers of it."""
    before = search.state_dict()[name]["first"]
    search.iterate()
    return (search.state_dict()[name]["first"] - 0.9 * before) / 0.1


def brute_force(strategy, problem, x0, mean, sd, noise, weighting, standardize, share, weight):
    """The gradients by M and Sigma from the formulas of the strategies, by autograd."""
    horizon, n, batch = noise.shape[:3]
    left = [float(horizon - k) for k in range(horizon)]
    mean, sd = mean.clone().requires_grad_(), sd.clone().requires_grad_()
    u = mean[:, None] + sd[:, None] * noise
    # A leaf for each step, so that every step's derivative can be weighed by itself.
    leaves = [v.detach().requires_grad_() for v in u]
    costs = unrolled(problem, x0.repeat(n, 1), torch.stack([v.flatten(0, 1) for v in leaves]))
    costs = costs.unflatten(1, (n, batch))

    def average(t, values):  # of the steps from t on
        if weighting == "sum":
            return values[t:].sum(0)
        w = torch.tensor([1.0 if weighting == "average" else left[k] for k in range(t, horizon)])
        return (w.double()[:, None, None] * values[t:]).sum(0) / w.double().sum()

    by_u = [
        torch.autograd.grad(average(t, costs).sum(), leaves[t], retain_graph=True)[0]
        for t in range(horizon)
    ]
    path = torch.autograd.grad((torch.stack(by_u) * u).sum() / n, (mean, sd), retain_graph=True)
    score = torch.zeros((), dtype=torch.float64)
    z = (u.detach() - mean[:, None]) / sd[:, None]
    density = (-0.5 * z.square() - sd[:, None].log()).sum(-1)
    for t in range(horizon):
        to_go = average(t, costs.detach())
        w = [1.0 if weighting != "prioritise" else left[k] for k in range(t, horizon)]
        gain = 1.0 if weighting == "sum" else 1 / sum(w)
        if standardize:  # what is standardised is the sum to go; gains come after
            advantage = gain * (to_go - to_go.mean(0)) / (to_go.std(0, correction=0) + EPS * gain)
        else:
            advantage = (to_go - to_go.mean(0)) * n / (n - 1)
        score = score + (advantage * density[t]).mean(0).sum()
    score = torch.autograd.grad(score, (mean, sd))
    mixes = {"pathwise": (1, 0), "score_function": (0, 1), "sum": (1, weight)}
    a, b = mixes.get(strategy, (1 - share, share))
    return tuple(a * p + b * s for p, s in zip(path, score, strict=True))


@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if s != "hybrid"])
@pytest.mark.parametrize("weighting", ["sum", "average", "prioritise"])
@pytest.mark.parametrize("standardize", [True, False])
def test_gradients_are_those_of_the_definitions(strategy, weighting, standardize):
    problem, x0 = wide(smooth(horizon=5)), states(3)
    make = planner(
        strategy,
        weighting=weighting,
        standardize=standardize,
        min_share=0.1,
        score_weight=0.7,
        sd_lr_factor=2.0,
    )
    for name, index in (("_by_mean", 0), ("_by_sd", 1)):
        search = begun(make, problem, x0)
        for _ in range(3):
            search.iterate()
        now = search.state_dict()
        mean, sd = now["_mean"], now["_sd"]
        assert not torch.equal(sd, torch.full_like(sd, 0.3))
        copied = generator()
        copied.set_state(search._generator.get_state())
        noise = torch.randn(5, SAMPLES, 3, 2, generator=copied, dtype=torch.float64)
        left = (sd - 1e-4) / (0.3 - 1e-4)
        if strategy == "interpolated":
            left = left.mean((0, 2))[:, None]
        share = (0.1 + 0.9 * 0.5 * left).clamp(0, 1)
        expected = brute_force(
            strategy, problem, x0, mean, sd, noise, weighting, standardize, share, 0.7
        )
        torch.testing.assert_close(gradient_of(search, name), expected[index])


def test_with_bounds_the_gradient_is_by_half_ranges():
    problem, x0 = smooth(horizon=5), states(2)
    problem = replace(problem, low=problem.low * 100, high=problem.high * 100)
    make = planner(initial_sd=0.002)
    search = begun(make, problem, x0)
    noise = torch.randn(5, SAMPLES, 2, 2, generator=generator(), dtype=torch.float64)
    spread = torch.tensor([100.0, 125.0], dtype=torch.float64)
    u = (0.002 * spread * noise).requires_grad_()
    costs = unrolled(problem, x0.repeat(SAMPLES, 1), u.flatten(1, 2)).sum()
    (by_u,) = torch.autograd.grad(costs, u)
    torch.testing.assert_close(gradient_of(search, "_by_mean"), spread * by_u.mean(1))


def test_past_a_bound_only_what_leads_inward_passes():
    problem, x0 = linear_quadratic(), states(4)
    start = torch.where(inside(problem, 4) > 0.1, problem.high, problem.low)
    search = begun(planner(samples=1), problem, x0, start)
    noise = torch.randn(6, 1, 4, 1, generator=generator(), dtype=torch.float64)
    half = 0.5 * (problem.high - problem.low)
    raw = (start + 0.3 * half * noise[:, 0]).detach()
    clipped = raw.clamp(problem.low, problem.high).requires_grad_()
    (by_u,) = torch.autograd.grad(unrolled(problem, x0, clipped).sum(), clipped)
    above, below = raw >= problem.high, raw <= problem.low
    expected = half * torch.where((above & (by_u < 0)) | (below & (by_u > 0)), 0.0, by_u)
    assert ((expected == 0) & (by_u != 0)).any()
    assert ((above | below) & (expected != 0)).any()
    torch.testing.assert_close(gradient_of(search, "_by_mean"), expected)


def test_one_sample_without_noise_is_adam_on_the_actions():
    problem, x0 = wide(smooth(horizon=5)), states(3)
    make = Variational(samples=1, initial_sd=0, lr=0.02)
    source = generator()
    untouched = source.get_state()
    search = make.begin(problem, x0, problem.still(3), source)
    u = torch.zeros(5, 3, 2, dtype=torch.float64, requires_grad=True)
    reference = torch.optim.Adam([u], lr=0.02)
    for _ in range(20):
        search.iterate()
        reference.zero_grad()
        unrolled(problem, x0, u).sum().backward()
        reference.step()
        torch.testing.assert_close(search.state_dict()["_mean"], u.detach())
    assert torch.equal(source.get_state(), untouched)
    assert search.measured() == {"sd": 0.0, "score_share": 0.0}


@pytest.mark.parametrize(("strategy", "part"), [("pathwise", 0.99), ("hybrid", 0.97)])
def test_it_comes_near_the_optimum_in_a_box(strategy, part):
    problem, x0 = linear_quadratic(seed=1), states(3)
    found = planner(strategy, iterations=200, samples=16).plan(problem, x0)
    begun_at = problem.rollout(x0, problem.still(3)[:, None])[1][0]
    for row in range(3):
        h_matrix, h_vector = dense(problem, x0[row])
        u = box_optimum(h_matrix, h_vector, float(problem.low), float(problem.high))
        gain = -(0.5 * u @ h_matrix @ u + h_vector @ u)  # over zeros
        assert part * gain < begun_at[row] - found.costs[row] < gain + 1e-9


def test_every_strategy_improves_the_point_mass():
    problem, x0 = point_mass()
    first = float(problem.rollout(x0, problem.still(1)[:, None])[1])
    lowest = 19.346  # of L-BFGS, converged; see test_gradient_shooting
    for strategy in STRATEGIES:
        found = planner(strategy, samples=16).plan(problem, x0)
        assert found.costs < lowest + 0.05 * (first - lowest)
        assert (found.actions.abs() <= 1).all()


def test_hybrid_replays_the_best_and_goes_on_from_it():
    problem, x0 = smooth(), states(3)
    model = Watched(problem.model._dynamics, 3)
    problem = replace(problem, model=model)
    search = begun(planner("hybrid", lr=0.05), problem, x0)
    spread = torch.tensor([1.0, 1.25], dtype=torch.float64)
    improved = 0
    for count in range(12):
        before = search.plan
        by_mean = search.state_dict()["_by_mean"]
        search.iterate()
        seen, moved = model.before.unflatten(1, (SAMPLES, 3)), model.seen
        assert torch.equal(seen[:, 0], before.actions)
        totals = problem.rollout(x0, seen)[1]
        least, winner = totals.min(0)
        reached = torch.minimum(least, problem.rollout(x0, moved[:, None])[1][0])
        torch.testing.assert_close(search.plan.costs, reached)
        improved += int((search.plan.costs < before.costs).sum())
        # M is the best of these, moved along the gradient there, and tried.
        u = seen[:, winner, torch.arange(3)].clone().requires_grad_()
        (by_u,) = torch.autograd.grad(unrolled(problem, x0, u).sum(), u)
        u, low, high = u.detach(), problem.low, problem.high
        held = ((u <= low) & (by_u > 0)) | ((u >= high) & (by_u < 0))
        g = spread * torch.where(held, 0.0, by_u)
        first = 0.9 * by_mean["first"] + 0.1 * g
        second = 0.999 * by_mean["second"] + 0.001 * g.square()
        t = count + 1
        step = first / (1 - 0.9**t) / ((second / (1 - 0.999**t)).sqrt() + 1e-8)
        expected = (u / spread - 0.05 * step).clamp(low / spread, high / spread)
        torch.testing.assert_close(search.state_dict()["_mean"], expected)
        torch.testing.assert_close(moved, (expected * spread).clamp(low, high))
    assert improved > 5


def test_a_single_iteration_is_a_step_along_the_gradient():
    problem, x0 = smooth(), states(3)
    still = problem.still(3)
    begin = problem.rollout(x0, still[:, None])[1][0]
    plan = planner(samples=1, initial_sd=0.0, lr=0.02).plan(problem, x0, iterations=1)
    found, wanted = problem.rollout(x0, plan.actions[:, None])[1][0], begin
    assert (plan.costs < wanted).all()
    torch.testing.assert_close(plan.costs, found)
    gradient = problem.gradient(problem.rollout(x0, still[:, None])[0][:, 0], still)
    step = -0.02 * problem.spread * gradient.sign()  # Adam's first
    torch.testing.assert_close(plan.actions, step, rtol=1e-4, atol=0)


def test_hybrids_deviations_follow_the_samples_that_were_drawn():
    problem, x0 = wide(smooth(horizon=5)), states(2)
    search = begun(planner("hybrid"), problem, x0)
    mean = torch.zeros(5, 2, 2, dtype=torch.float64)
    sd = torch.full_like(mean, 0.3)
    noise = torch.randn(5, SAMPLES, 2, 2, generator=generator(), dtype=torch.float64)[:, 1:]
    _, expected = brute_force("score_function", problem, x0, mean, sd, noise, "sum", True, 1.0, 1.0)
    torch.testing.assert_close(gradient_of(search, "_by_sd"), expected)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_plan_keeps_to_the_bounds_and_never_gets_worse(strategy):
    problem, x0 = smooth(), states(3)
    start = inside(problem, 3)
    search = begun(planner(strategy, lr=0.5, initial_sd=1.0), problem, x0, start)
    costs = problem.rollout(x0, start[:, None])[1][0]
    assert torch.equal(search.plan.actions, start)
    for _ in range(10):
        search.iterate()
        plan = search.plan
        assert (plan.costs <= costs).all()
        assert (plan.actions >= problem.low).all()
        assert (plan.actions <= problem.high).all()
        costs = plan.costs
        visited, totals = problem.rollout(x0, plan.actions[:, None])
        torch.testing.assert_close(totals[0], costs)
        torch.testing.assert_close(visited[:, 0], plan.states)
        mean = search.state_dict()["_mean"] * problem.spread
        assert torch.equal(mean, problem.clip(mean))
        assert (search.state_dict()["_sd"] >= 1e-4).all()


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("after", [0, 4])
def test_a_search_that_is_resumed_goes_on_bit_by_bit(strategy, after):
    problem, x0 = point_mass()
    x0 = torch.cat([x0, -0.5 * x0])
    straight = begun(planner(strategy), problem, x0)
    for _ in range(after):
        straight.iterate()
    resumed = begun(planner(strategy), problem, x0, seed=9)
    resumed.load_state_dict(stored(straight))
    resumed._generator.set_state(straight._generator.get_state())
    for _ in range(4):
        straight.iterate()
        resumed.iterate()
        assert same(straight.plan, resumed.plan)
        assert straight.measured() == resumed.measured()


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_seed_gives_one_plan_and_rows_do_not_know_each_other(strategy):
    problem, x0 = point_mass()
    make = planner(strategy, iterations=5)

    def plan(factor, seed):
        pair = torch.cat([x0, factor * x0])
        return make.plan(problem, pair, generator=generator(seed))

    once, again, changed, other = plan(0.5, 0), plan(0.5, 0), plan(-0.9, 0), plan(0.5, 1)
    assert same(once, again)
    assert torch.equal(once.actions[:, 0], changed.actions[:, 0])
    assert not torch.equal(once.actions[:, 1], changed.actions[:, 1])
    assert not torch.equal(once.actions, other.actions)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_samples_that_diverge_do_not_count_and_leave_no_nan(strategy):
    problem = cliff(at=1.0)
    x0 = torch.tensor([[0.0], [5.0]], dtype=torch.float64)  # the second row has no way out
    search = begun(planner(strategy, initial_sd=1.0), problem, x0)
    lost = 0
    for _ in range(15):
        search.iterate()
        lost += int(search.plan.costs[0].isinf())
        for value in (search._mean, search._sd, search.plan.actions):
            assert value.isfinite().all()
    assert lost == 0
    assert search.plan.costs[1] == math.inf
    assert (search._mean[:, 1] == 0).all()
    assert (search._sd[:, 1] == 1).all()
    still = problem.rollout(x0, problem.still(2)[:, None])[1][0, 0]
    assert search.plan.costs[0] < 0.8 * still


def test_the_gradient_is_that_of_the_samples_that_count():
    problem = cliff(at=1.0)
    x0 = torch.zeros(2, 1, dtype=torch.float64)
    search = begun(planner(initial_sd=0.9, samples=12), problem, x0)
    noise = torch.randn(4, 12, 2, 1, generator=generator(), dtype=torch.float64)
    raw = 0.9 * noise
    actions = raw.clamp(-1, 1)
    x = 0.5 * actions.cumsum(0)
    alive = (x.abs() <= 1.0).all(0)[..., 0]  # (N, B)
    assert 0 < alive[:, 0].sum() < 12
    by_x = x - 2.0
    by_u = 0.5 * by_x.flip(0).cumsum(0).flip(0) + 0.01 * actions
    by_u = torch.where(((raw >= 1) & (by_u < 0)) | ((raw <= -1) & (by_u > 0)), 0.0, by_u)
    kept = torch.where(alive[..., None], by_u, 0.0)
    expected = kept.sum(1) / alive.sum(0)[:, None]
    torch.testing.assert_close(gradient_of(search, "_by_mean"), expected)


def test_the_floor_of_the_deviations_holds():
    problem, x0 = linear_quadratic(), states(2)
    search = begun(planner(min_sd=0.25, sd_lr_factor=10.0), problem, x0)
    for _ in range(10):
        search.iterate()
    assert search.state_dict()["_sd"].min() == 0.25
    assert search.measured()["sd"] >= 0.25


def test_it_is_registered_and_its_arguments_are_its_options():
    assert PLANNERS["variational"] is mbrl.planning.Variational
    found = completed(Variational, {"strategy": "hybrid"}, "planner")
    assert Variational(**found).strategy == "hybrid"
    with pytest.raises(ConfigError, match=r"planner.strategy: unknown value 'hybird'.*hybrid"):
        completed(Variational, {"strategy": "hybird"}, "planner")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "iterations must be at least 1, got 0"),
        ({"samples": 0}, "samples must be at least 1, got 0"),
        ({"strategy": "pathwsie"}, "strategy: unknown value 'pathwsie'.*did you mean 'pathwise'"),
        ({"weighting": "mean"}, "weighting: unknown value 'mean'.*legal: average, prioritise, sum"),
        ({"lr": 0.0}, "lr must be positive, got 0.0"),
        ({"min_sd": 0.0}, "min_sd must be positive, got 0.0"),
        ({"sd_lr_factor": -1.0}, "sd_lr_factor must not be negative, got -1.0"),
        ({"score_weight": math.nan}, "score_weight must not be negative, got nan"),
        ({"min_share": 1.5}, "min_share must lie between 0 and 1, got 1.5"),
        ({"initial_sd": 1e-5}, "initial_sd must be 0 or above min_sd 0.0001, got 1e-05"),
        ({"initial_sd": -0.1}, "initial_sd must be 0 or above"),
        ({"initial_sd": 0.0}, "initial_sd is 0.* got pathwise with 5"),
        ({"initial_sd": 0.0, "samples": 1, "strategy": "sum"}, "initial_sd is 0.* got sum with 1"),
        ({"samples": 1, "strategy": "sum"}, "samples must be at least 2 with strategy sum, got 1"),
        ({"samples": 2, "strategy": "hybrid"}, "samples must be at least 3 with strategy hybrid"),
        ({"betas": (0.9,)}, r"betas must be two numbers in \[0, 1\), got \[0.9\]"),
    ],
)
def test_bad_options_are_told_in_one_line(options, message):
    with pytest.raises(ArgumentError, match=message) as caught:
        planner(**options)
    assert "\n" not in str(caught.value)


def test_contexts_follow_their_rows():
    goals = torch.tensor([[1.0, 0.0, 0.0], [0.0, -1.0, 2.0]], dtype=torch.float64)
    problem, x0 = linear_quadratic(context=goals), torch.zeros(2, 3, dtype=torch.float64)
    found = planner(samples=12, iterations=150).plan(problem, x0)
    for row in range(2):
        h_matrix, h_vector = dense(problem, x0[row], goals[row])
        u = box_optimum(h_matrix, h_vector, float(problem.low), float(problem.high))
        gain = -(0.5 * u @ h_matrix @ u + h_vector @ u)
        reached = found.actions[:, row, 0].numpy()
        mine = -(0.5 * reached @ h_matrix @ reached + h_vector @ reached)
        assert np.isfinite(mine)
        assert 0.98 * gain < mine <= gain + 1e-9
