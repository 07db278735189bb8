"""Recorded motions: what a cost compares with, and malformed files."""

import mujoco
import numpy as np
import pytest
import torch

from mbrl.errors import ConfigError
from mbrl.physics import Simulator
from mbrl.tasks.residual import ResidualCost
from tests import models
from tests.models import reference

PENDULUM = """
<mujoco>
  <option timestep="0.01"/>
  <worldbody>
    <body>
      <joint name="hinge" axis="0 1 0"/><geom size="0.1" pos="0 0 -1"/>
      <body><joint name="other" axis="0 1 0"/><geom size="0.1" pos="0 0 -1"/></body>
    </body>
  </worldbody>
  <actuator><motor joint="hinge"/></actuator>
</mujoco>
"""
TIME = np.array([5.0, 5.03, 5.1, 5.2])  # not those of control steps, and not from zero
QPOS = np.array([[0.0, 1.0], [0.3, 1.1], [-0.2, 0.7], [0.5, 0.0]])
QVEL = np.array([[1.0, 0.0], [2.0, -1.0], [0.5, 1.0], [0.0, 0.3]])


def npz(folder, **arrays):
    path = folder / "motion.npz"
    np.savez(path, **arrays)
    return str(path)


def csv(folder, header, rows):
    path = folder / "motion.csv"
    path.write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return str(path)


def tracking(model, frame_skip=1, **options):
    term = {"residual": {"kind": "track", **options}}
    cost = ResidualCost(Simulator(model, frame_skip=frame_skip, threads=1), {"a": term})
    assert cost.uses_time
    return cost


@pytest.mark.parametrize("frame_skip", [1, 2, 3, 7])
@pytest.mark.parametrize("kind", ["npz", "csv"])
def test_the_reference_is_interpolated_at_the_end_of_the_step(frame_skip, kind, tmp_path):
    model = mujoco.MjModel.from_xml_string(PENDULUM)
    if kind == "npz":
        path = npz(tmp_path, time=TIME, qpos=QPOS, qvel=QVEL)
    else:
        rows = np.column_stack([TIME, QPOS, QVEL])
        path = csv(tmp_path, "time,a,b,va,vb", rows.tolist())
    cost = tracking(model, frame_skip, recording=path, velocity_weight=0.5)
    state = np.array([[0.1, 0.2, 0.3, 0.4]])
    for t in range(30):  # past the end, where the last frame holds
        now = 5.0 + (t + 1) * 0.01 * frame_skip
        frame = [np.interp(now, TIME, column) for column in (*QPOS.T, *QVEL.T)]
        wanted = (state[0] - frame) * [1, 1, 0.5, 0.5]
        found = cost.residuals(torch.from_numpy(state), torch.zeros(1, 1), t)
        np.testing.assert_allclose(found[0], wanted, atol=1e-12)


def test_rows_at_steps_of_their_own(tmp_path):
    model = mujoco.MjModel.from_xml_string(PENDULUM)
    cost = tracking(model, recording=npz(tmp_path, time=TIME, qpos=QPOS), joint="other")
    states, idle, t = torch.zeros(3, 4), torch.zeros(3, 1), torch.tensor([4, 0, 90])
    found = cost.residuals(states, idle, t)
    wanted = [-np.interp(5.0 + (k + 1) * 0.01, TIME, QPOS[:, 1]) for k in t.tolist()]
    np.testing.assert_allclose(found[:, 0], wanted, atol=1e-12)
    assert cost.expand(states, idle, t).jx.tolist() == [[[0, 1, 0, 0]]] * 3


def test_rotations_are_followed_on_the_manifold(tmp_path):
    model = models.own("ball")
    rng = np.random.default_rng(0)
    qpos = reference.random_states(model, rng, 3)[:, : model.nq]
    cost = tracking(model, recording=npz(tmp_path, time=[0.0, 0.01, 0.02], qpos=qpos))
    x = reference.random_states(model, rng, 1)
    found = cost.expand(torch.from_numpy(x), torch.zeros(1, model.nu), 2)
    middle, dq = qpos[1].copy(), np.empty(model.nv)
    mujoco.mj_differentiatePos(model, dq, 1.0, qpos[1], qpos[2])
    mujoco.mj_integratePos(model, middle, dq, 0.5)  # 15 ms: between the second and the third

    def residual(state):
        out = np.empty(model.nv)
        mujoco.mj_differentiatePos(model, out, 1.0, middle, state[: model.nq])
        return out

    now = cost.residuals(torch.from_numpy(x), torch.zeros(1, model.nu), 2)[0].numpy()
    np.testing.assert_allclose(now, residual(x[0]), atol=1e-12)
    for j in range(model.nv):
        ends = [
            residual(reference.retract(model, x[0], h * np.eye(2 * model.nv)[j]))
            for h in (-1e-6, 1e-6)
        ]
        wanted = (ends[1] - ends[0]) / 2e-6
        np.testing.assert_allclose(found.jx[0, :, j], wanted, atol=1e-8)


def test_one_frame_is_a_pose(tmp_path):
    model = mujoco.MjModel.from_xml_string(PENDULUM)
    cost = tracking(model, recording=npz(tmp_path, time=[0.0], qpos=QPOS[1:2]))
    found = cost.residuals(torch.zeros(1, 4), torch.zeros(1, 1), 7)
    np.testing.assert_allclose(found[0], -QPOS[1])


GOOD = {"time": TIME, "qpos": QPOS}


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"time": TIME}, r"is no recording: it has no array 'qpos', only time"),
        ({**GOOD, "time": TIME[::-1]}, r"time of .* must increase"),
        ({"time": [], "qpos": np.zeros((0, 2))}, r"time of .* must increase"),
        ({**GOOD, "qpos": QPOS[:, :1]}, r"qpos of .* must be numbers of shape \[4, 2\], got"),
        ({**GOOD, "qpos": np.full((4, 2), "x")}, r"qpos of .* must be numbers of shape"),
        ({**GOOD, "qvel": QVEL[:2]}, r"qvel of .* must be numbers of shape \[4, 2\]"),
        ({**GOOD, "qpos": QPOS * np.nan}, r"qpos of .* must be finite"),
        ({**GOOD, "qpos": np.array([[{}]])}, r"is no recording: .*allow_pickle=False"),
    ],
)
def test_malformed_arrays(arrays, message, tmp_path):
    model = mujoco.MjModel.from_xml_string(PENDULUM)
    path = npz(tmp_path, **arrays)
    with pytest.raises(ConfigError, match=rf"^cost\.a\.residual\.recording: .*{message}") as caught:
        tracking(model, recording=path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("header", "rows", "message"),
    [
        ("t,a,b", [[0, 0, 0]], r"its header must begin with 'time', got 't'"),
        ("time,a", [[0, 0]], r"it must have 3 or 5 columns, got 2"),
        ("time,a,b", [[0, 0, 0], [1, 0]], r"line 3 has 2 columns, not 3"),
        ("time,a,b", [[0, "x", 0]], r"could not convert string to float"),
    ],
)
def test_malformed_tables(header, rows, message, tmp_path):
    model = mujoco.MjModel.from_xml_string(PENDULUM)
    with pytest.raises(ConfigError, match=rf"^cost\.a\.residual\.recording: .*{message}"):
        tracking(model, recording=csv(tmp_path, header, rows))


def test_other_bad_input(tmp_path):
    model = mujoco.MjModel.from_xml_string(PENDULUM)
    with pytest.raises(ConfigError, match=r"recording: no such file: nowhere\.npz$"):
        tracking(model, recording="nowhere.npz")
    path = npz(tmp_path, **GOOD)
    with pytest.raises(ConfigError, match=r"velocity_weight must be 0: .* has no qvel$"):
        tracking(model, recording=path, velocity_weight=1)
    with pytest.raises(ConfigError, match=r"velocity_weight must be 0 or more, got -1"):
        tracking(model, recording=path, velocity_weight=-1)
    (tmp_path / "broken.npz").write_bytes(b"PK nothing")
    with pytest.raises(ConfigError, match=r"broken\.npz is no recording: "):
        tracking(model, recording=str(tmp_path / "broken.npz"))
    long = npz(tmp_path, time=TIME, qpos=np.tile([2.0, 0, 0, 0, 0], (4, 1)))
    with pytest.raises(ConfigError, match=r"quaternions in qpos of .* must have length 1$"):
        tracking(models.own("ball"), recording=long)
