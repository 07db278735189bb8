"""What estimators make of given rollouts, against loops over rows and steps."""

import itertools

import numpy as np
import pytest
import torch

from mbrl.algorithms.estimators import ESTIMATORS, Subject
from mbrl.algorithms.weighting import weighed
from mbrl.errors import ArgumentError
from mbrl.graph import build_graph
from mbrl.ranks import ALONE
from tests.algorithms.linear import (
    CLOSED,
    OPEN,
    A,
    B,
    H,
    LinearQuadratic,
    Q,
    R,
    objective,
    problem,
    setup,
)


def estimate(made, batch, aim=None, seed=0):
    """The estimate, and the rollouts it was made from with their draws."""
    task, graph = made.graph.task, made.graph
    replay = getattr(made.estimator, "_best", None)
    generator, draws = torch.Generator().manual_seed(seed), []
    start = task.start(batch, generator)
    with torch.no_grad():
        again = graph.unroll(
            start.state, H, generator=generator, context=start.context, draws=draws, replay=replay
        )
    result = made.estimator.estimate(problem(task, batch, torch.Generator().manual_seed(seed), aim))
    assert torch.equal(again.states, result.trajectory.states)
    return result, draws


def gradient(result, name):
    (found,) = [-g for n, g in result.gradients.items() if n.endswith(name)]
    return found.numpy()


def scores(means, policy, draw, row):
    """Gradients of the log density w.r.t. mean and log deviation of a step, [nu] each."""
    mean = means[draw.t].detach().numpy()
    sd = policy.log_sd[draw.t].detach().exp().numpy()
    residual = (draw.sample[row].numpy() - mean) / sd
    return residual / sd, residual**2 - 1


def baselined(returns, row, baseline, standardize):
    """The advantage of one of the rows that run at a step."""
    if standardize and len(returns) == 1:
        return 0.0  # there is no scale
    others = np.delete(returns, row)
    shift = {"none": 0.0, "mean": returns.mean()}.get(baseline)
    if shift is None:
        shift = others.mean() if len(others) else 0.0
    scale = np.sqrt(((returns - returns.mean()) ** 2).mean()) + 2.0**-23 if standardize else 1.0
    return (returns[row] - shift) / scale


@pytest.mark.parametrize("baseline", ["none", "mean", "leave_one_out"])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize(("seed", "running_rows"), [(1, [6, 4, 4, 2]), (3, [6, 1, 1, 1])])
def test_the_score_function_by_hand_with_rows_that_end(baseline, standardize, seed, running_rows):
    batch, task = 6, LinearQuadratic(limit=0.7)
    made = setup(
        OPEN, task, batch, kind="score_function", baseline=baseline, standardize=standardize
    )
    aim = weighed("prioritise", objective(discount=0.8).discounts)
    result, draws = estimate(made, batch, aim, seed)
    alive, rewards = result.trajectory.alive.numpy(), result.trajectory.rewards.numpy()
    assert alive.sum(1).tolist() == running_rows
    policy = made.graph.nodes["policy"].policy
    mean, log_sd = np.zeros((H, 2)), np.zeros((H, 2))
    for t in range(H):
        running = [n for n in range(batch) if alive[t, n]]
        later = [0.8**k * (H - k) for k in range(t, H)]
        returns = np.array(
            [sum(w * rewards[t + i, n] for i, w in enumerate(later)) for n in running]
        )
        gain = 1 / sum(H - k for k in range(t, H))
        for i, n in enumerate(running):
            advantage = baselined(returns, i, baseline, standardize)
            for total, score in zip(
                (mean, log_sd), scores(policy.mean, policy, draws[t], n), strict=True
            ):
                total[t] += gain * advantage * score / batch
    np.testing.assert_allclose(gradient(result, "mean"), mean, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(gradient(result, "log_sd"), log_sd, rtol=1e-10, atol=1e-12)
    returns = sum(0.8**k * rewards[k] for k in range(H))
    np.testing.assert_allclose(result.returns, returns, rtol=1e-12)


@pytest.mark.parametrize("baseline", ["none", "mean", "leave_one_out"])
def test_steps_without_a_scale_do_not_count(baseline):
    made = setup(OPEN, None, 3, kind="score_function", baseline=baseline, standardize=True)
    returns = torch.tensor([[1.0, 2.0, 6.0], [5.0, 5.0, 5.0], [7.0, 0.0, 0.0]]).double()
    alive = torch.tensor([[True, True, True], [True, True, True], [True, False, False]])
    found = made.estimator._scores._advantages(returns, alive, ALONE)
    assert (found[0].abs() > 0.1).all()
    assert torch.equal(found[1:], torch.zeros(2, 3).double())


def reward_slopes(states, actions, K):
    """The total derivatives d r_k / d u_t of one rollout, [k][t]."""
    a, b, q, r = A.numpy(), B.numpy(), Q.numpy(), R.numpy()
    slopes = np.zeros((H, H, 2))
    for t in range(H):
        action, state = np.eye(2), np.zeros((2, 2))  # d u_k / d u_t, d x_k / d u_t
        for k in range(t, H):
            following = a @ state + b @ action
            slopes[k, t] = -2 * (states[k + 1] @ q @ following + actions[k] @ r @ action)
            state, action = following, K @ following
    return slopes


@pytest.mark.parametrize("policy", [OPEN, CLOSED], ids=["open", "closed"])
@pytest.mark.parametrize("weighting", ["sum", "average", "prioritise"])
def test_weightings_are_means_of_the_rewards_slopes(policy, weighting):
    batch = 3
    made = setup(policy, batch=batch)
    result, _ = estimate(made, batch, weighed(weighting, objective(discount=0.9).discounts))
    states = result.trajectory.states.detach().numpy()
    actions = result.trajectory.actions.detach().numpy()
    module = made.graph.nodes["policy"].policy
    K = np.zeros((2, 2)) if policy is OPEN else module.network[0].weight.detach().numpy()
    steps = np.zeros((H, batch, 2))  # the gradient w.r.t. each action
    for n in range(batch):
        slopes = reward_slopes(states[:, n], actions[:, n], K)
        for t in range(H):
            rest = range(t, H)
            ranks = {"sum": [1.0] * H, "average": [1.0] * H, "prioritise": range(H, 0, -1)}
            weights = np.array([ranks[weighting][k] for k in rest], dtype=float)
            if weighting != "sum":
                weights /= weights.sum()
            for k, weight in zip(rest, weights, strict=True):
                steps[t, n] += weight * 0.9**k * slopes[k, t]
    if policy is OPEN:
        np.testing.assert_allclose(gradient(result, "mean"), steps.mean(1), rtol=1e-10)
        return
    np.testing.assert_allclose(gradient(result, "bias"), steps.sum(0).mean(0), rtol=1e-10)
    outer = np.einsum("tni,tnj->ij", steps, states[:-1]) / batch
    np.testing.assert_allclose(gradient(result, "weight"), outer, rtol=1e-10)


@pytest.mark.parametrize("scope", ["global", "per_step"])
def test_shares_follow_the_deviations(scope):
    batch = 4
    options = {"kind": "interpolated", "scope": scope, "min_share": 0.1, "min_sd": 0.05}
    made = setup(OPEN, batch=batch, **options)
    parts = [
        gradient(estimate(setup(OPEN, batch=batch, kind=k), batch)[0], "mean")
        for k in ("pathwise", "score_function")
    ]
    sd = made.graph.nodes["policy"].policy.log_sd.detach().exp().numpy()
    share = (sd - 0.05) / (0.4 - 0.05)
    share = np.clip(0.1 + 0.9 * 0.5 * (share.mean() if scope == "global" else share), 0, 1)
    assert (np.ptp(share) > 0.3) == (scope == "per_step")
    result, _ = estimate(made, batch)
    # The mean of a step has no other way to the return than through its own action.
    mixed = (1 - share) * parts[0] + share * parts[1]
    np.testing.assert_allclose(gradient(result, "mean"), mixed, rtol=1e-9)
    assert result.measured["score_share"] == pytest.approx(share.mean())


def test_shares_are_clipped_and_remember_the_first_deviations():
    made = setup(OPEN, vary=False, batch=4, kind="interpolated", scope="per_step")
    state = made.estimator.state_dict()
    log_sd = made.graph.nodes["policy"].policy.log_sd
    with torch.no_grad():
        log_sd.fill_(3.0)
    later = setup(OPEN, vary=False, batch=4, kind="interpolated", scope="per_step")
    later.estimator.load_state_dict(state)
    with torch.no_grad():
        later.graph.nodes["policy"].policy.log_sd.fill_(3.0)
    for one in (made, later):
        assert estimate(one, 4)[0].measured["score_share"] == 1.0
    with torch.no_grad():
        log_sd.fill_(-20.0)
    assert estimate(made, 4)[0].measured["score_share"] == pytest.approx(0, abs=1e-3)


def test_deviations_count_in_units_of_half_the_control_range():
    made = setup(OPEN, LinearQuadratic(bound=3.0), vary=False, batch=4, kind="interpolated")
    (sd,) = made.estimator.state_dict()["initial_sd"].values()
    torch.testing.assert_close(sd, torch.full((H, 2), 0.4, dtype=torch.float64))


# Hill climbing


def climber(batch=5, spread=0.0, **options):
    return setup(OPEN, LinearQuadratic(spread), batch, kind="hybrid", **options)


def test_hill_climbing_by_hand():
    batch, made = 5, climber()
    policy = made.graph.nodes["policy"].policy
    kept, chosen = policy.mean.detach().clone(), set()
    for seed in range(6):
        means = policy.mean.detach().clone()
        result, draws = estimate(made, batch, seed=seed)
        samples = torch.stack([draw.sample[0] for draw in draws])
        assert torch.equal(samples, kept), "at first the mean is repeated, then the best"
        returns = result.returns.numpy()
        best = int(returns.argmax())
        slopes = reward_slopes(
            result.trajectory.states[:, best].detach().numpy(),
            result.trajectory.actions[:, best].detach().numpy(),
            np.zeros((2, 2)),
        )
        mean = np.array([sum(0.9**k * slopes[k, t] for k in range(t, H)) for t in range(H)])
        np.testing.assert_allclose(gradient(result, "mean"), mean, rtol=1e-9)
        log_sd = np.zeros((H, 2))
        rewards = result.trajectory.rewards.detach().numpy()
        for t in range(H):
            to_go = sum(0.9**k * rewards[k, 1:] for k in range(t, H))
            for n in range(batch - 1):
                advantage = baselined(to_go, n, "leave_one_out", False)
                log_sd[t] += advantage * scores(means, policy, draws[t], n + 1)[1] / (batch - 1)
        np.testing.assert_allclose(gradient(result, "log_sd"), log_sd, rtol=1e-9, atol=1e-12)
        kept = torch.stack([draw.sample[best] for draw in draws])
        assert torch.equal(made.estimator.state_dict()["best"], kept)
        assert torch.equal(policy.mean, kept)
        assert result.measured == {"best_return": returns[best], "best_is_new": best > 0}
        chosen.add(best)
        with torch.no_grad():  # as an optimiser
            policy.mean += 0.05
    assert 0 in chosen
    assert len(chosen) > 1


def test_the_best_return_never_gets_worse_though_the_policy_does():
    made, generator = climber(), torch.Generator().manual_seed(3)
    policy = made.graph.nodes["policy"].policy
    best, new = [], 0.0
    for _ in range(40):
        measured = made.estimator.estimate(problem(made.graph.task, 5, generator)).measured
        best.append(measured["best_return"])
        new += measured["best_is_new"]
        with torch.no_grad():  # as a bad optimiser would
            policy.mean += 0.3 * torch.randn(H, 2, generator=generator, dtype=torch.float64)
    assert all(later >= earlier for earlier, later in itertools.pairwise(best))
    assert 2 <= new < 40
    assert best[-1] > best[0]


def test_held_actions_climb_at_the_steps_they_are_drawn_in():
    nodes = {
        "policy": {**OPEN, "outputs": ["proposed"]},
        "hold": {
            "kind": "hold", "steps": 2, "inputs": {"value": "proposed", "previous": "last"},
            "outputs": {"held": "action"},
        },
    }  # fmt: skip
    task, generator = LinearQuadratic(0.0), torch.Generator().manual_seed(7)
    section = {"nodes": nodes, "carry": {"last": "action"}}
    graph = build_graph(section, task, generator=generator)
    subject = Subject.of(graph, horizon=H, batch=16)
    made, policy = ESTIMATORS["hybrid"](subject), graph.nodes["policy"].policy
    best, idle = [], policy.mean.detach()[1::2].clone()
    for _ in range(20):
        found = made.estimate(problem(task, 16, generator))
        best.append(found.measured["best_return"])
        actions = found.trajectory.actions[:, int(found.returns.argmax())]
        torch.testing.assert_close(policy.squash(policy.mean)[::2], actions[::2])
        assert torch.equal(actions[::2], actions[1::2])
    assert all(later >= earlier for earlier, later in itertools.pairwise(best))
    assert torch.equal(policy.mean[1::2], idle)


def test_the_best_sequence_outlives_a_change_of_length():
    made, task = climber(), LinearQuadratic(0.0)
    short = problem(task, 5, torch.Generator().manual_seed(0), objective(horizon=2))
    tail = made.estimator.state_dict()["best"][2:].clone()
    made.estimator.estimate(short)
    best = made.estimator.state_dict()["best"]
    assert best.shape == (H, 2)
    assert torch.equal(best[2:], tail)


# Mistakes


def refused(message, policy=OPEN, **options):
    with pytest.raises(ArgumentError, match=message) as caught:
        setup(policy, **options)
    assert "\n" not in str(caught.value)


def test_mistakes_are_named():
    deterministic = {"kind": "deterministic_mlp"}
    quiet = {**OPEN, "initial_sd": None}
    network = {**CLOSED, "deviation": "network", "steps": None}
    for kind in ("score_function", "sum", "interpolated"):
        for policy in (deterministic, quiet):
            refused(
                "graph.nodes.policy has no noise: .* gaussian_mlp, open_loop", policy, kind=kind
            )
        refused(
            r"baseline: leave_one_out compares rows of a batch, and .*batch 1 leaves 1;",
            kind=kind,
            batch=1,
        )
    refused("standardize: true compares", kind="sum", batch=1, baseline="none", standardize=True)
    setup(OPEN, kind="score_function", batch=1, baseline="none")
    for policy in (CLOSED, quiet, deterministic):
        refused("hybrid trains one policy, of kind open_loop", policy, kind="hybrid")
    refused("has 3 steps for a horizon of 4", {**OPEN, "steps": 3}, kind="hybrid")
    refused("algorithm.batch must be at least 2 with hybrid", kind="hybrid", batch=1)
    refused("baseline: leave_one_out compares", kind="hybrid", batch=2)
    refused("deviations that depend on no observation", network, kind="interpolated")
    refused(r"min_sd must lie in \[0, 0.4\)", kind="interpolated", min_sd=0.5)
    refused(r"min_share must lie in \[0, 1\]", kind="interpolated", min_share=1.5)
    refused("score_weight must not be negative", kind="sum", score_weight=-1.0)
    made = climber(spread=0.1)
    with pytest.raises(ArgumentError, match=r"start states differ; .*reset_noise_scale: 0"):
        made.estimator.estimate(problem(made.graph.task, 5, torch.Generator()))
