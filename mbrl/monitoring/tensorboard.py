"""A run in TensorBoard: scalars, pictures, texts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imageio.v2

from mbrl.monitoring.stream import Picture, Row, Sink
from mbrl.types import Diagnostics

_NO_SCALARS = ("update",)  # it is the step
_STILL = (".png", ".jpg")


class TensorBoard(Sink):
    """Writes event files; whatever is still to be written is written by a thread of TensorBoard's.

    Args:
        folder: where to.
        done: updates made already: what an earlier part of the run wrote of later ones is replaced.
    """

    wants_diagnostics = wants_pictures = True

    def __init__(self, folder: Path, done: int = 0):
        # Here, as importing it takes time that nobody should spend who has no use for it.
        from tensorboard.compat.proto.summary_pb2 import Summary
        from torch.utils.tensorboard import SummaryWriter

        self._summary = Summary
        self._writer = SummaryWriter(str(folder), purge_step=done + 1)
        self._file: Any = self._writer.file_writer

    def write(self, row: Row) -> None:
        """Write the row of an update, a scalar a column."""
        values = {name: value for name, value in row.items() if name not in _NO_SCALARS}
        self._scalars(values, int(row["update"]))

    def diagnose(self, update: int, found: Diagnostics) -> None:
        """Write what is one number; TensorBoard has no curves over the steps of a rollout."""
        self._scalars({name: float(v) for name, v in found.items() if not v.ndim}, update)

    def show(self, picture: Picture) -> None:
        """Write a still."""
        if picture.path.suffix in _STILL:
            pixels = imageio.v2.imread(picture.path)[..., :3]
            self._writer.add_image(picture.name, pixels, picture.update, dataformats="HWC")

    def tell(self, name: str, text: str) -> None:
        """Write a text as it is."""
        self._writer.add_text(name, "".join(f"    {line}\n" for line in text.splitlines()))

    def close(self) -> None:
        """Write what is still to be written."""
        self._writer.close()

    def _scalars(self, values: Row, update: int) -> None:
        """Write all at once: ``add_scalar`` of each would take ten times as long."""
        if values:
            entries = [self._summary.Value(tag=n, simple_value=v) for n, v in values.items()]
            self._file.add_summary(self._summary(value=entries), update)
