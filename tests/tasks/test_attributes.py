"""Attributes of an environment: what is saved, put back, and told apart."""

import threading

import mujoco
import numpy as np
import pytest
import torch

from mbrl.tasks.attributes import changed, packed, restore, snapshot, unpacked


class Env:
    """Anything with attributes."""

    def __init__(self):
        self.count, self.speed, self.word, self.nothing = 0, np.float64(0.5), "go", None
        self.log, self.pair, self.names = [1, [2]], (1, 2.0), {"a"}
        self.notes = {"seen": [], "deep": {"x": np.zeros(2)}}
        self.buffer = np.arange(3.0)
        self.lock = threading.Lock()
        self.objects = np.array([object()], dtype=object)
        self.rng = np.random.default_rng(0)
        self.spec = "machinery"


def spoil(env):
    env.count += 1
    env.speed, env.word, env.nothing = np.float64(1.0), "stop", 3
    env.log[1].append(3)
    env.pair = (1, 3.0)
    env.names.add("b")
    env.notes["seen"].append(1)
    env.notes["deep"]["x"] += 1
    env.buffer[1] = np.nan
    env.rng.normal()
    env.fresh = [1]
    env.spec = "other"


def test_views_of_the_simulation_are_left_alone():
    model = mujoco.MjModel.from_xml_string(
        "<mujoco><worldbody><body><joint/><geom size='.1'/></body></worldbody></mujoco>"
    )
    env, data = Env(), mujoco.MjData(model)
    env.positions, env.tail = data.qpos, data.xpos[1:]
    env.own = np.arange(4.0)[1:]
    env.tensors = torch.zeros(2).numpy()
    saved = snapshot(env)
    assert "positions" not in saved
    assert "tail" not in saved
    assert "tensors" in saved
    data.qpos[0], env.own[0] = 3.0, 7.0
    restore(env, saved)
    assert env.positions.tolist() == [3.0]
    assert env.own.tolist() == [1.0, 2.0, 3.0]
    data.qpos[0] = 4.0
    assert env.positions.tolist() == [4.0]


PLAIN = ["count", "speed", "word", "nothing", "log", "pair", "names", "notes", "buffer"]


def test_everything_plain_is_put_back_as_it_was():
    env, untouched = Env(), Env()
    lock, objects = env.lock, env.objects
    saved = snapshot(env)
    for _ in range(2):  # what was saved is not spoilt by what uses it
        spoil(env)
        restore(env, saved)
        for name in set(PLAIN) - {"notes"}:
            np.testing.assert_equal(getattr(env, name), getattr(untouched, name))
            assert type(getattr(env, name)) is type(getattr(untouched, name))
        assert env.notes["seen"] == []
        assert env.notes["deep"]["x"].tolist() == [0.0, 0.0]
        assert env.rng.normal() == np.random.default_rng(0).normal()
        assert not hasattr(env, "fresh")
        assert env.spec == "other"  # not the environment's business
    assert env.lock is lock
    assert env.objects is objects


def test_a_deleted_attribute_comes_back_and_an_object_that_came_stays():
    env = Env()
    saved = snapshot(env)
    del env.count
    env.late = threading.Lock()
    restore(env, saved)
    assert env.count == 0
    assert hasattr(env, "late")


def test_what_changed_is_named():
    env = Env()
    before = snapshot(env)
    assert changed(before, snapshot(env)) == []
    spoil(env)
    assert sorted(changed(before, snapshot(env))) == sorted([*PLAIN, "rng", "fresh"])


def test_a_nan_is_no_change_and_a_negative_zero_is_one():
    env = Env()
    env.buffer = np.array([np.nan])
    before = snapshot(env)
    assert changed(before, snapshot(env)) == []
    env.buffer = np.array([0.0])
    before = snapshot(env)
    env.buffer = np.array([-0.0])
    assert changed(before, snapshot(env)) == ["buffer"]


@pytest.mark.parametrize(
    ("value", "flat"),
    [
        (True, [1.0]),
        (3, [3.0]),
        (0.1, [0.1]),
        (np.float32(0.5), [0.5]),
        ([1, 2], [1.0, 2.0]),
        ((0.5, [1.5]), None),
        (np.arange(4).reshape(2, 2), [0.0, 1.0, 2.0, 3.0]),
        (np.zeros(0), []),
        ([[1, 2], [3]], None),
        ("left", None),
        (["left"], None),
        (b"x", None),
        (None, None),
        ({"a": 1}, None),
        ({1, 2}, None),
    ],
)
def test_numbers_are_packed_and_come_back_as_they_were(value, flat):
    found = packed(value)
    if flat is None:
        assert found is None
        return
    assert found.dtype == np.float64
    assert found.tolist() == flat
    back = unpacked(value, found)
    np.testing.assert_equal(back, value)
    assert type(back) is type(value)
    assert np.asarray(back).dtype == np.asarray(value).dtype


def test_a_nested_list_comes_back_nested():
    value = [[1.0, 2.0], [3.0, 4.0]]
    assert unpacked(value, packed(value) + 1) == [[2.0, 3.0], [4.0, 5.0]]


@pytest.mark.parametrize(
    "value",
    [
        torch.rand(8, 1, dtype=torch.float64),
        torch.rand(2, 3).T,
        torch.tensor(2.5).bfloat16(),
        torch.zeros(0),
        torch.tensor([True, False]),
        torch.ones(2).requires_grad_(),
    ],
)
def test_tensors_are_compared_by_what_is_in_them(value):
    env = Env()
    env.tensor, env.inside = value, {"deep": [value]}
    # All of them are alive: no two lie at one address.
    saved = [snapshot(env) for _ in range(5)]
    assert not any(changed(saved[0], other) for other in saved[1:])
    for other in (value.detach()[..., None], value.detach().to(torch.complex64)):
        env.tensor = other
        assert changed(saved[0], snapshot(env)) == ["tensor"]


def test_a_tensor_changes_with_any_bit():
    env = Env()
    env.tensor = torch.tensor([0.0, float("nan")])
    saved = snapshot(env)
    assert changed(saved, snapshot(env)) == []
    env.tensor[0] = -0.0
    assert changed(saved, snapshot(env)) == ["tensor"]
    restore(env, saved)
    assert changed(saved, snapshot(env)) == []
