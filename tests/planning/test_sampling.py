"""What every planner that samples promises: bounds, repeatability, resuming, divergence."""

import dataclasses
import inspect

import numpy as np
import pytest
import torch

from mbrl import register_planner
from mbrl.errors import ArgumentError
from mbrl.options import completed
from mbrl.planning import (
    CEM,
    CMAES,
    ICEM,
    MPPI,
    PredictiveSampling,
    RandomShooting,
    RewardCost,
    model_of,
)
from mbrl.planning import problem as planning_problem
from mbrl.planning.problem import Problem
from mbrl.registry import PLANNERS
from mbrl.tasks import make_task
from tests.planning.problems import (
    Recorded,
    distance_to_goal,
    learned,
    linear_quadratic,
    particle,
)

PLANNED = {
    "random_shooting": RandomShooting(samples=30, iterations=3, keep=True),
    "predictive_sampling": PredictiveSampling(samples=20),
    "predictive_sampling, knots": PredictiveSampling(samples=20, knots=3, interpolation="cubic"),
    "cem": CEM(samples=30, elites=5),
    "cem, knots": CEM(samples=30, elites=5, knots=3, interpolation="zero"),
    "icem": ICEM(samples=30, elites=5),
    "mppi": MPPI(samples=30),
    "mppi, all options": MPPI(
        samples=30, control_cost=True, anneal_iterations=0.5, anneal_horizon=0.9, knots=3
    ),
    "cma_es": CMAES(),
    "cma_es, diagonal": CMAES(diagonal=True, samples=8, knots=3, interpolation="cubic"),
}
KEEPING = [name for name in PLANNED if not name.startswith("mppi")]
STATES = torch.tensor([[1.0, 0.0], [2.0, -1.0], [-0.3, 0.4]], dtype=torch.float64)

every = pytest.mark.parametrize("name", PLANNED)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def warm(problem: Problem, batch: int) -> torch.Tensor:
    """Some actions inside the bounds."""
    shape = problem.horizon, batch, problem.action_size
    return problem.clip(0.3 * torch.randn(shape, generator=generator(9), dtype=torch.float64))


def same(one, other) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one[:3], other[:3], strict=True))


@every
def test_the_plan_is_legal_and_costs_what_it_says(name):
    system = linear_quadratic()
    problem = system.problem()
    plan = PLANNED[name].plan(problem, STATES, warm(problem, 3), iterations=4)
    assert plan.actions.shape == (6, 3, 2)
    assert ((plan.actions >= problem.low) & (plan.actions <= problem.high)).all()
    for row in range(3):
        expected = system.cost(STATES[row].numpy(), plan.actions[:, row].numpy())
        assert plan.costs[row].item() == pytest.approx(expected, rel=1e-12)
    states, costs = problem.rollout(STATES, plan.actions[:, None])
    torch.testing.assert_close(plan.states, states[:, 0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(plan.costs, costs[0], rtol=1e-12, atol=0)


@every
def test_before_the_first_iteration_the_plan_is_where_it_began(name):
    problem = linear_quadratic().problem()
    actions = warm(problem, 3)
    plan = PLANNED[name].plan(problem, STATES, actions, iterations=0)
    states, costs = problem.rollout(STATES, actions[:, None])
    assert same(plan, (actions, states[:, 0], costs[0]))


@every
def test_same_seed_same_bits(name):
    problem = linear_quadratic().problem()

    def run(seed):
        return PLANNED[name].plan(problem, STATES, generator=generator(seed), iterations=4)

    assert same(run(1), run(1))
    assert not torch.equal(run(1).actions, run(2).actions)


@every
def test_a_search_goes_on_from_its_state_bit_for_bit(name):
    problem, planner = linear_quadratic().problem(), PLANNED[name]
    actions, noise = warm(problem, 3), generator()
    search = planner.begin(problem, STATES, actions, noise)
    for _ in range(3):
        search.iterate()
    kept, at = search.state_dict(), noise.get_state()
    for _ in range(3):
        search.iterate()
    resumed = planner.begin(problem, STATES, problem.still(3), noise)
    noise.set_state(at)
    resumed.load_state_dict(kept)
    for _ in range(3):
        resumed.iterate()
    assert same(search.plan, resumed.plan)
    assert search.measured() == resumed.measured()
    memory = search.plan.memory
    assert memory.keys() == resumed.plan.memory.keys()
    assert all(torch.equal(memory[key], resumed.plan.memory[key]) for key in memory)


@every
def test_the_state_of_a_search_survives_a_file_without_pickled_objects(name, tmp_path):
    problem, planner = linear_quadratic().problem(), PLANNED[name]
    search = planner.begin(problem, STATES, warm(problem, 3), generator())
    search.iterate()
    torch.save(search.state_dict(), tmp_path / "state.pt")
    loaded = torch.load(tmp_path / "state.pt", weights_only=True)
    resumed = planner.begin(problem, STATES, problem.still(3), generator())
    resumed.load_state_dict(loaded)
    assert same(search.plan, resumed.plan)


@every
def test_rows_do_not_see_each_other(name):
    problem = particle(horizon=6)
    states = torch.zeros(3, 4, dtype=torch.float64)
    others = states.clone()
    others[1:] = torch.tensor([1.0, -1.0, 0.5, 0.0], dtype=torch.float64)
    plans = [PLANNED[name].plan(problem, x, iterations=3) for x in (states, others)]
    assert torch.equal(plans[0].actions[:, 0], plans[1].actions[:, 0])
    assert torch.equal(plans[0].costs[0], plans[1].costs[0])
    assert not torch.equal(plans[0].actions[:, 1], plans[1].actions[:, 1])


@pytest.mark.parametrize("name", KEEPING)
@pytest.mark.parametrize("bounded", [True, False])
def test_never_worse_than_where_it_began_nor_than_before(name, bounded):
    problem = linear_quadratic(bounded=bounded).problem()
    actions = warm(problem, 3)
    costs = problem.rollout(STATES, actions[:, None])[1][0]
    search = PLANNED[name].begin(problem, STATES, actions, generator())
    for _ in range(5):
        search.iterate()
        assert (search.plan.costs <= costs).all()
        costs = search.plan.costs


@pytest.mark.parametrize("name", KEEPING)
def test_the_optimum_is_not_left(name):
    system = linear_quadratic()
    best = [system.optimum(row.numpy()) for row in STATES]
    actions = torch.from_numpy(np.stack([u for u, _ in best], axis=1))
    plan = PLANNED[name].plan(system.problem(), STATES, actions, iterations=3)
    expected = torch.tensor([cost for _, cost in best], dtype=torch.float64)
    torch.testing.assert_close(plan.costs, expected, rtol=1e-10, atol=0)


@every
def test_candidates_that_diverge_never_win(name):
    system = linear_quadratic()
    problem = system.problem(wall=0.0)  # about half of all first actions of a single step
    search = PLANNED[name].begin(problem, STATES, problem.still(3), generator())
    begin = search.plan.costs
    for _ in range(5):
        search.iterate()
    plan = search.plan
    assert (plan.actions[..., 0] <= 0).all()
    assert plan.states.isfinite().all()
    assert plan.costs.isfinite().all()
    if name in KEEPING:
        assert (plan.costs <= begin).all()


@every
def test_where_everything_diverges_the_plan_stays(name):
    problem = linear_quadratic().problem(wall=-10.0)
    actions = warm(problem, 3)
    search = PLANNED[name].begin(problem, STATES, actions, generator())
    for _ in range(3):
        search.iterate()
    assert torch.equal(search.plan.actions, actions)
    assert (search.plan.costs == torch.inf).all()
    assert all(torch.isfinite(torch.tensor(v)) for v in search.measured().values())


@every
def test_a_row_whose_nominal_diverges_is_rescued(name):
    problem = linear_quadratic().problem(wall=0.2)
    actions = problem.still(3)
    actions[0, 1, 0] = 0.25  # row 1 alone
    plan = PLANNED[name].plan(problem, STATES, actions, iterations=8)
    assert problem.rollout(STATES, actions[:, None])[1].isinf().tolist() == [[False, True, False]]
    assert plan.costs.isfinite().all()


@every
def test_a_learned_model(name):
    problem = learned()
    plan = PLANNED[name].plan(problem, STATES, iterations=10)
    still = problem.rollout(STATES, problem.still(3)[:, None])[1][0]
    assert plan.costs.sum() < 0.7 * still.sum()
    assert same(plan, PLANNED[name].plan(problem, STATES, iterations=10))


@pytest.mark.parametrize(
    ("planner", "iterations"),
    [
        (PredictiveSampling(), 30),
        (PredictiveSampling(knots=5, interpolation="cubic"), 30),
        (CEM(), 20),
        (ICEM(), 10),
        (MPPI(), 15),
        (CMAES(), 80),
        (CMAES(knots=5, diagonal=True), 60),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, int) else str(value),
)
def test_a_point_mass_reaches_its_goal(planner, iterations):
    # MuJoCo MPC's own test of its sampling planners allows 1000 iterations for 0.1.
    start = torch.zeros(1, 4, dtype=torch.float64)
    plan = planner.plan(particle(), start, iterations=iterations)
    assert distance_to_goal(plan.states).item() < 1e-1


def test_a_gymnasium_task_through_its_own_reward():
    task = make_task("InvertedPendulum-v5")
    state = task.reset(2, generator())
    low, high = task.action_low, task.action_high
    problem = Problem(model_of(task), RewardCost(task), low, high, horizon=20)
    plan = CEM(samples=50, elites=8).plan(problem, state)
    assert plan.costs.tolist() == [-20.0, -20.0]  # one for every step upright


@pytest.mark.parametrize("name", sorted({name.split(",")[0] for name in PLANNED}))
def test_planners_have_names_and_their_arguments_are_options(name):
    entry = PLANNERS.get(name)
    assert isinstance(PLANNED[name], entry)
    assert register_planner(name)(entry) is entry
    options = completed(entry, {"samples": 48}, "planner")
    assert options.keys() == inspect.signature(entry).parameters.keys()
    assert entry(**options).samples == 48


@pytest.mark.parametrize("planner", [PredictiveSampling, CEM, MPPI, CMAES])
def test_more_knots_than_steps(planner):
    problem = linear_quadratic().problem()
    with pytest.raises(ArgumentError, match=r"^knots must be at most the horizon 6, got 7$"):
        planner(knots=7).plan(problem, STATES)


@pytest.mark.parametrize("planner", [RandomShooting, PredictiveSampling, CEM, ICEM, MPPI, CMAES])
@pytest.mark.parametrize("option", ["iterations", "samples"])
def test_counts_below_one(planner, option):
    with pytest.raises(ArgumentError, match=rf"^{option} must be at least \d, got 0$"):
        planner(**{option: 0})


@pytest.mark.parametrize("planner", [PredictiveSampling, CEM, ICEM, MPPI, CMAES])
@pytest.mark.parametrize("value", [0.0, -0.1, float("nan")])
def test_noise_that_is_not_positive(planner, value):
    with pytest.raises(ArgumentError, match=rf"^noise must be positive, got {value}$"):
        planner(noise=value)


MANY = {
    "random_shooting": RandomShooting(samples=100),
    "predictive_sampling": PredictiveSampling(samples=100),
    "cem": CEM(samples=100),
    "mppi": MPPI(samples=100),
    "cma_es": CMAES(samples=100),
}


@pytest.mark.parametrize("name", MANY)
@pytest.mark.parametrize("problem", [linear_quadratic().problem(wall=0.0), particle(5)])
def test_candidates_rolled_out_in_parts_are_the_same_bits(name, problem, monkeypatch):
    states = 0.1 * torch.ones(3, problem.model.state_size, dtype=torch.float64)
    states[1] *= -4
    whole = MANY[name].plan(problem, states, iterations=2)
    parted = Recorded.of(problem)
    monkeypatch.setattr(planning_problem, "MOST_NUMBERS", 1)
    assert same(whole, MANY[name].plan(parted, states, iterations=2))
    sizes = [actions.shape[1] for actions, _ in parted.calls]
    assert max(sizes) == 32  # the smallest multiple of it that the three rows allow
    assert sum(sizes) >= 200


def test_the_best_of_parts_is_the_first_of_the_best(monkeypatch):
    problem = linear_quadratic().problem(wall=0.3)
    actions = 0.5 * torch.randn(6, 200, 3, 2, generator=generator(4), dtype=torch.float64)
    actions[:, 150] = actions[:, 20]  # candidates that tie, in other parts
    actions[:, 199] = actions[:, 64]
    actions[0, :, 2, 0] = 1.0  # all of the last row diverge
    found, costs = problem.rollout(STATES, actions)
    per_candidate = 7 * 3 * 2
    monkeypatch.setattr(planning_problem, "MOST_NUMBERS", 64 * per_candidate)
    parted = Recorded.of(problem)
    table, winner, states = parted.compete(STATES, actions)
    assert [part.shape[1] for part, _ in parted.calls] == [64, 64, 64, 8]
    assert torch.equal(table, costs)
    first = np.argmin(costs.numpy(), axis=0)  # NumPy takes the first
    np.testing.assert_array_equal(winner.numpy(), first)
    assert costs[:, 2].isinf().all()
    assert torch.equal(states[:, :2], found[:, first, [0, 1, 2]][:, :2])


@every
def test_actions_with_one_bound(name):
    problem = dataclasses.replace(
        linear_quadratic().problem(),
        low=torch.tensor([-torch.inf, -0.5], dtype=torch.float64),
        high=torch.tensor([0.1, torch.inf], dtype=torch.float64),
    )
    plan = PLANNED[name].plan(problem, STATES, iterations=5)
    assert ((plan.actions >= problem.low) & (plan.actions <= problem.high)).all()
    still = problem.rollout(STATES, problem.still(3)[:, None])[1][0]
    assert plan.costs.sum() < still.sum()
