"""The arm that reaches and tracks: formulas against steps of the environment, and MuJoCo's tip."""

import math

import gymnasium
import mujoco
import numpy as np
import pytest
import torch

import mbrl
from mbrl.errors import ArgumentError
from mbrl.tasks import evaluate
from tests.tasks.common import along, place, points, stepped

NAMES = ["mbrl/Reach-v0", "mbrl/Track-v0"]
SHOULDER = np.array([0.0, 0.0, 0.5])
GRAPH = {"nodes": {"policy": {"kind": "deterministic_mlp", "hidden": [16], "dtype": "float64"}}}


def made(name):
    return mbrl.make_task(name, threads=1), gymnasium.make(name).unwrapped


def reference_point(name, t, context):
    """Where the tip should be at time t dt, written down a second time."""
    if "Reach" in name:
        return np.asarray(context)
    width, phase = context
    angle = 2 * math.pi * 0.04 * t / 4.0 + phase
    return np.array([0.3, width * math.sin(angle), 0.5 + width / 2 * math.sin(2 * angle)])


def tip_of(env, qpos):
    data = mujoco.MjData(env.model)
    data.qpos[:] = qpos
    mujoco.mj_kinematics(env.model, data)
    return data.site("fingertip").xpos.copy()


@pytest.mark.parametrize("name", NAMES)
def test_formulas_are_the_step_from_a_set_state_at_a_time_with_a_context(name):
    task, env = made(name)
    env.reset(seed=0)
    state, action, context = points(task, 6)
    for t in (0, 1, 37):
        ours = task.step(state, action, t=t, context=context)
        reward = task.reward(state, action, ours.next_state, t=t, context=context)
        observed = task.observe(ours.next_state, t=t + 1, context=context)
        for row in range(6):
            goal = context[row].numpy()
            following, earned, terminated, seen = stepped(
                env, state[row], action[row], t=t, context=goal
            )
            np.testing.assert_array_equal(ours.next_state[row], following)
            np.testing.assert_array_equal(ours.observation[row], seen)
            np.testing.assert_allclose(observed[row], seen, rtol=0, atol=1e-15)
            assert float(reward[row]) == pytest.approx(earned, abs=1e-15)
            assert not terminated
            # The reward and the observation of the docstrings, from MuJoCo's own tip.
            tip, qpos = tip_of(env, following[:3]), following[:3]
            error = tip - reference_point(name, t + 1, goal)
            distance = math.sqrt(error @ error + 1e-4) - 0.01
            cost = 0.003 * float((action[row] ** 2).sum())
            assert earned == pytest.approx(-distance - cost, abs=1e-12)
            later = [0] if "Reach" in name else [0, 4]
            ways = [reference_point(name, t + 1 + k, goal) - tip for k in later]
            expected = [np.sin(qpos), np.cos(qpos), following[3:], *ways]
            np.testing.assert_allclose(seen, np.concatenate(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_reset_draws_from_the_environments_own_generator(name):
    task, env = made(name)
    seeds = torch.randint(2**31 - 1, (5,), generator=torch.Generator().manual_seed(11)).tolist()
    state, context = task.start(5, torch.Generator().manual_seed(11))
    observed = task.observe(state, context=context)
    for row, seed in enumerate(seeds):
        seen, _ = env.reset(seed=seed)
        np.testing.assert_array_equal(state[row], np.concatenate([env.data.qpos, env.data.qvel]))
        np.testing.assert_array_equal(context[row], env.context)
        np.testing.assert_allclose(observed[row], seen, rtol=0, atol=1e-15)
        np.testing.assert_allclose(
            env.data.mocap_pos[0], reference_point(name, 0, env.context), rtol=0, atol=1e-12
        )
    assert len(set(context[:, 0].tolist())) == 5
    np.random.seed(1)  # noqa: NPY002 - what a reset must not depend on
    assert torch.equal(task.start(5, torch.Generator().manual_seed(11)).context, context)


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_differences_of_the_environments_steps(name):
    task, env = made(name)
    env.reset(seed=0)
    state, action, context = points(task, 3)
    x, u = state.clone().requires_grad_(), action.clone().requires_grad_()
    dynamics = task.dynamics(centered=True)
    total = task.reward(x, u, dynamics(x, u), t=5, context=context)
    seen = task.observe(x, t=5, context=context)
    for row in range(3):
        goal = context[row].numpy()
        gx, gu = torch.autograd.grad(total[row], (x, u), retain_graph=True)
        (ox,) = torch.autograd.grad(seen[row].square().sum(), x, retain_graph=True)

        def earned(point, goal=goal):
            return stepped(env, point[:6], point[6:], t=5, context=goal)[1]

        def looked(point, goal=goal):
            place(env, point, t=5, context=goal)
            return float((env._get_obs() ** 2).sum())

        point = torch.cat([state[row], action[row]]).numpy()
        expected = [
            (earned(point + h) - earned(point - h)) / 2e-6 for h in 1e-6 * np.eye(len(point))
        ]
        np.testing.assert_allclose(torch.cat([gx[row], gu[row]]), expected, rtol=1e-5, atol=1e-7)
        expected = [along(looked, env.model, point[:6], dx) for dx in np.eye(6)]
        np.testing.assert_allclose(ox[row], expected, rtol=1e-5, atol=1e-7)
        others = [r for r in range(3) if r != row]
        assert not gx[others].any()


@pytest.mark.parametrize("name", NAMES)
def test_an_unrolled_graph_earns_what_its_policy_earns_in_the_environment(name):
    task = mbrl.make_task(name, threads=1)
    graph = mbrl.build_graph(GRAPH, task, generator=torch.Generator().manual_seed(4))
    policy = graph.nodes["policy"].policy
    env, states, contexts = gymnasium.make(name), [], []
    for seed in (20, 21):
        env.reset(seed=seed)
        states.append(env.unwrapped.state_vector())
        contexts.append(env.unwrapped.context)
    trajectory = graph.unroll(
        torch.from_numpy(np.array(states)), 100, context=torch.from_numpy(np.array(contexts))
    )
    with torch.no_grad():
        result = evaluate(task, lambda o: policy(torch.from_numpy(o)).numpy(), episodes=2, seed=20)
    assert result.lengths.tolist() == [100, 100]
    np.testing.assert_allclose(trajectory.rewards.detach().sum(0), result.returns, atol=1e-10)
    assert abs(result.returns[0] - result.returns[1]) > 1e-3


def test_goals_are_uniform_in_the_shell_that_the_tip_can_reach():
    task, env = made("mbrl/Reach-v0")
    goals = task.start(1500, torch.Generator().manual_seed(0)).context.numpy() - SHOULDER
    radius = np.linalg.norm(goals, axis=1)
    low, high = 0.25 - 0.2, 0.25 + 0.2
    assert low <= radius.min()
    assert radius.max() <= high
    # Uniform in volume: cubes of radii and heights over radii are uniform (Kolmogorov-Smirnov, 1 %
    # with 1500 draws: 0.042).
    for values, (a, b) in (
        (radius**3, (low**3, high**3)),
        (goals[:, 2] / radius, (-1.0, 1.0)),
        (np.arctan2(goals[:, 1], goals[:, 0]), (-math.pi, math.pi)),
    ):
        share = np.sort((values - a) / (b - a))
        assert np.abs(share - np.arange(1, 1501) / 1500).max() < 0.042
    # Every one of them is reached: elbow by the law of cosines, then pitch and yaw.
    for goal, r in zip(goals[:50], radius, strict=False):
        elbow = -math.acos(np.clip((r**2 - 0.25**2 - 0.2**2) / (2 * 0.25 * 0.2), -1, 1))
        inner = math.atan2(0.2 * math.sin(elbow), 0.25 + 0.2 * math.cos(elbow))
        pitch = math.asin(goal[2] / r) - inner
        yaw = math.atan2(goal[1], goal[0])
        tip = tip_of(env, [yaw, pitch, elbow])
        np.testing.assert_allclose(tip - SHOULDER, goal, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_drawn_is_what_is_rewarded(name):
    env = gymnasium.make(name).unwrapped
    env.reset(seed=3)
    for t in range(1, 4):
        *_, info = env.step(np.array([0.5, -0.2, 0.3]))
        goal = reference_point(name, t, env.context)
        tip = tip_of(env, env.data.qpos)
        np.testing.assert_allclose(env.data.body("goal").xpos, goal, rtol=0, atol=1e-12)
        np.testing.assert_allclose(env.data.site("fingertip").xpos, tip, rtol=0, atol=1e-12)
        assert info["distance"] == pytest.approx(np.linalg.norm(tip - goal), abs=1e-12)


def test_options_reach_the_environment_and_a_wrong_context_is_named():
    task = mbrl.make_task("mbrl/Reach-v0", threads=1, control_cost_weight=1.0)
    state, action, context = points(task, 2)
    free = mbrl.make_task("mbrl/Reach-v0", threads=1, control_cost_weight=0.0)
    gap = free.reward(state, action, state, context=context) - task.reward(
        state, action, state, context=context
    )
    torch.testing.assert_close(gap, action.square().sum(-1))
    with pytest.raises(ArgumentError, match=r"context must have shape \[2, 3\], got \[2, 2\]"):
        task.reward(state, action, state, context=context[:, :2])
    still = mbrl.make_task("mbrl/Track-v0", threads=1, reset_noise_scale=0.0)
    assert torch.equal(*still.reset(2, torch.Generator().manual_seed(0)))


@pytest.mark.slow
def test_a_short_training_follows_the_curve_better(tmp_path, request):
    def trained(updates):
        config = mbrl.load_config(
            request.config.rootpath / "configs" / "track.yaml",
            [
                f"algorithm.updates={updates}",
                "algorithm.batch=8",
                "threads=1",
                "evaluation.episodes=4",
                f"output_dir={tmp_path}",
            ],
        )
        return mbrl.run(config).summary["eval_return_mean"]

    # 100 steps, half a metre away to begin with.
    assert trained(40) > trained(1) + 20
