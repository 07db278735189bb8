"""Checkpoints: at whatever moment a crash comes, and whatever the disk does to them."""

import contextlib
import errno
import hashlib
import os
import pickle
import random

import pytest
import torch

from mbrl import checkpoint
from mbrl.errors import CheckpointError


class Crash(BaseException):
    """The process ends here; nothing may catch it."""


class Steps:
    """Counts the steps of a save that change what is on disk, and stops at the n-th.

    A crash comes before the step, or after it; a write is cut short, too.
    """

    def __init__(self, monkeypatch, stop, after, error=Crash):
        self.taken, self.stop, self.after, self.error = 0, stop, after, error
        for name in ("replace", "fsync"):
            monkeypatch.setattr(os, name, self.wrapped(name, getattr(os, name)))

    def wrapped(self, name, function):
        def step(*arguments):
            self.taken += 1
            if self.taken == self.stop and not self.after:
                if name == "fsync" and self.error is Crash:
                    with contextlib.suppress(OSError):  # it may be a folder
                        os.ftruncate(arguments[0], 7)  # what was written did not reach the disk
                raise self.error
            function(*arguments)
            if self.taken == self.stop:
                raise self.error

        return step


def content(n):
    return {"n": n, "weights": torch.full((50,), float(n)), "nested": [{"a": None}, "b"]}


def file_of(folder):
    return folder / "checkpoints" / "latest.pt"


def save(folder, n, **options):
    checkpoint.save(file_of(folder), content(n), **options)


def load(folder):
    found = checkpoint.load(file_of(folder))
    assert torch.equal(found["weights"], content(found["n"])["weights"])
    return found["n"]


@pytest.fixture
def crash(tmp_path, monkeypatch):
    """Return a function that saves, and crashes at a step; whether it got that far."""

    def crashed(n, stop, after, keep_previous):
        with monkeypatch.context() as patch:
            Steps(patch, stop, after)
            try:
                save(tmp_path, n, keep_previous=keep_previous)
            except Crash:
                return True
        return False

    return crashed


def test_what_was_saved_is_loaded(tmp_path):
    save(tmp_path, 1)
    found = checkpoint.load(file_of(tmp_path))
    assert found["nested"] == [{"a": None}, "b"]
    assert load(tmp_path) == 1


@pytest.mark.parametrize("keep_previous", [True, False])
def test_the_digest_beside_is_that_of_the_file(tmp_path, keep_previous):
    for n in (1, 2, 3):
        save(tmp_path, n, keep_previous=keep_previous)
        files = sorted(file_of(tmp_path).parent.glob("*.pt"))
        for file in files:
            digest = file.with_name(f"{file.name}.sha256").read_text().split()[0]
            assert digest == hashlib.sha256(file.read_bytes()).hexdigest()
        assert len(files) == 1 + (keep_previous and n > 1)
        assert not list(file_of(tmp_path).parent.glob("*.tmp"))


def test_a_crash_at_every_step_leaves_the_new_or_the_old(tmp_path, crash):
    for keep_previous in (True, False):
        for after in (True, False):
            save(tmp_path, 1)
            save(tmp_path, 2, keep_previous=keep_previous)
            found, stop = [], 0
            while crash(3, stop := stop + 1, after, keep_previous):
                found.append(load(tmp_path))
                save(tmp_path, 2, keep_previous=keep_previous)
            assert set(found) == {2, 3}  # both occur: the crash is real
            assert found == sorted(found)
            assert len(found) >= 5


def test_a_crash_during_the_first_save_leaves_it_or_nothing(tmp_path, crash):
    stop = 0
    while crash(1, stop := stop + 1, True, True):
        try:
            assert load(tmp_path) == 1
        except CheckpointError:
            assert stop == 1  # its digest was not written yet
        for file in file_of(tmp_path).parent.iterdir():
            file.unlink()


def test_crash_upon_crash_never_loses_what_was_there(tmp_path, crash, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # hundreds of real ones take seconds
    folder = file_of(tmp_path).parent
    crashes = 0
    for first in range(1, 9):
        for second in range(1, 9):
            for after in (True, False):
                if folder.exists():
                    for file in folder.iterdir():
                        file.unlink()
                save(tmp_path, 1, keep_previous=True)
                save(tmp_path, 2, keep_previous=True)
                known = 2
                for n, stop in ((3, first), (4, second), (5, first)):
                    crashes += crash(n, stop, after, True)
                    assert load(tmp_path) in (known, n)
                    known = load(tmp_path)
                save(tmp_path, 6, keep_previous=True)
                assert load(tmp_path) == 6
    assert crashes > 200


def test_a_byte_flipped_anywhere_is_noticed_and_the_previous_one_used(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2, keep_previous=True)
    data = file_of(tmp_path).read_bytes()
    generator = random.Random(0)
    for place in [0, len(data) - 1, *generator.sample(range(len(data)), 50)]:
        damaged = bytearray(data)
        damaged[place] ^= 1 << generator.randrange(8)
        file_of(tmp_path).write_bytes(bytes(damaged))
        assert load(tmp_path) == 1
    for length in (0, 1, len(data) // 2, len(data) - 1):
        file_of(tmp_path).write_bytes(data[:length])
        assert load(tmp_path) == 1
    file_of(tmp_path).write_bytes(data)
    assert load(tmp_path) == 2


def test_a_damaged_checkpoint_does_not_push_out_the_one_before(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2, keep_previous=True)
    file_of(tmp_path).write_bytes(b"damage")
    save(tmp_path, 3, keep_previous=True)
    assert load(tmp_path) == 3
    file_of(tmp_path).write_bytes(b"damage")
    assert load(tmp_path) == 1


def test_a_missing_or_damaged_digest_is_damage(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2, keep_previous=True)
    digest = file_of(tmp_path).with_name("latest.pt.sha256")
    digest.write_bytes(b"\xff" * 64)
    assert load(tmp_path) == 1
    digest.unlink()
    assert load(tmp_path) == 1


def test_if_both_are_damaged_both_are_named(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2, keep_previous=True)
    for file in file_of(tmp_path).parent.glob("*.pt"):
        file.write_bytes(b"damage")
    with pytest.raises(CheckpointError) as caught:
        load(tmp_path)
    assert "latest.pt is damaged; latest.previous.pt is damaged" in str(caught.value)


def test_nothing_there_is_said(tmp_path):
    with pytest.raises(CheckpointError, match=r"no usable checkpoint at .*: no such file"):
        load(tmp_path)


def test_another_files_previous_is_not_taken(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2, keep_previous=True)
    best = file_of(tmp_path).with_name("best.pt")
    checkpoint.save(best, content(3))
    best.write_bytes(b"damage")
    with pytest.raises(CheckpointError, match=r"best\.pt is damaged$"):
        checkpoint.load(best)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("write", ["pickle", "torch"])
def test_code_in_a_checkpoint_is_refused_not_run(tmp_path, write):
    save(tmp_path, 1, keep_previous=True)
    file, trap = file_of(tmp_path), tmp_path / "executed"
    if write == "pickle":
        file.write_bytes(pickle.dumps({"n": Evil(trap)}))
    else:
        torch.save({"n": Evil(trap)}, file)
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    file.with_name("latest.pt.sha256").write_text(f"{digest}  latest.pt\n")
    with pytest.raises(CheckpointError, match="it was not executed"):
        load(tmp_path)
    assert not trap.exists()


def test_a_full_disk_is_reported_and_costs_nothing(tmp_path, monkeypatch):
    save(tmp_path, 1)
    save(tmp_path, 2, keep_previous=True)
    full = OSError(errno.ENOSPC, "No space left on device")
    for stop in range(1, 7):
        with monkeypatch.context() as patch:
            Steps(patch, stop, after=False, error=full)
            with pytest.raises(CheckpointError, match=r"cannot write .*latest\.pt: No space left"):
                save(tmp_path, 3, keep_previous=True)
        assert load(tmp_path) in (2, 3)
        if stop <= 2:  # half a file would keep the disk full
            names = {file.name for file in file_of(tmp_path).parent.iterdir()}
            assert ("latest.pt.tmp" in names, "latest.pt.sha256.tmp" in names) == (stop == 2, False)
        save(tmp_path, 2, keep_previous=True)


def test_a_folder_that_is_a_file_is_reported(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    with pytest.raises(CheckpointError, match="cannot write"):
        save(tmp_path, 1)


def test_a_checkpoint_that_cannot_be_read_counts_as_missing(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2, keep_previous=True)
    file_of(tmp_path).unlink()
    file_of(tmp_path).mkdir()
    assert load(tmp_path) == 1
