"""Checkpoints that survive crashes and notice damage."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mbrl.errors import CheckpointError


def save(path: Path, content: dict[str, Any], *, keep_previous: bool = False) -> None:
    """Write ``content`` (tensors and plain data) and its SHA-256 beside it, atomically.

    At every moment a crash may come there is a complete checkpoint on disk whose digest is on disk
    too, so that :func:`load` finds one, never an older one than it would have found before.

    Args:
        path: e.g. checkpoints/latest.pt; the digest goes to latest.pt.sha256.
        content: what ``torch.save`` can write and a weights-only load can read.
        keep_previous: move an existing checkpoint to latest.previous.pt, unless it is damaged,
            instead of overwriting it.

    Raises:
        CheckpointError: if the disk is full or the folder cannot be written to.
    """
    buffer = io.BytesIO()
    torch.save(_plain(content), buffer)
    data = buffer.getvalue()
    new, new_digest, digest = _beside(path, ".tmp"), _beside(path, ".sha256.tmp"), _digest(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _finish(path)
        _write(new, data)
        _write(new_digest, f"{hashlib.sha256(data).hexdigest()}  {path.name}\n".encode())
        if keep_previous and _matches(path, digest):
            os.replace(path, _previous(path))
            os.replace(digest, _digest(_previous(path)))
        os.replace(new, path)
        os.replace(new_digest, digest)
        _sync_folder(path.parent)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}") from error


def _plain(value: Any) -> Any:
    """Return containers in which a number of NumPy's is one of Python's."""
    if isinstance(value, np.generic):
        return value.item()
    if type(value) is dict:
        return {_plain(key): _plain(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_plain, value))
    return value


def load(path: Path) -> dict[str, Any]:
    """Return the newest undamaged checkpoint among ``path`` and the one before it.

    Raises:
        CheckpointError: if neither exists undamaged. Nothing in a checkpoint is ever executed.
    """
    candidates = (path, _beside(path, ".tmp"), _previous(path))
    digests = (_digest(path), _beside(path, ".sha256.tmp"), _digest(_previous(path)))
    # A crash may have come between moving a file and moving its digest: any of them will do.
    known, tried = set(), []
    for digest in digests:
        with contextlib.suppress(OSError):  # its checkpoint will then count as damaged
            known.add(_recorded(digest))
    for file in candidates:
        if not file.exists():
            continue
        try:
            data = file.read_bytes()
        except OSError as error:
            tried.append(f"{file.name} cannot be read: {error.strerror or error}")
            continue
        if hashlib.sha256(data).hexdigest() not in known:
            tried.append(f"{file.name} is damaged")
            continue
        try:
            content: dict[str, Any] = torch.load(
                io.BytesIO(data), map_location="cpu", weights_only=True
            )
        except Exception as error:
            raise CheckpointError(
                f"{file} holds something other than tensors and plain data; it was not executed"
            ) from error
        return content
    raise CheckpointError(f"no usable checkpoint at {path}: {'; '.join(tried) or 'no such file'}")


def _finish(path: Path) -> None:
    """Roll a save that a crash cut short forward, so that the next one starts from a whole."""
    new, new_digest, digest = _beside(path, ".tmp"), _beside(path, ".sha256.tmp"), _digest(path)
    if not path.exists() and _matches(new, new_digest):
        os.replace(new, path)
    if _matches(path, new_digest):
        os.replace(new_digest, digest)


def _matches(path: Path, digest: Path) -> bool:
    if not path.exists() or not digest.exists():
        return False
    return hashlib.sha256(path.read_bytes()).hexdigest() == _recorded(digest)


def _recorded(digest: Path) -> str:
    return digest.read_text(errors="replace").split(" ")[0]


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def _digest(path: Path) -> Path:
    return _beside(path, ".sha256")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _write(path: Path, data: bytes) -> None:
    try:
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        with contextlib.suppress(OSError):
            path.unlink()  # on a full disk half a file is in the way
        raise


def _sync_folder(folder: Path) -> None:
    """Make renames durable, where folders can be synchronised."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
