"""Checkpoints that survive crashes and notice damage."""

from __future__ import annotations

import hashlib
import io
import os
from pathlib import Path
from typing import Any

import torch

from mbrl.errors import CheckpointError


def save(path: Path, content: dict[str, Any], *, keep_previous: bool = False) -> None:
    """Write ``content`` (tensors and plain data) and its SHA-256 beside it, atomically.

    At every moment a crash may come there is a complete checkpoint on disk whose digest is on disk
    too, so that :func:`load` finds one.

    Args:
        path: e.g. checkpoints/latest.pt; the digest goes to latest.pt.sha256.
        content: what ``torch.save`` can write and a weights-only load can read.
        keep_previous: move an existing checkpoint to previous.pt instead of overwriting it.

    Raises:
        CheckpointError: if the disk is full or the folder cannot be written to.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    data = buffer.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    new, new_digest = _beside(path, ".tmp"), _beside(path, ".sha256.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(new, data)
        _write(new_digest, f"{digest}  {path.name}\n".encode())
        if keep_previous and path.exists():
            previous = _previous(path)
            os.replace(path, previous)
            if _beside(path, ".sha256").exists():
                os.replace(_beside(path, ".sha256"), _beside(previous, ".sha256"))
        os.replace(new, path)
        os.replace(new_digest, _beside(path, ".sha256"))
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}") from error


def load(path: Path) -> dict[str, Any]:
    """Return the newest undamaged checkpoint among ``path`` and the one before it.

    Raises:
        CheckpointError: if neither exists undamaged. Nothing in a checkpoint is ever executed.
    """
    digests = set()
    for file in (path, _previous(path)):
        for suffix in (".sha256", ".sha256.tmp"):
            if _beside(file, suffix).exists():
                digests.add(_beside(file, suffix).read_text(errors="replace").split(" ")[0])
    tried = []
    for file in (path, _beside(path, ".tmp"), _previous(path)):
        if not file.exists():
            continue
        data = file.read_bytes()
        if hashlib.sha256(data).hexdigest() not in digests:
            tried.append(f"{file.name} is damaged")
            continue
        try:
            content: dict[str, Any] = torch.load(io.BytesIO(data), weights_only=True)
        except Exception as error:
            raise CheckpointError(
                f"{file} holds something other than tensors and plain data; it was not executed"
            ) from error
        return content
    raise CheckpointError(f"no usable checkpoint at {path}: {'; '.join(tried) or 'no such file'}")


def _previous(path: Path) -> Path:
    return path.with_name("previous.pt")


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
