"""The environment against costs written out, its resets, its errors, and training in it."""

import copy
import pickle

import gymnasium
import mujoco
import numpy as np
import pytest
import torch

import mbrl
from mbrl.errors import ConfigError, ModelError
from mbrl.runner import run
from mbrl.tasks.residual import ResidualEnv
from tests.models import reference
from tests.tasks.common import stepped
from tests.tiny import TINY

NAME = "mbrl/Residual-v0"
SWING_UP = {
    "upright": {"residual": {"kind": "angle", "joint": "hinge"}, "norm": "l2", "weight": 2},
    "centre": {"residual": {"kind": "joint_position", "joint": "slider"}},
    "slow": {"residual": {"kind": "joint_velocity"}, "weight": 0.1},
    "effort": {"residual": {"kind": "control"}, "weight": 0.01},
}
CARTPOLE = {"model": "cartpole.xml", "cost": SWING_UP, "frame_skip": 2}
HOPPER = {
    "model": "hopper.xml",
    "frame_skip": 4,
    "cost": {
        "high": {
            "residual": {
                "kind": "difference",
                "of": [
                    {"kind": "body_position", "body": "torso", "axes": "z"},
                    {"kind": "body_position", "body": "foot", "axes": "z"},
                ],
                "target": 1.2,
            }
        },
        "fast": {
            "residual": {"kind": "com_velocity", "body": "torso", "axes": "x", "target": 1.0},
            "norm": "smooth_abs",
        },
        "effort": {"residual": {"kind": "control"}, "weight": 0.01},
    },
}
MUSCLES = {
    "model": "muscle_arm.xml",
    "frame_skip": 2,
    "reset": {"keyframe": "relaxed", "position_noise": 0.1},
    "cost": {
        "reach": {
            "residual": {
                "kind": "difference",
                "of": [
                    {"kind": "site_position", "site": "hand", "axes": "xy"},
                    {"kind": "site_position", "site": "target", "axes": "xy"},
                ],
            },
            "norm": {"kind": "l2", "p": 0.02},
        },
        "effort": {"residual": {"kind": "activation"}, "weight": 0.01},
    },
}


def made(**changes):
    return mbrl.make_task(NAME, threads=1, **{**CARTPOLE, **changes})


def cartpole_cost(x, u):
    """Of the state after the action, written out."""
    cart, angle, *velocities = x
    way = (np.cos(angle) - 1) ** 2 + np.sin(angle) ** 2
    return (
        2 * (np.sqrt(way + 0.01) - 0.1)
        + 0.5 * cart**2
        + 0.1 * 0.5 * np.dot(velocities, velocities)
        + 0.01 * 0.5 * np.dot(u, u)
    )


def test_the_reward_of_a_step_is_the_cost_of_where_it_leads():
    env = gymnasium.make(NAME, max_episode_steps=20, **CARTPOLE)
    observation, _ = env.reset(seed=0)
    for step in range(20):
        action = np.array([np.sin(step)])
        observation, reward, terminated, truncated, info = env.step(action)
        data = env.unwrapped.data
        np.testing.assert_array_equal(observation, np.concatenate([data.qpos, data.qvel]))
        assert -reward == pytest.approx(cartpole_cost(observation, action), rel=1e-12)
        assert not terminated
        assert truncated == (step == 19)
        assert info == {}


@pytest.mark.parametrize("arguments", [CARTPOLE, HOPPER, MUSCLES], ids=["cart", "hopper", "arm"])
def test_step_says_what_tensor_reward_says(arguments):
    task = mbrl.make_task(NAME, threads=1, **arguments)
    assert task.has_reward_formula
    assert not task.uses_time
    state = task.reset(3, torch.Generator().manual_seed(1))
    rng = np.random.default_rng(2)
    low, high = task.action_low.numpy(), task.action_high.numpy()
    env = task.make_env().unwrapped
    env.reset(seed=0)
    for _ in range(5):
        action = rng.uniform(low, high, (3, len(low)))
        transition = task.step(state, torch.from_numpy(action))
        reward = task.reward(state, torch.from_numpy(action), transition.next_state)
        assert torch.equal(transition.observation, transition.next_state)
        for i in range(3):
            following, told, terminated, _ = stepped(env, state[i].numpy(), action[i])
            np.testing.assert_array_equal(following, transition.next_state[i])
            assert told == transition.reward[i] == reward[i]
            assert not terminated
        state = transition.next_state
    action = torch.from_numpy(action)
    assert torch.equal(-task.residual_cost(state, action), task.reward(state, action, state))
    assert task.residual_cost.simulator is task.simulator


def test_a_reward_that_follows_a_recording_has_a_time(tmp_path):
    time = np.linspace(0, 1, 11)
    motion = np.stack([np.sin(time), np.cos(time)], axis=1)
    np.savez(tmp_path / "motion.npz", time=time, qpos=motion)
    cost = {"follow": {"residual": {"kind": "track", "recording": str(tmp_path / "motion.npz")}}}
    task = made(cost=cost)
    assert task.uses_time
    assert task.residual_cost.uses_time
    env = task.make_env()
    env.reset(seed=0)
    state = torch.from_numpy(task.state_of(env))[None]
    for t in range(7):
        action = torch.full((1, 1), 0.3, dtype=torch.float64)
        transition = task.step(state, action, t=t)
        after, reward, *_ = env.step(action[0].numpy())
        now = 0.02 * (t + 1)
        way = after[:2] - [np.interp(now, time, column) for column in motion.T]
        assert -reward == pytest.approx(0.5 * way @ way, rel=1e-12)
        assert reward == transition.reward.item()
        assert reward == task.reward(state, action, transition.next_state, t=t).item()
        state = transition.next_state


def test_rewards_are_differentiable():
    task = made()
    state = task.reset(2, torch.Generator().manual_seed(0))
    action = torch.tensor([[0.3], [-0.5]], dtype=torch.float64, requires_grad=True)
    following = task.dynamics()(state, action)
    task.reward(state, action, following).sum().backward()
    for i in range(2):
        ends = []
        for h in (-1e-6, 1e-6):
            moved = action[i].detach().numpy() + h
            after = reference.steps(task.simulator.model, state[i : i + 1].numpy(), moved[None], 2)
            ends.append(-cartpole_cost(after[0], moved))
        wanted = (ends[1] - ends[0]) / 2e-6
        assert action.grad[i].item() == pytest.approx(wanted, rel=1e-6)


def test_models_are_found_where_they_are(tmp_path, monkeypatch):
    ours = made().make_env().unwrapped.fullpath
    assert ours.endswith("assets/cartpole.xml")
    assert (
        mbrl.make_task(NAME, threads=1, **HOPPER)
        .make_env()
        .unwrapped.fullpath.endswith("gymnasium/envs/mujoco/assets/hopper.xml")
    )
    with open(ours) as file:
        text = file.read().replace('gear="10"', 'gear="3"')
    (tmp_path / "cartpole.xml").write_text(text)
    monkeypatch.chdir(tmp_path)  # what is here comes first
    assert made().simulator.model.actuator_gear[0, 0] == 3


def test_resets():
    reset = {
        "keyframe": "hanging",
        "joints": {"slider": [0.5, 1.0]},
        "position_noise": 0.01,
        "velocity_noise": 0.2,
    }
    states = made(reset=reset).reset(200, torch.Generator().manual_seed(0)).numpy()
    assert 0.49 <= states[:, 0].min() < 0.55
    assert 0.95 < states[:, 0].max() <= 1.01
    away = np.abs(states[:, 1] - np.pi).max()
    assert 0.009 < away <= 0.01
    assert 0.19 < np.abs(states[:, 2:]).max() <= 0.2
    again = made(reset=reset).reset(200, torch.Generator().manual_seed(0)).numpy()
    np.testing.assert_array_equal(states, again)
    fixed = made(reset={"qpos": [0.1, 0.2], "joints": {"hinge": 1}})
    start = fixed.reset(2, torch.Generator().manual_seed(0))
    np.testing.assert_array_equal(start, [[0.1, 1, 0, 0]] * 2)


def test_noise_keeps_quaternions_on_their_sphere():
    cost = {"up": {"residual": {"kind": "body_position", "body": "torso", "axes": "z"}}}
    options = {"model": "ant.xml", "cost": cost, "reset": {"position_noise": 0.5}}
    states = mbrl.make_task(NAME, threads=1, **options).reset(5, torch.Generator().manual_seed(0))
    np.testing.assert_allclose(states[:, 3:7].norm(dim=1), 1, rtol=1e-12)
    assert (states[:, 3] < 1).all()


def test_terminal_cost_and_success_are_the_tasks():
    term = {"residual": {"kind": "angle", "joint": "hinge"}, "below": 0.1}
    task = made(terminal={"up": SWING_UP["upright"]}, success={"terms": {"up": term}, "last": 0.1})
    state = task.reset(1, torch.Generator().manual_seed(0))
    idle = torch.zeros(1, 1)
    found = task.terminal_cost(state, idle).item()
    way = 2 - 2 * np.cos(state[0, 1].item())
    assert found == pytest.approx(2 * (np.sqrt(way + 0.01) - 0.1), rel=1e-9, abs=1e-12)
    assert task.success.steps == 5
    plain = made()
    assert plain.terminal_cost is None
    assert plain.success is None


@pytest.mark.parametrize("again", [copy.copy, lambda t: pickle.loads(pickle.dumps(t))])
def test_copies_of_the_task(again):
    task = made(reset={"position_noise": 0.1}, max_episode_steps=30)
    other = again(task)
    assert other.max_episode_steps == 30
    for generator in (torch.Generator().manual_seed(s) for s in range(2)):
        state = task.reset(2, generator)
        action = torch.ones(2, 1)
        assert torch.equal(task.step(state, action).reward, other.step(state, action).reward)


def test_an_environment_can_be_pickled():
    env = ResidualEnv(**CARTPOLE)
    other = pickle.loads(pickle.dumps(env))
    for each in (env, other):
        each.reset(seed=3)
    assert env.step(np.array([0.4]))[1] == other.step(np.array([0.4]))[1]


def test_a_policy_is_trained_through_it(tmp_path):
    config = {
        **TINY,
        "task": NAME,
        "task_args": {
            **CARTPOLE,
            "reset": {"keyframe": "hanging"},
            "max_episode_steps": 12,
            "success": {
                "terms": {
                    "low": {"residual": {"kind": "angle", "joint": "hinge"}, "above": -3},
                }
            },
        },
        "eval_task": None,
        "output_dir": str(tmp_path),
    }
    summary = run(config).summary
    assert summary["eval_length_mean"] == 12
    assert summary["eval_success_rate"] == 1.0
    assert np.isfinite(summary["eval_return_mean"])


def test_a_run_names_the_key_that_is_wrong(tmp_path):
    wrong = {"a": {"residual": {"kind": "angle", "joint": "hing"}}}
    config = {**TINY, "task": NAME, "eval_task": None, "output_dir": str(tmp_path)}
    with pytest.raises(ConfigError, match=r"^task_args\.cost\.a\.residual\.joint: no joint 'hing'"):
        run({**config, "task_args": {**CARTPOLE, "cost": wrong}})
    with pytest.raises(ConfigError, match=r"^eval_task_args\.cost\.a\.residual\.joint: no joint"):
        run({**config, "task_args": CARTPOLE, "eval_task_args": {"cost": wrong}})
    unnamed = {"a": {"weight": 1.0}}
    with pytest.raises(ConfigError, match=r"^missing key 'task_args\.terminal\.a\.residual'$"):
        run({**config, "task_args": {**CARTPOLE, "terminal": unnamed}})
    with pytest.raises(ConfigError, match=r"^missing key 'eval_task_args\.terminal\.a\.residual'$"):
        run({**config, "task_args": CARTPOLE, "eval_task_args": {"terminal": unnamed}})


GOOD = {"residual": {"kind": "control"}}
BAD = [
    ({"model": ...}, r"^missing key 'task_args\.model'$"),
    ({"cost": ...}, r"^missing key 'task_args\.cost'$"),
    ({"costs": {}}, r"^unknown key 'task_args\.costs'; .*did you mean 'cost'\?$"),
    ({"model": 3}, r"^task_args\.model must be a string, got 3$"),
    ({"model": "no.xml"}, r"^task_args\.model: no such MJCF file: no\.xml$"),
    ({"frame_skip": 0}, r"^task_args\.frame_skip must be a positive integer, got 0$"),
    ({"frame_skip": True}, r"^task_args\.frame_skip must be an integer, got True$"),
    ({"cost": {}}, r"^task_args\.cost must have a term, got none$"),
    ({"cost": {"a": {**GOOD, "weight": 0}}}, r"^task_args\.cost\.a\.weight must be positive"),
    ({"cost": {"a": {**GOOD, "after": -1}}}, r"^task_args\.cost\.a\.after must not be negative"),
    ({"terminal": {"a": {"residual": {}}}}, r"^task_args\.terminal\.a\.residual\.kind: unknown"),
    ({"reset": {"nois": 1}}, r"^unknown key 'task_args\.reset\.nois'; legal: joints, keyframe"),
    ({"reset": {"position_noise": -1}}, r"^task_args\.reset\.position_noise must be 0 or more"),
    ({"reset": {"keyframe": "up"}}, r"^task_args\.reset\.keyframe: no keyframe 'up'; legal: hang"),
    ({"reset": {"qpos": [1]}}, r"^task_args\.reset\.qpos must have 2 numbers, got 1$"),
    ({"reset": {"joints": {"hing": 1}}}, r"^task_args\.reset\.joints: no joint 'hing'; .*'hinge'"),
    ({"reset": {"joints": {"hinge": [1, 0]}}}, r"joints\.hinge must be a range \[low, high\]"),
    ({"reset": {"joints": {"hinge": "x"}}}, r"^task_args\.reset\.joints must be a mapping"),
    ({"success": {"last": 1}}, r"^missing key 'task_args\.success\.terms'$"),
    ({"success": {"terms": {}}}, r"^task_args\.success\.terms must have a term, got none$"),
    ({"success": {"terms": {"a": GOOD}}}, r"success\.terms\.a must have below or above, got neit"),
    ({"success": {"terms": {"a": {**GOOD, "below": 0}}}}, r"terms\.a\.below must be positive"),
    ({"success": {"terms": {"a": {**GOOD, "below": 1}}, "last": -1}}, r"last must be 0 seconds"),
]


@pytest.mark.parametrize(("changes", "message"), BAD)
def test_bad_arguments(changes, message):
    arguments = {k: v for k, v in {**CARTPOLE, **changes}.items() if v is not ...}
    with pytest.raises(ConfigError, match=message) as caught:
        mbrl.make_task(NAME, threads=1, **arguments)
    assert "\n" not in str(caught.value)


def test_a_broken_model(tmp_path):
    (tmp_path / "broken.xml").write_text("<mujoco><worldbody><boby/></worldbody></mujoco>")
    with pytest.raises(ModelError, match=r"^task_args\.model: .*broken\.xml does not compile: XML"):
        made(model=str(tmp_path / "broken.xml"))


@pytest.mark.parametrize("model", ["cartpole", "acrobot", "point_mass", "muscle_arm"])
def test_our_models_stay_finite_under_any_control(model):
    task = mbrl.make_task(NAME, threads=1, model=f"{model}.xml", cost={"a": GOOD})
    assert torch.isfinite(task.action_low).all()
    sim = task.simulator
    rng = np.random.default_rng(0)
    low, high = task.action_low.numpy(), task.action_high.numpy()
    ctrls = rng.uniform(low, high, (600, 4, sim.spec.nu))
    ctrls[300:] = np.where(ctrls[300:] > (low + high) / 2, high, low)
    states = sim.rollout(task.reset(4, torch.Generator().manual_seed(0)).numpy(), ctrls)
    assert np.abs(states[:, :, : sim.spec.nq]).max() < 200
    limited = sim.model.jnt_limited.astype(bool)
    reached = states[:, :, : sim.spec.nq][..., limited]
    (lower, upper) = sim.model.jnt_range[limited].T
    assert (reached > lower - 0.1).all()
    assert (reached < upper + 0.1).all()


def test_muscles_pull_the_way_they_are_named():
    """Alone and fully activated, a flexor flexes its joint, and an extensor extends it."""
    model = mbrl.make_task(NAME, threads=1, **MUSCLES).simulator.model
    signs = {
        "pectoralis": (1, 0),
        "deltoid": (-1, 0),
        "brachialis": (0, 1),
        "lateral_triceps": (0, -1),
        "biceps": (1, 1),
        "triceps": (-1, -1),
    }
    data = mujoco.MjData(model)
    for shoulder in np.linspace(*model.joint("shoulder").range, 7):
        for elbow in np.linspace(*model.joint("elbow").range, 7):
            for name, sign in signs.items():
                torques = []
                for activation in (0.0, 1.0):
                    mujoco.mj_resetData(model, data)
                    data.qpos[:] = shoulder, elbow
                    data.act[model.actuator(name).actadr] = activation
                    mujoco.mj_forward(model, data)
                    torques.append(data.qfrc_actuator.copy())
                gained = torques[1] - torques[0]
                for wanted, torque in zip(sign, gained, strict=True):
                    assert wanted * torque > 0.5 if wanted else abs(torque) < 1e-9
