"""Episodes against lists of steps, and files against what was put in."""

import numpy as np
import pytest
import torch

from mbrl.data import Episode, Trajectories, split_transitions
from mbrl.errors import ArgumentError, StorageError

LENGTHS = (3, 1, 5, 4)


def episode(number, steps):
    """Entries tell where they belong: (number, t) and what they are."""
    t = torch.arange(steps + 1, dtype=torch.float64)
    observations = torch.stack([torch.full_like(t, number), t], dim=1)
    return Episode(observations, 100 * number + t[:-1, None], -t[:-1])


@pytest.fixture
def some():
    trajectories = Trajectories(2, 1)
    trajectories.append([episode(i, n) for i, n in enumerate(LENGTHS[:3])])
    trajectories.append([episode(3, LENGTHS[3])])
    return trajectories


def same(one, other):
    assert (one.observation_size, one.action_size) == (other.observation_size, other.action_size)
    assert len(one) == len(other)
    for a, b in zip(one.episodes, other.episodes, strict=True):
        assert all(torch.equal(x, y) and x.dtype == y.dtype for x, y in zip(a, b, strict=True))


def test_steps_are_those_of_the_episodes(some):
    assert (len(some), some.steps) == (4, 13)
    rows = iter(zip(*some.transitions(), strict=True))
    for i, n in enumerate(LENGTHS):
        for t in range(n):
            before, action, after, reward = next(rows)
            assert reward == -t
            assert before.tolist() == [i, t]
            assert action.tolist() == [100 * i + t]
            assert after.tolist() == [i, t + 1]
    assert next(rows, None) is None


def test_what_is_put_in_is_copied_in_double_precision():
    single = Episode(torch.zeros(2, 2), torch.zeros(1, 1), torch.zeros(1))
    trajectories = Trajectories(2, 1)
    trajectories.append([single])
    single.observations.fill_(7)
    (held,) = trajectories.episodes
    assert all(part.dtype == torch.float64 for part in held)
    assert not held.observations.any()


def test_windows_stay_inside_their_episodes(some):
    observations, actions = some.windows(3)
    expected = [(i, t) for i, n in enumerate(LENGTHS) for t in range(n - 2)]
    assert len(observations) == len(actions) == len(expected)
    for seen, done, (i, t) in zip(observations, actions, expected, strict=True):
        assert seen.tolist() == [[i, t + k] for k in range(4)]
        assert done.tolist() == [[100 * i + t + k] for k in range(3)]


def test_windows_may_begin_at_some_steps_only(some):
    observations, actions = some.windows(2, stride=2)
    starts = [(i, t) for i, n in enumerate(LENGTHS) for t in range(0, n - 1, 2)]
    assert observations[:, 0].tolist() == [list(start) for start in starts]
    assert actions[:, 1, 0].tolist() == [100 * i + t + 1 for i, t in starts]
    assert some.windows(6).observations.shape == (0, 7, 2)
    assert some.windows(6).actions.shape == (0, 6, 1)


def test_episodes_are_held_out_as_a_whole(some):
    training, held_out = some.split(0.25, torch.Generator().manual_seed(0))
    assert (len(training), len(held_out)) == (3, 1)
    numbers = [int(e.observations[0, 0]) for e in (*training.episodes, *held_out.episodes)]
    assert sorted(numbers) == [0, 1, 2, 3]
    again = some.split(0.25, torch.Generator().manual_seed(0))
    same(training, again[0])
    same(held_out, again[1])
    chosen = {
        int(some.split(0.25, torch.Generator().manual_seed(s))[1].episodes[0].observations[0, 0])
        for s in range(30)
    }
    assert chosen == {0, 1, 2, 3}


def test_steps_are_held_out_one_by_one(some):
    whole = some.transitions()
    training, held_out = split_transitions(whole, 0.3, torch.Generator().manual_seed(1))
    assert (len(training.actions), len(held_out.actions)) == (9, 4)

    def rows(part):
        return [tuple(np.hstack(row).tolist()) for row in zip(*part, strict=True)]

    assert sorted(rows(training) + rows(held_out)) == sorted(rows(whole))
    none, rewards = split_transitions(whole._replace(rewards=None), 0.3, torch.Generator())
    assert (none.rewards, rewards.rewards) == (None, None)


def test_something_is_left_to_train_on(some):
    training, held_out = some.split(0.99, torch.Generator())
    assert (len(training), len(held_out)) == (1, 3)
    assert len(some.split(0.0, torch.Generator())[1]) == 0
    empty = Trajectories(2, 1)
    assert [len(part) for part in empty.split(0.5, torch.Generator())] == [0, 0]
    for share in (1.0, -0.1, float("nan")):
        with pytest.raises(ArgumentError, match="held_out must be a share from 0 to below 1"):
            some.split(share, torch.Generator())


def test_a_checkpoint_holds_everything(some):
    state = some.state_dict()
    some.append([episode(4, 2)])
    other = Trajectories(2, 1)
    other.load_state_dict(state)
    assert [len(e.actions) for e in other.episodes] == list(LENGTHS)
    other.append([episode(4, 2)])
    same(some, other)
    empty = Trajectories(2, 1)
    other.load_state_dict(empty.state_dict())
    assert (len(other), other.transitions().observations.shape) == (0, (0, 2))


def test_files_come_back_bit_by_bit(some, tmp_path):
    noise = torch.randn(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    some.append([Episode(noise, noise[:3, :1] / 3, noise[:3, 1] / 7)])
    path = tmp_path / "data.npz"
    some.save(path)
    same(Trajectories.load(path), some)
    assert [file.name for file in tmp_path.iterdir()] == ["data.npz"]
    with np.load(path, allow_pickle=False) as file:
        np.testing.assert_array_equal(file["lengths"], [*LENGTHS, 3])
        np.testing.assert_array_equal(file["actions"][-3:], noise[:3, :1] / 3)
    Trajectories(3, 2).save(path)
    same(Trajectories.load(path), Trajectories(3, 2))


def test_a_file_that_cannot_be_written_is_named(some, tmp_path):
    path = tmp_path / "missing" / "data.npz"
    with pytest.raises(StorageError, match=r"data.npz: cannot be written: .*No such file"):
        some.save(path)


def test_damaged_files_are_named_in_one_line(some, tmp_path):
    whole = tmp_path / "whole.npz"
    some.save(whole)
    good, path = dict(np.load(whole)), tmp_path / "bad.npz"
    data = whole.read_bytes()
    contents = {"half": data[: len(data) // 2], "empty": b"", "text": b"episodes: 3\n"}
    contents["flipped"] = data.replace(good["actions"].tobytes(), b"\1" * good["actions"].nbytes)
    for content in contents.values():
        path.write_bytes(content)
        refused(path)
    for wrong in (
        {"lengths": good["lengths"][1:]},
        {"lengths": good["lengths"].astype(float)},
        {"lengths": np.array([14, -1])},
        {"rewards": good["rewards"][1:]},
        {"rewards": np.array(0.0)},
        {"rewards": np.full(13, "1")},
        {"rewards": np.full(13, np.nan)},
        {"actions": good["actions"][:, 0]},
        {"observations": np.array([{"code": 1}], dtype=object)},
    ):
        np.savez(path, **{**good, **wrong})
        refused(path)
    np.savez(path, observations=good["observations"])
    refused(path)
    with path.open("wb") as file:
        np.save(file, good["actions"])
    refused(path)
    path.unlink()
    refused(path)
    refused(tmp_path)


def refused(path):
    with pytest.raises(ArgumentError) as caught:
        Trajectories.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: cannot be read as trajectories: ")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"observations": torch.zeros(3, 2)}, r"observations .* shape \[2, 2\], got \[3, 2\]"),
        ({"observations": torch.zeros(2, 3)}, r"observations .* shape \[2, 2\], got \[2, 3\]"),
        ({"actions": torch.zeros(1, 2)}, r"actions .* shape \[1, 1\], got \[1, 2\]"),
        ({"rewards": torch.zeros(1, 1)}, r"rewards .* shape \[1\], got \[1, 1\]"),
        ({"rewards": torch.tensor([torch.inf])}, "rewards of an episode must be finite"),
    ],
)
def test_episodes_of_another_kind_are_refused(wrong, message):
    good = Episode(torch.zeros(2, 2), torch.zeros(1, 1), torch.zeros(1))
    trajectories = Trajectories(2, 1)
    with pytest.raises(ArgumentError, match=message):
        trajectories.append([good, good._replace(**wrong)])
    assert len(trajectories) == 0, "all or none"


def test_other_mistakes_are_named(some):
    with pytest.raises(ArgumentError, match="an episode must have a step"):
        some.append([Episode(torch.zeros(1, 2), torch.zeros(0, 1), torch.zeros(0))])
    with pytest.raises(ArgumentError, match="length must be at least 1, got 0"):
        some.windows(0)
    with pytest.raises(ArgumentError, match="stride must be at least 1, got 0"):
        some.windows(1, stride=0)
    with pytest.raises(ArgumentError, match="trajectories lack rewards, lengths"):
        some.load_state_dict({"observations": torch.zeros(0, 2), "actions": torch.zeros(0, 1)})
    with pytest.raises(ArgumentError, match=r"observations .* shape \[4, 3\], got \[4, 2\]"):
        Trajectories(3, 1).load_state_dict(some.state_dict())
    assert len(some) == 4
