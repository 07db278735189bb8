"""Runs of planners: what they leave behind, how they go on, and what evaluation makes of them."""

import csv
import json

import numpy as np
import pytest
import torch

import mbrl
from mbrl.algorithms import Setting
from mbrl.algorithms.model_predictive_control import ModelPredictiveControl
from mbrl.algorithms.planning import guide
from mbrl.algorithms.trajectory_optimization import TrajectoryOptimization
from mbrl.errors import ConfigError, DivergenceError
from mbrl.finished_runs import evaluate_run, load_policy, resumed_config
from mbrl.graph import GraphPolicy
from mbrl.planning import Problem, RecedingHorizon
from mbrl.runner import run

COST = {
    "upright": {"residual": {"kind": "angle", "joint": "hinge"}, "weight": 10},
    "centred": {"residual": {"kind": "joint_position", "joint": "slider"}},
    "effort": {"residual": {"kind": "control"}, "weight": 0.1},
}
COST_OF_PENDULUM = {"upright": {"residual": {"kind": "joint_position", "joint": "hinge"}}}
TASK = {
    "model": "cartpole.xml",
    "frame_skip": 2,
    "cost": COST,
    "reset": {"joints": {"hinge": 0.3}},
    "success": {"terms": {"upright": {"residual": COST["upright"]["residual"], "below": 0.05}}},
    "max_episode_steps": 40,
}


def config(tmp_path, *, name="plan", **algorithm):
    algorithm = {"kind": "trajectory_optimization", "horizon": 40, "updates": 30, **algorithm}
    return {
        "task": "mbrl/Residual-v0",
        "task_args": TASK,
        "algorithm": algorithm,
        "evaluation": {"episodes": 2},
        "output_dir": str(tmp_path),
        "name": name,
        "threads": 1,
    }


def rows_of(path):
    with (path / "metrics.csv").open(newline="") as text:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(text)]


def test_a_plan_is_evaluated_as_it_was_planned(tmp_path):
    summary, path = run(config(tmp_path))
    rows = rows_of(path)
    costs = [row["cost_mean"] for row in rows]
    assert costs == sorted(costs, reverse=True)
    # The environment begins where the plan did, so the return is the planned cost, negated.
    assert summary["eval_return_mean"] == pytest.approx(-costs[-1], rel=1e-9)
    assert summary["eval_success_rate"] == 1.0
    assert summary["plans"] == 0.0  # the plan was followed
    assert len(rows) < 30  # it converged
    assert json.loads((path / "summary.json").read_text())["algorithm"] == "trajectory_optimization"


def test_elsewhere_an_episode_gets_a_plan_of_its_own(tmp_path):
    moved = config(tmp_path) | {"eval_task_args": {"reset": {"joints": {"hinge": [-0.3, 0.3]}}}}
    summary, _ = run(moved)
    assert summary["eval_success_rate"] == 1.0
    assert summary["plans"] == 1.0  # of both episodes together


@pytest.mark.parametrize(
    "algorithm",
    [
        {"kind": "trajectory_optimization", "updates": 6},
        {
            "kind": "trajectory_optimization",
            "updates": 6,
            "planner": {"kind": "icem", "samples": 12, "elites": 4},
            "initial_sd": 0.2,
            "batch": 2,
        },
        {"kind": "mpc", "updates": 6, "horizon": 10},
        {
            "kind": "mpc",
            "updates": 6,
            "horizon": 10,
            "every": 2,
            "planner": {"kind": "mppi", "samples": 8, "iterations": 2},
        },
    ],
    ids=["ilqr plan", "icem plan", "ilqr mpc", "mppi mpc"],
)
def test_goes_on_bit_for_bit(tmp_path, algorithm):
    whole = run(config(tmp_path, name="whole", **algorithm))
    half = run(config(tmp_path, name="half", **{**algorithm, "updates": 3}))
    resumed = resumed_config(half.run_dir).as_dict()
    resumed["algorithm"]["updates"] = 6
    again = run(resumed, resume=half.run_dir)
    clocks = {"wall_s", "planning_hz"}
    for one, other in zip(rows_of(whole.run_dir), rows_of(again.run_dir), strict=True):
        assert {k: v for k, v in one.items() if k not in clocks} == {
            k: v for k, v in other.items() if k not in clocks
        }
    assert again.summary["eval_return_mean"] == whole.summary["eval_return_mean"]


def test_mpc_is_evaluated_in_the_real_environment(tmp_path):
    summary, path = run(config(tmp_path, kind="mpc", horizon=30, updates=40))
    rows = rows_of(path)
    # Start and physics are the same here and there, so are the returns.
    assert summary["eval_return_mean"] == pytest.approx(rows[-1]["return_mean"], rel=1e-6)
    assert summary["eval_success_rate"] == 1.0
    assert summary["plans"] == 40.0
    assert rows[-1]["plans"] == 40.0
    assert summary["planning_hz"] > 0
    found = evaluate_run(path, resumed_config(path))
    np.testing.assert_array_equal(found.returns, [summary["eval_return_mean"]] * 2)


def test_its_policy_acts_on_states(tmp_path):
    _, path = run(config(tmp_path, kind="mpc", horizon=10, updates=1))
    policy = load_policy(path)
    assert isinstance(policy, RecedingHorizon)
    action = policy.act(np.array([[0.0, 0.3, 0.0, 0.0]]), 0)
    assert action.shape == (1, 1)
    assert action[0, 0] > 0  # the cart goes after the pole


def test_the_cost_of_a_plan_may_be_another_than_the_tasks(tmp_path):
    other = {"effort": {"residual": {"kind": "control"}}}
    summary, path = run(config(tmp_path, cost=other, planner={"kind": "ilqr"}))
    assert rows_of(path)[-1]["cost_mean"] == pytest.approx(0.0, abs=1e-12)
    assert summary["eval_return_mean"] < -100  # the pole fell


def test_terminal_costs_are_planned_for_and_not_earned(tmp_path):
    plain = run(config(tmp_path, horizon=5))
    final = {"still": {"residual": {"kind": "joint_velocity", "joint": "hinge"}, "weight": 1e4}}
    ended = run(config(tmp_path, horizon=5, terminal=final))
    costs = [rows_of(result.run_dir)[-1]["cost_mean"] for result in (plain, ended)]
    assert costs[1] > costs[0] + 0.01


def test_a_trained_policy_guides_planning(tmp_path):
    trained = run(
        {
            "task": "mbrl/Residual-v0",
            "task_args": TASK,
            "algorithm": {"kind": "policy_gradient", "updates": 2, "horizon": 5, "batch": 2},
            "evaluation": {"episodes": 1},
            "output_dir": str(tmp_path),
            "threads": 1,
        }
    )
    policy = str(trained.run_dir)
    summary, path = run(config(tmp_path, kind="mpc", horizon=20, updates=3, policy=policy))
    assert summary["eval_success_rate"] == 1.0
    guided = run(config(tmp_path, policy=policy, updates=1, planner={"kind": "random_shooting"}))
    task = mbrl.make_task("mbrl/Residual-v0", **TASK)
    actor, state, total = load_policy(policy), task.reset(1, torch.Generator()), 0.0
    for _ in range(40):
        action = torch.from_numpy(actor.act(task.observe(state).numpy()))
        following = task.step(state, action).next_state
        total -= float(task.reward(state, action, following))
        state = following
    # Random shooting found no better sequence than the policy's, or kept it: never a worse one.
    assert rows_of(guided.run_dir)[-1]["cost_mean"] <= total + 1e-9
    with pytest.raises(ConfigError, match=r"algorithm.policy: .* is a run of a planner"):
        run(config(tmp_path, policy=str(path)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"planner": {"kind": "ilrq"}}, "algorithm.planner.kind: .*did you mean 'ilqr'"),
        ({"planner": {"kind": "ilqr", "iteratoins": 3}}, "did you mean 'iterations'"),
        ({"planner": {"kind": "ilqr", "iterations": 0}}, "algorithm.planner.iterations must be"),
        (
            {"planner": {"kind": "ilqr", "knots": 41}},
            "^algorithm.planner.knots must be at most the horizon 40, got 41$",
        ),
        (
            {"kind": "mpc", "planner": {"kind": "cem", "knots": 41}},
            "^algorithm.planner.knots must be at most the horizon 40, got 41$",
        ),
        ({"horizon": 0}, "algorithm.horizon must be at least 1, got 0"),
        ({"batch": 0}, "algorithm.batch must be at least 1, got 0"),
        ({"updates": 0}, "algorithm.updates must be at least 1, got 0"),
        ({"initial_sd": -1.0}, "algorithm.initial_sd must not be negative"),
        ({"cost": {"a": {"residual": {"kind": "contrl"}}}}, "algorithm.cost.a.*'control'"),
        ({"kind": "mpc", "every": 41}, "algorithm.every must not exceed the horizon"),
        ({"kind": "mpc", "seconds": 0.0}, "algorithm.seconds must be positive"),
        ({"kind": "mpc", "tail": "hodl"}, "algorithm.tail.*did you mean 'hold'"),
        ({"policy": "nowhere"}, "nowhere is not the folder of a run"),
    ],
)
def test_mistakes_are_answered_by_key(tmp_path, change, message):
    with pytest.raises(mbrl.MbrlError, match=message):
        run(config(tmp_path, **change))


FOUR_SLIDES = """
<mujoco>
  <worldbody>
    <body>
      <joint type="slide" axis="1 0 0"/><joint name="y" type="slide" axis="0 1 0"/>
      <joint type="slide" axis="0 0 1"/><joint axis="0 0 1"/>
      <geom type="box" size=".1 .1 .1"/>
    </body>
  </worldbody>
  <actuator><general joint="y" dyntype="filter" dynprm="0.1" ctrlrange="-1 1"/></actuator>
</mujoco>
"""


def test_planners_are_evaluated_on_states_as_wide_as_they_plan_for(tmp_path):
    model = tmp_path / "slides.xml"
    model.write_text(FOUR_SLIDES)
    arguments = {"model": str(model), "cost": {"effort": {"residual": {"kind": "control"}}}}
    other = {
        "task_args": {**arguments, "max_episode_steps": 2},
        "eval_task": "InvertedDoublePendulum-v5",  # which has observations of width 9 as well
        "eval_task_args": {"max_episode_steps": 2},
    }
    message = (
        r"^eval_task: InvertedDoublePendulum-v5 has states of width 6, algorithm mpc plans for "
        r"those of task mbrl/Residual-v0, 9$"
    )
    with pytest.raises(ConfigError, match=message):
        run(config(tmp_path, kind="mpc", horizon=2, updates=1) | other)
    learner = {"algorithm": {"kind": "policy_gradient", "updates": 1, "horizon": 2, "batch": 1}}
    assert run(config(tmp_path) | other | learner).summary["eval_length_mean"] == 2


def test_a_reward_without_second_derivatives_says_what_to_do(tmp_path):
    with pytest.raises(mbrl.MbrlError, match=r"no second derivatives.*give a cost of residuals"):
        run(
            {
                "task": "Ant-v5",
                "algorithm": {"kind": "mpc", "horizon": 2, "updates": 1},
                "evaluation": {"episodes": 1},
                "output_dir": str(tmp_path),
            }
        )


def mpc_of(task, **options):
    planner = {"kind": "random_shooting", "samples": 2}
    setting = Setting(task, {}, torch.Generator().manual_seed(0))
    return ModelPredictiveControl(setting, planner=planner, horizon=2, **options)


def test_episodes_that_have_ended_are_left_alone(monkeypatch):
    task, stepped = mbrl.make_task("Hopper-v5", threads=1), []
    step = task.step

    def noted(state, action, **where):
        stepped.append(len(state))
        return step(state, action, **where)

    monkeypatch.setattr(task, "step", noted)
    mpc, rows = mpc_of(task, batch=3), []
    assert mpc.updates == 1000
    while len(rows) < mpc.updates:
        rows.append(mpc.update())
    assert len(rows) < 80  # it falls
    alive = [int(row["env_steps"]) for row in rows]
    assert alive[0] == 3
    assert alive == sorted(alive, reverse=True)
    assert alive[-1] > 0  # nothing is left to do once all have ended
    assert stepped == alive  # what comes after an end may not be physics
    resumed = mpc_of(task, batch=3, updates=2000)
    resumed.load_state_dict(mpc.state_dict())
    assert resumed.updates == len(rows)


def flat(state):
    """The leaves of a state, tensors as lists."""
    if isinstance(state, dict):
        return {name: flat(part) for name, part in state.items()}
    return state.tolist() if isinstance(state, torch.Tensor) else state


def test_a_step_that_diverges_leaves_the_episodes_as_they_were(monkeypatch):
    task = mbrl.make_task("InvertedPendulum-v5", threads=1)
    mpc, undisturbed = mpc_of(task, batch=2), mpc_of(task, batch=2)
    for made in (mpc, undisturbed):
        made.update()
    before = flat(mpc.state_dict())
    with monkeypatch.context() as patched:

        def broken(*_, **__):
            raise DivergenceError("row 1", [1])

        patched.setattr(task, "step", broken)
        with pytest.raises(DivergenceError):
            mpc.update()
    assert flat(mpc.state_dict()) == before
    assert mpc.update()["return_mean"] == undisturbed.update()["return_mean"]
    after, expected = (flat(made.state_dict()) for made in (mpc, undisturbed))
    for state in (after, expected):
        state["actor"].pop("ticks")  # which hold seconds
    assert after == expected


def test_an_iteration_that_diverges_leaves_the_search_as_it_was(monkeypatch):
    task = mbrl.make_task("InvertedPendulum-v5", threads=1)
    setting = Setting(task, {}, torch.Generator().manual_seed(0))
    planner = {"kind": "ilqr", "samples": 3, "iterations": 5}
    made = TrajectoryOptimization(
        setting, planner=planner, horizon=5, cost=COST_OF_PENDULUM, initial_sd=0.3
    )
    made.update()
    before = flat(made.state_dict())
    with monkeypatch.context() as patched:

        def broken(*_, **__):
            raise DivergenceError("row 0", [0])

        patched.setattr(Problem, "closed_loop", broken)
        with pytest.raises(DivergenceError):
            made.update()
    assert flat(made.state_dict()) == before


def test_a_policy_that_follows_the_clock_guides_by_the_clock():
    task = mbrl.make_task("InvertedPendulum-v5", threads=1)
    policy = {"kind": "open_loop", "steps": 4, "initial_spread": 0.5}
    actor = GraphPolicy.of(mbrl.build_graph({"nodes": {"policy": policy}}, task))
    setting = Setting(task, {}, torch.Generator(), lambda run: actor)
    asked, state = guide(setting, "run", "algorithm.policy"), torch.zeros(1, 4).double()
    expected = [actor.act(np.zeros((1, 4))).item() for _ in range(4)]
    assert len(set(expected)) == 4
    assert [asked(state, t, None).item() for t in (2, 0, 3, 1)] == [
        expected[t] for t in (2, 0, 3, 1)
    ]
