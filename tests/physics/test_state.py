"""The state space against MuJoCo's own mj_integratePos and mj_differentiatePos."""

import mujoco
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbrl.errors import ArgumentError
from mbrl.physics import StateSpec
from tests import models
from tests.models import reference

MODEL = models.own("mixed")
SPEC = StateSpec(MODEL)
seeds = st.integers(0, 2**32 - 1)


def random_states(rng, *batch):
    return reference.random_states(MODEL, rng, *batch)


def test_sizes_of_a_model_with_every_joint_and_activations():
    assert (SPEC.nq, SPEC.nv, SPEC.na, SPEC.nu) == (14, 12, 2, 4)
    assert (SPEC.nx, SPEC.ndx) == (28, 26)
    assert not SPEC.is_euclidean
    assert len(SPEC.quaternion_x) == 2


def test_a_model_without_quaternions_is_euclidean():
    spec = StateSpec(models.own("muscle"))
    x, dx = np.arange(7.0), np.linspace(-1.0, 1.0, 7)
    assert spec.is_euclidean
    assert spec.nx == spec.ndx == 7
    np.testing.assert_array_equal(spec.retract(x, dx), x + dx)
    np.testing.assert_array_equal(spec.difference(x, x + dx), x + dx - x)


@given(seeds, st.sampled_from([0.0, 1e-200, 1e-12, 1e-6, 0.1, 1.0, 3.0, 30.0]))
def test_retract_is_integrate_pos(seed, size):
    rng = np.random.default_rng(seed)
    x, dx = random_states(rng, 5), size * rng.standard_normal((5, SPEC.ndx))
    expected = [reference.retract(MODEL, a, b) for a, b in zip(x, dx, strict=True)]
    np.testing.assert_allclose(SPEC.retract(x, dx), expected, rtol=1e-14, atol=1e-14)


@given(seeds)
def test_difference_is_differentiate_pos(seed):
    rng = np.random.default_rng(seed)
    x, y = random_states(rng, 5), random_states(rng, 5)
    y[::2] *= -1.0  # the other cover: the same rotation, and the shorter way round is taken
    expected = [reference.difference(MODEL, a, b) for a, b in zip(x, y, strict=True)]
    np.testing.assert_allclose(SPEC.difference(x, y), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("angle", [1e-9, 1e-3, 1.0, 2.0, 3.0, np.pi - 1e-9])
def test_round_trip_up_to_half_a_turn(angle):
    rng = np.random.default_rng(1)
    x, dx = random_states(rng, 20), rng.standard_normal((20, SPEC.ndx))
    for v in SPEC.quaternion_dx:
        dx[:, v] *= angle / np.linalg.norm(dx[:, v], axis=1, keepdims=True)
    found = SPEC.difference(x, SPEC.retract(x, dx))
    np.testing.assert_allclose(found, dx, rtol=0.0, atol=1e-13)


def test_round_trip_of_states():
    rng = np.random.default_rng(2)
    x, y = random_states(rng, 20), random_states(rng, 20)
    back = SPEC.retract(x, SPEC.difference(x, y))
    for q in SPEC.quaternion_x:  # q and -q are one rotation
        back[:, q] *= np.sign((back[:, q] * y[:, q]).sum(axis=1, keepdims=True))
    np.testing.assert_allclose(back, y, rtol=0.0, atol=1e-14)


def test_equal_states_differ_by_exactly_nothing():
    x = random_states(np.random.default_rng(3), 200)
    assert not SPEC.difference(x, x).any()


def test_retract_keeps_the_norm_of_quaternions_and_its_arguments():
    rng = np.random.default_rng(4)
    x, dx = random_states(rng, 10), rng.standard_normal((10, SPEC.ndx))
    x[:, SPEC.quaternion_x[0]] *= 1.5
    before = x.copy(), dx.copy()
    y = SPEC.retract(x, dx)
    norms = np.linalg.norm(y[:, SPEC.quaternion_x], axis=2)
    np.testing.assert_allclose(norms, [[1.5, 1.0]] * 10, rtol=1e-14)
    assert np.array_equal(x, before[0])
    assert np.array_equal(dx, before[1])


def test_leading_dimensions_broadcast():
    rng = np.random.default_rng(5)
    x, dx = random_states(rng, 3, 1), rng.standard_normal((4, SPEC.ndx))
    y = SPEC.retract(x, dx)
    assert y.shape == (3, 4, SPEC.nx)
    np.testing.assert_array_equal(y[2, 1], SPEC.retract(x[2, 0], dx[1]))
    back = SPEC.difference(x, y)
    assert back.shape == (3, 4, SPEC.ndx)
    np.testing.assert_array_equal(back[2, 1], SPEC.difference(x[2, 0], y[2, 1]))


def test_split_and_join():
    x = random_states(np.random.default_rng(6), 2, 3)
    parts = SPEC.split(x)
    assert [part.shape[-1] for part in parts] == [SPEC.nq, SPEC.nv, SPEC.na]
    np.testing.assert_array_equal(SPEC.join(*parts), x)
    np.testing.assert_array_equal(SPEC.join(parts.qpos, parts.qvel)[..., -SPEC.na :], 0.0)


@pytest.mark.parametrize(
    ("x", "dx", "name"),
    [
        (np.zeros(SPEC.nx - 1), np.zeros(SPEC.ndx), "x"),
        (np.zeros((2, SPEC.nx)), np.zeros((2, SPEC.nx)), "dx"),
        (np.float64(0.0), np.zeros(SPEC.ndx), "x"),
    ],
)
def test_wrong_widths_are_named(x, dx, name):
    with pytest.raises(ArgumentError, match=rf"^{name} must have shape \[\.\.\., "):
        SPEC.retract(x, dx)


def test_difference_names_the_wrong_argument():
    with pytest.raises(
        ArgumentError, match=rf"^y must have shape \[\.\.\., {SPEC.nx}\], got \[3\]"
    ):
        SPEC.difference(np.zeros(SPEC.nx), np.zeros(3))


@given(seeds, st.sampled_from([1e-12, 1e-5, 1.9e-4, 2.1e-4, 0.01, 0.5, 2.0, 3.1]))
def test_the_jacobian_of_a_difference_is_mujocos(seed, angle):
    rng = np.random.default_rng(seed)
    x, dx = random_states(rng), rng.standard_normal(SPEC.ndx)
    for v in SPEC.quaternion_dx:
        dx[v] *= angle / np.linalg.norm(dx[v])
    y = reference.retract(MODEL, x, dx)
    rows = np.eye(SPEC.ndx)
    by_target = SPEC.through_difference(rows, SPEC.difference(x, y))
    by_base = -SPEC.through_difference(rows, -SPEC.difference(x, y))
    expected = rows.copy(), -rows
    for q, v in zip(SPEC.quaternion_x, SPEC.quaternion_dx, strict=True):
        blocks = np.empty(9), np.empty(9)
        mujoco.mjd_subQuat(y[q], x[q], *blocks)
        for matrix, block in zip(expected, blocks, strict=True):
            matrix[np.ix_(v, v)] = block.reshape(3, 3)
    np.testing.assert_allclose(by_target, expected[0], rtol=0.0, atol=1e-11)
    np.testing.assert_allclose(by_base, expected[1], rtol=0.0, atol=1e-11)


@pytest.mark.parametrize("angle", [0.0, 1e-7, 1e-4, 1.0, 3.1])
def test_the_jacobian_of_a_difference_along_integrate_pos(angle):
    rng = np.random.default_rng(4)
    x, dx = random_states(rng, 3), rng.standard_normal((3, SPEC.ndx))
    for v in SPEC.quaternion_dx:
        dx[:, v] *= angle / np.linalg.norm(dx[:, v], axis=1, keepdims=True)
    rows = rng.standard_normal((3, 5, SPEC.ndx))
    by_target, by_base = (
        sign * SPEC.through_difference(rows, sign * dx)  # of y (-) x at dx
        for sign in (1.0, -1.0)
    )
    h = 1e-5
    for row in range(3):
        y = reference.retract(MODEL, x[row], dx[row])
        for direction in rng.standard_normal((4, SPEC.ndx)):

            def moved(base, target, direction=direction, row=row, y=y):
                ends = []
                for t in (-h, h):
                    one = reference.retract(MODEL, x[row], t * base * direction)
                    other = reference.retract(MODEL, y, t * target * direction)
                    ends.append(reference.difference(MODEL, one, other))
                return (ends[1] - ends[0]) / (2.0 * h)

            for found, slope in ((by_target, moved(0.0, 1.0)), (by_base, moved(1.0, 0.0))):
                np.testing.assert_allclose(
                    found[row] @ direction, rows[row] @ slope, rtol=0.0, atol=1e-7
                )


def test_multiplying_by_the_jacobian_of_a_difference_leaves_its_arguments_alone():
    rng = np.random.default_rng(5)
    rows, dx = rng.standard_normal((2, 4, SPEC.ndx)), rng.standard_normal((2, SPEC.ndx))
    copies = rows.copy(), dx.copy()
    SPEC.through_difference(rows, dx)
    np.testing.assert_array_equal(rows, copies[0])
    np.testing.assert_array_equal(dx, copies[1])
    with pytest.raises(ArgumentError, match=r"rows must have shape \[..., 26\]"):
        SPEC.through_difference(rows[..., :3], dx)
