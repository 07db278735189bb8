"""A memory of transitions in a file of its own, so that checkpoints need not hold it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mbrl.data.transition_replay import TransitionReplay
from mbrl.errors import CheckpointError


class ReplayFile:
    """What a memory was ever given, in the order it was given: a file that is only added to.

    A checkpoint then says how many transitions there were, and their digest. Each is written once,
    and what is added later does no harm to earlier checkpoints. Where there is no folder,
    checkpoints hold the memory itself.

    Args:
        replay: the memory.
        folder: returns where the file replay.bin is to lie; None: nowhere.
    """

    def __init__(self, replay: TransitionReplay, folder: Callable[[], Path | None]):
        self._replay, self._folder = replay, folder
        self._written = 0  # transitions, from the first on, that the file is known to hold
        self._latest: dict[str, Any] = {}
        self._missing = False

    def state_dict(self) -> dict[str, Any]:
        """Bring the file up to date, and return what :meth:`load_state_dict` needs to know.

        Raises:
            CheckpointError: if the file cannot be written.
        """
        folder, replay = self._folder(), self._replay
        if folder is None:
            return replay.state_dict()
        if self._latest.get("added") != replay.added:
            first = max(self._written, replay.added - len(replay))
            path = folder / "replay.bin"
            try:
                folder.mkdir(parents=True, exist_ok=True)
                _write(path, first * replay.bytes_each, replay.pieces(first))
            except OSError as error:
                raise CheckpointError(f"cannot write {path}: {error.strerror or error}") from error
            self._written = replay.added
            self._latest = {"added": replay.added, "sha256": self._digest()}
        return dict(self._latest)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore the memory of a :meth:`state_dict`.

        Without the folder it stays empty, which is enough for acting: see :meth:`require`.

        Raises:
            CheckpointError: if the file does not hold what it did.
        """
        folder, replay = self._folder(), self._replay
        self._latest, self._missing = {}, False
        if "rows" in state:
            replay.load_state_dict(state)
            self._written = 0
            return
        replay.added = self._written = int(state["added"])
        if folder is None:
            self._missing = replay.added > 0
            return
        path = folder / "replay.bin"
        try:
            _read(path, (replay.added - len(replay)) * replay.bytes_each, replay)
        except OSError as error:
            raise CheckpointError(f"cannot read {path}: {error.strerror or error}") from error
        if self._digest() != state["sha256"]:
            raise CheckpointError(f"{path} is damaged: it is not what the checkpoint goes with")

    def require(self) -> None:
        """Check that the memory is there to learn from.

        Raises:
            CheckpointError: if it was left in the folder of its run.
        """
        if self._missing:
            raise CheckpointError("the memory of this run was left in its folder: resume it there")

    def _digest(self) -> str:
        digest = hashlib.sha256()
        for piece in self._replay.pieces(self._replay.added - len(self._replay)):
            digest.update(piece.data)
        return digest.hexdigest()


def _write(path: Path, offset: int, pieces: list[np.ndarray[Any, Any]]) -> None:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT, 0o666)
    with os.fdopen(handle, "wb") as file:
        file.seek(offset)
        for piece in pieces:
            file.write(piece.data)
        file.flush()
        os.fsync(file.fileno())


def _read(path: Path, offset: int, replay: TransitionReplay) -> None:
    with path.open("rb") as file:
        file.seek(offset)
        for piece in replay.pieces(replay.added - len(replay)):
            file.readinto(piece.data)
