"""Rewards, observations and terminations at arbitrary points against the environments' own code."""

import mujoco
import numpy as np
import pytest
import torch

from tests.tasks.stock.common import (
    NAMES,
    WITH_FORMULA,
    WITHOUT_FORMULA,
    place,
    shuffled,
    stock,
    teleport,
)

EXACT = {"rtol": 1e-9, "atol": 1e-9}


def check(env, formulas, state, action, next_state):
    """Hold all that the formulas say against the environment's step to the next state."""
    terminated = formulas.terminated(next_state)
    observed = formulas.observation(state)
    rewards = formulas.reward and formulas.reward(state, action, next_state)
    ended = []
    points = (part.numpy() for part in (state, action, next_state))
    for row, point in enumerate(zip(*points, strict=True)):
        place(env, point[0])
        np.testing.assert_allclose(observed[row], env._get_obs(), **EXACT)
        _, reward, end, _, _ = teleport(env, *point)
        if rewards is not None:
            np.testing.assert_allclose(rewards[row], reward, **EXACT)
        assert bool(terminated[row]) == end
        ended.append(end)
    return ended


@pytest.mark.parametrize("name", NAMES)
def test_formulas_without_any_lag_are_exact(name):
    env, formulas = stock(name)
    check(env, formulas, *shuffled(name))
    assert (formulas.reward is None) == (name in WITHOUT_FORMULA)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("InvertedPendulum-v5", {"frame_skip": 3}),
        ("InvertedDoublePendulum-v5", {"healthy_reward": 3.0, "frame_skip": 2}),
        (
            "HalfCheetah-v5",
            {
                "forward_reward_weight": 3.0,
                "ctrl_cost_weight": 0.7,
                "frame_skip": 2,
                "exclude_current_positions_from_observation": False,
            },
        ),
        (
            "Swimmer-v5",
            {
                "forward_reward_weight": 0.5,
                "ctrl_cost_weight": 0.2,
                "frame_skip": 1,
                "exclude_current_positions_from_observation": False,
            },
        ),
        (
            "Hopper-v5",
            {
                "forward_reward_weight": 2.0,
                "ctrl_cost_weight": 0.3,
                "healthy_reward": 0.6,
                "healthy_state_range": (-1.5, 1.5),
                "healthy_z_range": (1.1, 1.24),
                "healthy_angle_range": (-0.05, 0.1),
                "frame_skip": 2,
                "exclude_current_positions_from_observation": False,
            },
        ),
        ("Hopper-v5", {"terminate_when_unhealthy": False, "healthy_angle_range": (0.0, 0.05)}),
        (
            "Walker2d-v5",
            {
                "forward_reward_weight": 2.0,
                "ctrl_cost_weight": 0.3,
                "healthy_reward": 0.6,
                "healthy_z_range": (1.1, 1.24),
                "healthy_angle_range": (-0.05, 0.3),
                "frame_skip": 2,
                "exclude_current_positions_from_observation": False,
            },
        ),
        ("Walker2d-v5", {"terminate_when_unhealthy": False, "healthy_z_range": (1.2, 1.3)}),
        (
            "Reacher-v5",
            {"reward_dist_weight": 2.0, "reward_control_weight": 0.3, "frame_skip": 3},
        ),
        (
            "Pusher-v5",
            {
                "reward_near_weight": 0.9,
                "reward_dist_weight": 2.0,
                "reward_control_weight": 0.3,
                "frame_skip": 2,
            },
        ),
        (
            "Ant-v5",
            {
                "healthy_z_range": (0.5, 0.7),
                "contact_force_range": (0.25, 0.5),
                "exclude_current_positions_from_observation": False,
            },
        ),
        (
            "Ant-v5",
            {"include_cfrc_ext_in_observation": False, "terminate_when_unhealthy": False},
        ),
        (
            "Ant-v5",
            {
                "contact_cost_weight": 0.0,
                "forward_reward_weight": 2.0,
                "ctrl_cost_weight": 0.3,
                "healthy_reward": 0.6,
                "healthy_z_range": (0.5, 0.7),
                "frame_skip": 2,
            },
        ),
        (
            "Humanoid-v5",
            {
                "healthy_z_range": (1.1, 1.3),
                "include_cinert_in_observation": False,
                "include_cfrc_ext_in_observation": False,
                "exclude_current_positions_from_observation": False,
            },
        ),
        ("Humanoid-v5", {"include_cvel_in_observation": False, "terminate_when_unhealthy": False}),
        ("HumanoidStandup-v5", {"include_qfrc_actuator_in_observation": False}),
        (
            "HumanoidStandup-v5",
            {f"include_{field}_in_observation": False for field in ("cinert", "cvel", "cfrc_ext")},
        ),
        (
            "HumanoidStandup-v5",
            {
                f"include_{field}_in_observation": False
                for field in ("cinert", "cvel", "cfrc_ext", "qfrc_actuator")
            },
        ),
    ],
)
def test_constructor_arguments_reach_the_formulas(name, options):
    env, formulas = stock(name, **options)
    points = shuffled(name)
    check(env, formulas, *points)
    # Each of them says something else than the defaults do: none is ignored by environment and
    # formula alike.
    _, defaults = stock(name)
    differs = formulas.observation(points[0]).shape != defaults.observation(points[0]).shape
    differs |= not torch.equal(formulas.terminated(points[2]), defaults.terminated(points[2]))
    if defaults.reward is not None:
        differs |= not torch.equal(formulas.reward(*points), defaults.reward(*points))
    assert differs or name == "InvertedPendulum-v5"


def test_only_an_ant_that_is_not_charged_for_contacts_has_a_formula_of_its_reward():
    for options, has in (
        ({"contact_cost_weight": 0.0}, True),
        ({"contact_cost_weight": 0.0, "main_body": "torso"}, True),
        ({"contact_cost_weight": 0.0, "main_body": 4}, False),
        ({}, False),
    ):
        assert (stock("Ant-v5", **options)[1].reward is not None) == has


def changed(env, path, edit):
    """Write the environment's model after an edit of its specification."""
    spec = mujoco.MjSpec.from_file(env.fullpath)
    edit(spec)
    path.write_text(spec.to_xml())
    return {"xml_file": str(path)}


def longer(spec):
    """Other lengths, mounts and axes than those of the stock models."""
    for index, body in enumerate(spec.bodies[1:]):
        body.pos = body.pos * 1.3 + 0.01 * (1 + index)
        body.quat = [1.0, 0.1, -0.2, 0.05 * index]
    for site in spec.sites:
        site.pos = site.pos * 1.2 + 0.02


@pytest.mark.parametrize("name", ["InvertedDoublePendulum-v5", "Reacher-v5", "Pusher-v5"])
def test_another_model_of_the_same_structure_has_its_own_kinematics(name, tmp_path):
    original, _ = stock(name)
    options = changed(original, tmp_path / "model.xml", longer)
    env, formulas = stock(name, **options)
    points = shuffled(name)
    check(env, formulas, *points)
    _, defaults = stock(name)
    assert float((formulas.reward(*points) - defaults.reward(*points)).abs().min()) > 1e-4


@pytest.mark.parametrize("name", ["Ant-v5", "Humanoid-v5"])
def test_contact_forces_that_a_sensor_asks_for_are_observed_at_reset(name, tmp_path):
    def feel(spec):
        site = spec.body("torso").add_site(name="felt")
        spec.add_sensor(
            name="accelerometer",
            type=mujoco.mjtSensor.mjSENS_ACCELEROMETER,
            objtype=mujoco.mjtObj.mjOBJ_SITE,
            objname=site.name,
        )

    original, _ = stock(name)
    env, formulas = stock(name, **changed(original, tmp_path / "model.xml", feel))
    state, action, next_state = shuffled(name)
    check(env, formulas, state, action, next_state)
    size = 6 * (env.model.nbody - 1)
    assert float(formulas.observation(state)[:, -size:].abs().max()) > 0.1


# --- terminations around their thresholds --------------------------------------------------------

EDGES = {
    "InvertedPendulum-v5": {1: (-0.2, 0.2)},
    "Hopper-v5": {1: (0.7,), 2: (-0.2, 0.2), 4: (-100.0, 100.0), 9: (-100.0, 100.0)},
    "Walker2d-v5": {1: (0.8, 2.0), 2: (-1.0, 1.0)},
    "Ant-v5": {2: (0.2, 1.0)},
    "Humanoid-v5": {2: (1.0, 2.0)},
}


@pytest.mark.parametrize("name", EDGES)
def test_terminations_at_their_thresholds(name):
    env, formulas = stock(name)
    upright = np.concatenate([env.init_qpos, env.init_qvel])
    rows = []
    for index, edges in EDGES[name].items():
        for edge in edges:
            for value in (np.nextafter(edge, -np.inf), edge, np.nextafter(edge, np.inf)):
                rows.append(upright.copy())
                rows[-1][index] = value
    state, action = torch.from_numpy(np.array(rows)), torch.zeros(len(rows), env.model.nu)
    ended = check(env, formulas, state, action.double(), state)
    assert 0 < sum(ended) < len(ended)


def test_the_hoppers_state_range_begins_with_its_angle():
    env, formulas = stock("Hopper-v5", healthy_state_range=(-0.1, 0.1))
    rows = np.zeros((12, 12))
    rows[:, 1] = 1.25  # its height and place are no part of it
    rows[:, 0] = 5.0
    rows[2:] += 0.11 * np.eye(12)[2:]
    state = torch.from_numpy(rows)
    ended = check(env, formulas, state, torch.zeros(12, 3).double(), state)
    assert ended == [False] * 2 + [True] * 10


@pytest.mark.parametrize("name", ["Hopper-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_terminations_of_states_that_are_not_finite(name, value):
    env, formulas = stock(name)
    upright = np.concatenate([env.init_qpos, env.init_qvel])
    for index in range(len(upright)):
        state = upright.copy()
        state[index] = value
        env.data.qpos[:], env.data.qvel[:] = np.split(state, [env.model.nq])
        assert bool(formulas.terminated(torch.from_numpy(state)[None])) == (not env.is_healthy)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_the_inverted_pendulum_ends_where_anything_is_not_finite(value, monkeypatch):
    env, formulas = stock("InvertedPendulum-v5")
    monkeypatch.setattr(env, "do_simulation", lambda *_: None)
    for index in range(4):
        state = np.zeros(4)
        state[index] = value
        env.data.qpos[:], env.data.qvel[:] = state[:2], state[2:]
        _, reward, terminated, _, _ = env.step(np.zeros(1))
        row = torch.from_numpy(state)[None]
        assert bool(formulas.terminated(row)) == terminated
        assert float(formulas.reward(row, torch.zeros(1, 1), row)) == reward


def test_the_double_pendulum_ends_at_one_metre():
    env, formulas = stock("InvertedDoublePendulum-v5")
    angle = np.arccos(1 / 1.2)  # both poles of 0.6 m in one line
    rows = np.zeros((7, 6))
    rows[:, 1] = angle + np.array([-1e-3, -1e-6, -1e-9, 1e-9, 1e-6, 1e-3, 0.5])
    state = torch.from_numpy(rows)
    ended = check(env, formulas, state, torch.zeros(7, 1).double(), state)
    assert ended == [False] * 3 + [True] * 4


@pytest.mark.parametrize("name", WITH_FORMULA)
def test_formulas_take_further_leading_dimensions(name):
    _, formulas = stock(name)
    points = shuffled(name, 6)
    flat = formulas.reward(*points), formulas.terminated(points[2]), formulas.observation(points[0])
    split = [part.unflatten(0, (2, 3)) for part in points]
    deep = formulas.reward(*split), formulas.terminated(split[2]), formulas.observation(split[0])
    for one, other in zip(flat, deep, strict=True):
        torch.testing.assert_close(other.flatten(0, 1), one, rtol=0, atol=1e-12)
