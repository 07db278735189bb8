"""The arm with six muscles: what it tracks, its derivatives, and its plan in plain MuJoCo."""

from pathlib import Path

import mujoco
import numpy as np
import pytest
import torch

import mbrl
from benchmarks import muscle_arm, reach_and_return
from mbrl.planning import ILQR, RandomShooting, make_problem

ASSETS = Path(muscle_arm.ROOT) / "assets"
FRAMES = np.loadtxt(ASSETS / "reach_and_return.csv", delimiter=",", skiprows=1)
TIME, QPOS, QVEL = FRAMES[:, 0], FRAMES[:, 1:3], FRAMES[:, 3:5]
WRITTEN = 1e-6  # the last digit of the file


@pytest.fixture(scope="module")
def tracking():
    return muscle_arm.Tracking()


@pytest.fixture
def model():
    return mujoco.MjModel.from_xml_path(str(ASSETS / "muscle_arm.xml"))


def hand_of(model, qpos):
    data = mujoco.MjData(model)
    data.qpos[:] = qpos
    mujoco.mj_kinematics(model, data)
    return data.site("hand").xpos[:2].copy()


def test_the_recording_is_what_its_script_writes(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["reach_and_return.py", str(tmp_path / "again.csv")])
    reach_and_return.main()
    again = np.loadtxt(tmp_path / "again.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(again, FRAMES, atol=1.5 * WRITTEN)


def test_the_recording_fits_the_model(model):
    assert np.isfinite(FRAMES).all()
    np.testing.assert_allclose(TIME, np.arange(201) / 100, atol=WRITTEN)
    low, high = model.jnt_range.T
    assert (QPOS - low > 0.05).all()
    assert (high - QPOS > 0.05).all()
    relaxed = model.key("relaxed").qpos
    for end in (0, -1):
        np.testing.assert_allclose(QPOS[end], relaxed, atol=WRITTEN)
        np.testing.assert_array_equal(QVEL[end], 0)


def test_the_recording_is_smooth():
    """Speeds are the derivatives of angles, and nowhere do accelerations jump."""
    step = TIME[1]
    middle = (QPOS[2:] - QPOS[:-2]) / (2 * step)
    np.testing.assert_allclose(middle, QVEL[1:-1], atol=0.02 * np.abs(QVEL).max())
    acceleration = np.diff(QVEL, axis=0) / step
    largest = np.abs(acceleration).max()
    assert largest < 40  # rad/s^2: no one reaches faster
    assert np.abs(np.diff(acceleration, axis=0)).max() < 0.2 * largest


def test_the_hand_passes_through_its_goals_at_rest(model):
    ends = np.cumsum([seconds for seconds, _ in reach_and_return.MOVES])
    for end, (_, goal) in zip(ends, reach_and_return.MOVES, strict=True):
        frame = round(end * 100)
        wanted = hand_of(model, [0.7, 1.2]) if goal is None else goal
        np.testing.assert_allclose(hand_of(model, QPOS[frame]), wanted, atol=2 * WRITTEN)
        np.testing.assert_allclose(QVEL[frame], 0, atol=WRITTEN)


def test_muscles_are_strong_enough(model):
    """The torque that every frame needs is one that activations in [0, 1] can give.

    Torques of muscles are a sum of segments from nothing to full activation, a zonotope; in the
    plane it is what the normals of its segments bound.
    """
    data = mujoco.MjData(model)
    accelerations = np.gradient(QVEL, TIME, axis=0)
    for qpos, qvel, qacc in zip(QPOS, QVEL, accelerations, strict=True):
        data.qpos[:], data.qvel[:], data.qacc[:] = qpos, qvel, qacc
        mujoco.mj_inverse(model, data)
        needed = data.qfrc_inverse.copy()
        torques = []
        for act in (np.zeros(6), *np.eye(6)):
            data.act[:] = act
            mujoco.mj_fwdPosition(model, data)
            mujoco.mj_fwdVelocity(model, data)
            mujoco.mj_fwdActuation(model, data)
            torques.append(data.qfrc_actuator.copy())
        segments = np.array(torques[1:]) - torques[0]
        normals = np.concatenate([[[y, -x], [-y, x]] for x, y in segments])
        most = np.maximum(segments @ normals.T, 0).sum(0)
        assert (normals @ (needed - torques[0]) < 0.8 * most).all()


def test_a_control_reaches_joints_through_activations_alone(tracking, model):
    """One physics step: activations move at once; speeds only by activations, in a later step."""
    plain = mbrl.Simulator(model, threads=1)
    state = np.concatenate([QPOS[40], QVEL[40], np.linspace(0.05, 0.6, 6)])[None]
    ctrl = np.array([[0.3, 0.1, 0.5, 0.2, 0.7, 0.4]])
    found = plain.linearize(state, ctrl)
    a, b = found.A[0], found.B[0]
    assert np.array_equal(b[:4], np.zeros((4, 6)))
    assert (np.diag(b[4:]) > 0.02).all()
    assert np.array_equal(b[4:], np.diag(np.diag(b[4:])))
    assert (np.abs(a[2:4, 4:]).max(axis=0) > 1e-3).all()
    several = tracking.task.simulator.linearize(state, ctrl)
    assert (np.abs(several.B[0][2:4]).max(axis=0) > 1e-3).all()


@pytest.mark.parametrize("activation", [0.02, 0.5, 0.98])
def test_derivatives_of_a_control_step_are_those_of_plain_differences(tracking, model, activation):
    """Off 0 and 1, where the time constants of MuJoCo's muscles have a kink."""
    state = np.concatenate([QPOS[40], QVEL[40], np.full(6, activation)])
    ctrl = np.random.default_rng(0).uniform(0.1, 0.9, 6)
    found = tracking.task.simulator.linearize(state[None], ctrl[None])
    data = mujoco.MjData(model)

    def after(point):
        mujoco.mj_resetData(model, data)
        data.qpos[:], data.qvel[:] = point[:2], point[2:4]
        data.act[:], data.ctrl[:] = point[4:10], point[10:]
        mujoco.mj_step(model, data, 4)
        return np.concatenate([data.qpos, data.qvel, data.act])

    point, h = np.concatenate([state, ctrl]), 1e-6
    steps = h * np.eye(16)
    wanted = [(after(point + step) - after(point - step)) / (2 * h) for step in steps]
    jacobian = np.concatenate([found.A[0], found.B[0]], axis=1)
    np.testing.assert_allclose(jacobian, np.transpose(wanted), rtol=1e-6, atol=1e-6)


def test_ilqr_tracks_the_first_reach_in_plain_mujoco(model):
    """Followed by another program, the plan's controls keep the joints within a degree."""
    config = mbrl.load_config(muscle_arm.CONFIG)
    task = mbrl.make_task(config.task, threads=1, **config.task_args)
    problem = make_problem(task, 30)
    start = torch.from_numpy(np.concatenate([QPOS[0], QVEL[0], np.zeros(6)])[None])
    plan = ILQR(iterations=12).plan(problem, start)
    data = mujoco.MjData(model)
    data.qpos[:] = QPOS[0]
    found = []
    for action in plan.actions[:, 0].numpy():
        assert (action >= 0).all()
        assert (action <= 1).all()
        data.ctrl[:] = action
        mujoco.mj_step(model, data, 4)
        found.append(np.concatenate([data.qpos, data.qvel, data.act]))
    np.testing.assert_allclose(plan.states[1:, 0], found, atol=1e-9)
    wanted = QPOS[2:62:2]  # frames at 0.02, ..., 0.6 s
    assert np.degrees(np.abs(np.array(found)[:, :2] - wanted)).max() < 1.0
    still = problem.rollout(start, problem.still(1)[:, None])[0][1:, 0, 0, :2].numpy()
    assert np.degrees(np.abs(still - wanted)).max() > 20.0  # the motion is not the arm's own


def test_the_benchmark_charges_what_is_spent(tracking):
    """100 steps of the initial actions, and of every sample; 17 for a Jacobian."""
    planner = RandomShooting(samples=8, iterations=muscle_arm.MANY)
    sampled = tracking.solve(planner, 0, 100 * (1 + 8 + 8))
    assert sampled.steps == 100 * (1 + 8 + 8)
    one_less = tracking.solve(planner, 0, 100 * (1 + 8 + 8) - 1)
    assert one_less.steps == 100 * (1 + 8)
    first = tracking.solve(ILQR(), 0, 100 * (1 + 17 + 10))
    assert first.steps == 100 * (1 + 17 + 10)


def test_the_benchmark_measures_degrees(tracking):
    """A plan at rest, far from the recording, against the file itself."""
    start = torch.from_numpy(np.concatenate([QPOS[0], QVEL[0], np.zeros(6)])[None])
    plan = ILQR().begin(tracking.problem, start, tracking.problem.still(1), torch.Generator()).plan
    wrong = plan.states[1:, 0, :2].numpy() - QPOS[2::2]
    assert tracking.error(plan) == pytest.approx(np.degrees(np.sqrt((wrong**2).mean())), rel=1e-9)
