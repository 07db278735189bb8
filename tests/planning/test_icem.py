"""The improved cross-entropy method: populations, colours, and elites that live on."""

import numpy as np
import pytest
import torch

from mbrl.errors import ArgumentError
from mbrl.planning import ICEM
from tests.planning.problems import Recorded, linear_quadratic

STATES = torch.tensor([[1.0, 0.0], [2.0, -1.0], [-0.3, 0.4]], dtype=torch.float64)


def begin(planner, problem, **keywords):
    noise = torch.Generator().manual_seed(0)
    return planner.begin(problem, STATES, problem.still(3), noise, **keywords)


def best(actions, costs, row, count):
    """The best sequences [T, nu] of a row, of those that were rolled out."""
    order = sorted(range(len(costs)), key=lambda k: float(costs[k, row]))
    return [actions[:, k, row] for k in order[:count]]


def test_the_population_decays_to_twice_the_elites():
    problem = Recorded.of(linear_quadratic().problem())
    search = begin(ICEM(samples=40, elites=6, decay=1.5, reuse=0.5), problem)
    for _ in range(6):
        search.iterate()
    # 40 / 1.5^i; then the mean, and from the second on three of six elites.
    drawn = [40, 26, 17, 12, 12, 12]
    assert [len(costs) for _, costs in problem.calls[1:]] == [
        n + (3 if i else 0) + 1 for i, n in enumerate(drawn)
    ]


def test_elites_join_the_next_population():
    problem = Recorded.of(linear_quadratic().problem())
    search = begin(ICEM(samples=20, elites=5, reuse=0.4), problem)
    for _ in range(3):
        search.iterate()
    for before, after in zip(problem.calls[1:-1], problem.calls[2:], strict=True):
        for row in range(3):
            expected = best(before[0][:, :-1], before[1][:-1], row, 2)
            for k, actions in enumerate(expected):  # before the mean, which is last
                assert torch.equal(after[0][:, len(after[1]) - 3 + k, row], actions)


def test_elites_of_the_plan_before_join_the_first_population():
    problem, planner = Recorded.of(linear_quadratic().problem()), ICEM(samples=20, elites=5)
    search = begin(planner, problem)
    search.iterate()
    elites = search.plan.memory["elites"]
    assert elites.shape == (6, 5, 3, 2)
    actions, costs = problem.calls[-1]
    for row in range(3):
        expected = best(actions[:, :-1], costs[:-1], row, 5)
        assert torch.equal(elites[:, :, row], torch.stack(expected, dim=1))
    shifted = torch.cat([elites[1:], elites[-1:]])
    following = begin(planner, problem, memory={"elites": shifted})
    assert torch.equal(following.plan.memory["elites"], shifted)
    following.iterate()
    first = problem.calls[-1][0]
    assert first.shape[1] == 20 + 2 + 1
    assert torch.equal(first[:, 20:22], shifted[:, :2])


def test_the_update_is_that_of_the_elites():
    problem = Recorded.of(linear_quadratic().problem())
    search = begin(ICEM(samples=20, elites=5, momentum=0.2), problem)
    search.iterate()
    search.iterate()
    actions, costs = problem.calls[1]
    for row in range(3):
        average = sum(best(actions[:, :-1], costs[:-1], row, 5)) / 5
        torch.testing.assert_close(problem.calls[2][0][:, -1, row], 0.8 * average)


@pytest.mark.parametrize("color", [0.0, 2.0, 3.0])
def test_the_colour_of_the_population(color):
    problem = Recorded.of(linear_quadratic(bounded=False, horizon=64).problem())
    search = begin(ICEM(samples=1000, color=color, noise=0.5), problem)
    search.iterate()
    noise = problem.calls[1][0][:, :-1].numpy()
    assert noise.std() == pytest.approx(0.5, rel=0.03)
    power = (np.abs(np.fft.rfft(noise, axis=0)) ** 2).mean((1, 2, 3))
    slope, _ = np.polyfit(np.log(np.arange(1, 33)), np.log(power[1:]), 1)
    assert slope == pytest.approx(-color, abs=0.03)


def test_the_best_sequence_of_all_is_executed():
    problem = Recorded.of(linear_quadratic().problem())
    plan = ICEM(samples=20, elites=5, iterations=6).plan(problem, STATES)
    lowest = torch.stack([costs.amin(0) for _, costs in problem.calls]).amin(0)
    assert torch.equal(plan.costs, lowest)


def test_the_optimum_of_a_bounded_problem():
    # White, and without decay: the optimum of a problem this short is not smooth.
    system = linear_quadratic()
    planner = ICEM(
        samples=400, elites=40, color=0.0, decay=1.0, momentum=0.5, floor=0.0, iterations=80
    )
    plan = planner.plan(system.problem(), STATES)
    for row in range(3):
        _, lowest = system.optimum(STATES[row].numpy())
        assert plan.costs[row].item() == pytest.approx(lowest, abs=1e-6)


def test_elites_of_another_shape():
    problem, planner = linear_quadratic().problem(), ICEM(elites=5)
    wrong = torch.zeros(6, 4, 3, 2, dtype=torch.float64)
    message = r"^memory\['elites'\] must have shape \[6, 5, 3, 2\], got \[6, 4, 3, 2\]$"
    with pytest.raises(ArgumentError, match=message):
        begin(planner, problem, memory={"elites": wrong})


def test_what_other_planners_remember_is_ignored():
    problem = linear_quadratic().problem()
    search = begin(ICEM(), problem, memory={"gains": torch.zeros(6)})
    search.iterate()
    assert search.plan.memory["elites"].shape == (6, 10, 3, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"elites": 65}, "elites must be at most samples = 64, got 65"),
        ({"color": -1.0}, "color must not be negative, got -1.0"),
        ({"decay": 0.9}, "decay must be at least 1, got 0.9"),
        ({"reuse": 1.1}, r"reuse must lie in \[0, 1\], got 1.1"),
        ({"momentum": 1.5}, r"momentum must lie in \[0, 1\), got 1.5"),
        ({"floor": -1.0}, "floor must not be negative, got -1.0"),
    ],
)
def test_options_that_cannot_be(options, message):
    with pytest.raises(ArgumentError, match=f"^{message}$"):
        ICEM(**options)
