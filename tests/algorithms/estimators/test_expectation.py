"""What estimators are on average, against the closed form of a linear-quadratic problem."""

import pytest
import torch

from mbrl.algorithms.estimators import ESTIMATORS, Subject
from mbrl.algorithms.weighting import weighed
from mbrl.graph import build_graph
from tests.algorithms.linear import (
    BATCH,
    CLOSED,
    OPEN,
    START_MEAN,
    A,
    B,
    H,
    LinearQuadratic,
    Parts,
    Q,
    R,
    assert_mean,
    estimates,
    expected,
    matrix,
    objective,
    return_of,
    setup,
)

POLICIES = pytest.mark.parametrize("policy", [OPEN, CLOSED], ids=["open", "closed"])
UNBIASED = [
    {"kind": "pathwise"},
    {"kind": "score_function", "baseline": "none"},
    {"kind": "score_function", "baseline": "leave_one_out"},
    {"kind": "interpolated", "scope": "global", "min_share": 0.2},
    {"kind": "interpolated", "scope": "per_step"},
]


@POLICIES
@pytest.mark.parametrize("options", UNBIASED, ids=lambda o: "-".join(map(str, o.values())))
def test_unbiased_estimators_give_the_gradient(policy, options):
    made = setup(policy, **options)
    assert_mean(estimates(made), expected(made))


@POLICIES
@pytest.mark.parametrize("weighting", ["sum", "average"])
def test_the_sum_is_scaled(policy, weighting):
    aim = weighed(weighting, objective().discounts)
    made = setup(policy, kind="sum", score_weight=0.7)
    assert_mean(estimates(made, aim=aim), 1.7 * expected(made, aim))


def test_a_mean_over_all_rows_shrinks_the_gradient():
    """To 1 - 1/N of the unbiased one with the others' mean, sample by sample."""
    rows, others = (
        estimates(setup(kind="score_function", baseline=b, batch=5), batch=5, samples=50)
        for b in ("mean", "leave_one_out")
    )
    torch.testing.assert_close(rows, 0.8 * others)


@POLICIES
@pytest.mark.parametrize("weighting", ["average", "prioritise"])
@pytest.mark.parametrize(
    "options", [UNBIASED[0], UNBIASED[2], UNBIASED[4]], ids=lambda o: o["kind"]
)
def test_weightings_give_the_same_direction_with_every_estimator(policy, weighting, options):
    aim = weighed(weighting, objective().discounts)
    made = setup(policy, **options)
    assert_mean(estimates(made, aim=aim), expected(made, aim))


@pytest.mark.parametrize("kind", ["pathwise", "score_function"])
def test_densities_of_all_policies_count(kind):
    """One policy's sample is what another one observes."""
    section = {
        "nodes": {
            "high": {
                **CLOSED,
                "inputs": ["observation"],
                "outputs": ["goal"],
                "output_scale": 0.8,
            },
            "policy": {**CLOSED, "inputs": ["goal"], "output_scale": 0.8},
        }
    }
    task = LinearQuadratic()
    graph = build_graph(section, task, generator=torch.Generator().manual_seed(2))
    subject = Subject.of(graph, horizon=H, batch=BATCH)
    assert set(subject.policies) == {"high", "policy"}
    made = setup()._replace(graph=graph, subject=subject, estimator=ESTIMATORS[kind](subject))
    parameters = {n: p.detach().clone().requires_grad_() for n, p in subject.parameters.items()}

    def part(node, name):
        return parameters[f"nodes.{node}.policy.{name}"]

    K, k = part("policy", "network.0.weight"), part("policy", "network.0.bias")
    K1, k1 = part("high", "network.0.weight"), part("high", "network.0.bias")
    noise = [
        torch.diag((2 * part("policy", "log_sd")[t]).exp())
        + K @ torch.diag((2 * part("high", "log_sd")[t]).exp()) @ K.T
        for t in range(H)
    ]
    value = return_of(Parts([K @ K1] * H, [K @ k1 + k] * H, noise), objective().weights)
    gradients = torch.autograd.grad(value, list(parameters.values()))
    assert_mean(estimates(made), torch.cat([g.flatten() for g in gradients]))


def test_the_score_function_sees_terminations_and_the_pathwise_gradient_does_not():
    """Against differences of an integral over the noise of the one action that decides."""
    limit = 1.0
    policy = {**OPEN, "initial_spread": 0.0, "steps": 2, "initial_sd": 1.0}
    weights = objective().weights[:2]
    # x'_0 = (A x)_0 + 0.1 u_0, the other actuator acting on the other coordinate alone.
    size = 200_001
    noise = torch.linspace(-8, 8, size, dtype=torch.float64)
    density = torch.exp(-(noise**2) / 2) / torch.exp(-(noise**2) / 2).sum()

    def value(mean):
        first = mean + noise
        action = torch.stack([first, torch.zeros(size, dtype=torch.float64)], 1)
        centre = START_MEAN @ A.T + action @ B.T
        spread = torch.outer(B[:, 1], B[:, 1])  # the other actuator's unit noise
        reward = -((centre @ Q) * centre).sum(1) - torch.trace(Q @ spread)
        reward = reward - R[0, 0] * first**2 - R[1, 1]
        closed = centre @ A.T
        later = A @ spread @ A.T + B @ B.T
        following = -((closed @ Q) * closed).sum(1) - torch.trace(Q @ later) - torch.trace(R)
        running = centre[:, 0] <= limit
        return (density * (weights[0] * reward + weights[1] * running * following)).sum()

    step = 0.05  # the threshold makes the integrand jump; the grid is much finer
    slope = float((value(matrix(step)) - value(matrix(-step))) / (2 * step))
    task = LinearQuadratic(spread=0.0, limit=limit)
    found = {}
    for kind in ("score_function", "pathwise"):
        made = setup(policy, task, vary=False, kind=kind, horizon=2)
        rows = estimates(made, aim=objective(horizon=2), samples=40_000)[:, 0]
        found[kind] = abs(float(rows.mean()) - slope) / float(rows.std() / len(rows) ** 0.5)
    assert found["score_function"] <= 3
    assert found["pathwise"] > 30
