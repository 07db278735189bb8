"""Memories in files beside checkpoints: what is written, and what comes back."""

import os

import numpy as np
import pytest
import torch

from mbrl.data import ReplayFile, TransitionReplay
from mbrl.errors import CheckpointError
from tests.tiny import same

CAPACITY, SEEDS = 10, 2
WIDTH = 3 + 2 + 1 + 3 + 1


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    """Spare the disk."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


def made(folder):
    replay = TransitionReplay(SEEDS, CAPACITY, observation_size=3, action_size=2)
    return replay, ReplayFile(replay, lambda: folder)


def row(i):
    """The i-th transition of both seeds: all of its numbers tell which it is."""
    ones = torch.ones(SEEDS, 3, dtype=torch.float64) * torch.tensor([[1.0], [-1.0]]).double()
    return i * ones, i * ones[:, :2], i * ones[:, 0], (i + 1) * ones, torch.tensor([True, False])


def fill(replay, first, last):
    for i in range(first, last):
        replay.add(*row(i))


def remembered(replay):
    indices = torch.arange(len(replay)).expand(SEEDS, -1)
    return replay.batch(indices, torch.float64)


@pytest.mark.parametrize("stops", [(4, 7), (7, 10), (8, 13), (3, 29, 41)], ids=str)
def test_what_was_saved_comes_back_whatever_came_later(tmp_path, stops):
    replay, file = made(tmp_path)
    states, wanted = [], []
    for first, last in zip((0, *stops), stops, strict=False):
        fill(replay, first, last)
        states.append(file.state_dict())
        wanted.append(remembered(replay))
    for state, batch in zip(states, wanted, strict=True):
        assert set(state) == {"added", "sha256"}
        other, again = made(tmp_path)
        again.load_state_dict(state)
        assert other.added == state["added"]
        for found, expected in zip(remembered(other), batch, strict=True):
            assert torch.equal(found, expected)


def test_the_file_is_the_history(tmp_path):
    replay, file = made(tmp_path)
    for first, last in ((0, 4), (4, 12), (12, 17)):
        fill(replay, first, last)
        file.state_dict()
    rows = np.fromfile(tmp_path / "replay.bin", dtype=np.float32).reshape(-1, SEEDS, WIDTH)
    np.testing.assert_array_equal(rows[:, 0, 0], np.arange(17))
    np.testing.assert_array_equal(rows[:, 1, 3], -np.arange(17))


def test_nothing_is_written_twice(tmp_path):
    replay, file = made(tmp_path)
    fill(replay, 0, 4)
    first = file.state_dict()
    (tmp_path / "replay.bin").write_bytes(b"")
    assert same(file.state_dict(), first)
    fill(replay, 4, 6)
    file.state_dict()
    rows = np.fromfile(tmp_path / "replay.bin", dtype=np.float32).reshape(-1, SEEDS, WIDTH)
    np.testing.assert_array_equal(rows[:, 0, 0], [0, 0, 0, 0, 4, 5])


def test_one_that_goes_on_from_an_earlier_state_writes_over_what_came_after(tmp_path):
    replay, file = made(tmp_path)
    fill(replay, 0, 4)
    early = file.state_dict()
    fill(replay, 4, 9)
    file.state_dict()
    other, again = made(tmp_path)
    again.load_state_dict(early)
    fill(other, 100, 103)
    third, last = made(tmp_path)
    last.load_state_dict(again.state_dict())
    assert remembered(third).reward[0].tolist() == [0, 1, 2, 3, 100, 101, 102]


def test_a_memory_that_a_checkpoint_holds_itself_moves_into_the_file(tmp_path):
    replay, whole = made(None)
    fill(replay, 0, 13)
    state = whole.state_dict()
    assert state["rows"].shape == (CAPACITY, SEEDS, WIDTH)
    other, file = made(tmp_path)
    file.load_state_dict(state)
    fill(other, 13, 15)
    third, last = made(tmp_path)
    last.load_state_dict(file.state_dict())
    assert sorted(remembered(third).reward[0].tolist()) == list(range(5, 15))


@pytest.mark.parametrize("harm", ["changed", "shortened", "removed"])
def test_damage_is_noticed(tmp_path, harm):
    replay, file = made(tmp_path)
    fill(replay, 0, 4)
    state, path = file.state_dict(), tmp_path / "replay.bin"
    data = bytearray(path.read_bytes())
    data[5] ^= 1
    if harm == "removed":
        path.unlink()
    else:
        path.write_bytes(data if harm == "changed" else data[:-8])
    message = "cannot read .*replay.bin: No such file" if harm == "removed" else "bin is damaged"
    with pytest.raises(CheckpointError, match=message):
        made(tmp_path)[1].load_state_dict(state)


def test_without_its_folder_nothing_can_be_learned_from_it(tmp_path):
    replay, file = made(tmp_path)
    fill(replay, 0, 4)
    file.require()
    other = made(None)[1]
    other.load_state_dict(file.state_dict())
    with pytest.raises(CheckpointError, match="left in its folder"):
        other.require()


def test_a_file_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "taken").write_text("")
    replay, file = made(tmp_path / "taken")
    fill(replay, 0, 1)
    with pytest.raises(CheckpointError, match=r"cannot write .*replay.bin: "):
        file.state_dict()
