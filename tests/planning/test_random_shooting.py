"""Random shooting: where it draws, and what it keeps."""

import numpy as np
import pytest
import torch

from mbrl.planning import Problem, RandomShooting
from tests.planning.problems import Recorded, linear_quadratic

STATES = torch.tensor([[1.0, 0.0], [2.0, -1.0]], dtype=torch.float64)


@pytest.mark.parametrize("bounded", [True, False])
def test_sequences_are_uniform_in_the_box(bounded):
    problem = Recorded.of(linear_quadratic(bounded=bounded).problem())
    RandomShooting(samples=5000).plan(problem, STATES)
    drawn = problem.calls[1][0]
    half = problem.high if bounded else torch.ones(2, dtype=torch.float64)
    assert (drawn.abs() <= half).all()
    part = (drawn / half).flatten(0, 2).numpy()  # 60,000 numbers a column
    np.testing.assert_allclose(part.mean(0), 0, atol=5 * np.sqrt(1 / 3 / len(part)))
    for power, moment in ((2, 1 / 3), (4, 1 / 5)):
        np.testing.assert_allclose((part**power).mean(0), moment, rtol=0.02)


@pytest.mark.parametrize(
    ("low", "high", "box"),
    [(2.0, np.inf, (2.0, 4.0)), (-np.inf, -3.0, (-5.0, -3.0)), (0.0, np.inf, (0.0, 2.0))],
)
def test_where_one_bound_is_missing_it_draws_beside_the_other(low, high, box):
    whole = linear_quadratic().problem()
    bounds = (torch.full((2,), bound, dtype=torch.float64) for bound in (low, high))
    problem = Recorded.of(Problem(whole.model, whole.stage, *bounds, whole.horizon))
    RandomShooting(samples=5000, keep=False).plan(problem, STATES)
    drawn = problem.calls[1][0].flatten().numpy()
    assert box[0] <= drawn.min() < drawn.max() <= box[1]
    np.testing.assert_allclose(drawn.mean(), np.mean(box), atol=0.02)
    np.testing.assert_allclose(drawn.std(), 2 / np.sqrt(12), rtol=0.02)


@pytest.mark.parametrize("keep", [True, False])
def test_the_best_of_all_is_kept(keep):
    system = linear_quadratic()
    problem = Recorded.of(system.problem())
    best = np.stack([system.optimum(row.numpy())[0] for row in STATES], axis=1)
    start = torch.from_numpy(best)
    plan = RandomShooting(samples=10, iterations=4, keep=keep).plan(problem, STATES, start)
    if keep:
        assert torch.equal(plan.actions, start)
        return
    for row in range(2):
        seen = [
            (float(costs[k, row]), actions[:, k, row])
            for actions, costs in problem.calls[1:]
            for k in range(10)
        ]
        cost, actions = min(seen, key=lambda pair: pair[0])
        assert plan.costs[row].item() == cost
        assert torch.equal(plan.actions[:, row], actions)
