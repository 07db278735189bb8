"""The worked example recovers the parameters that made a trajectory."""

import gymnasium
import mujoco
import numpy as np
import pytest

from benchmarks import identify


@pytest.mark.parametrize("name", identify.PROBLEMS)
def test_parameters_are_found(name):
    names, true, start, found, updates, _ = identify.solve(name, 0, threads=1)
    env = gymnasium.make(f"{name}-v5")
    model = env.unwrapped.model
    env.close()
    if name == "HalfCheetah":
        expected = [model.geom("floor").friction[0]]
    else:
        expected = [model.body("pole").mass[0], model.joint("hinge").damping[0]]
    assert len(names) == len(expected)
    assert true.tolist() == expected
    assert (np.abs(start / expected - 1.0) >= 0.3).all()
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert updates < 20


def test_recordings_are_plain_mujoco_and_touch_the_floor():
    env = gymnasium.make("HalfCheetah-v5")
    model = env.unwrapped.model
    env.close()
    states, actions = identify.record(model, 0)
    data, contacts = mujoco.MjData(model), 0
    data.qpos[:], data.qvel[:] = states[0, :9], states[0, 9:]
    for action, following in zip(actions, states[1:], strict=True):
        data.ctrl[:] = action
        mujoco.mj_step(model, data)
        contacts += data.ncon > 0
        np.testing.assert_array_equal(np.concatenate([data.qpos, data.qvel]), following)
    assert contacts > len(actions) / 4
