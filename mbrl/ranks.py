"""Several processes that share a batch: ``torchrun --nproc-per-node N main.py ...``."""

from __future__ import annotations

import contextlib
import datetime
import importlib
import os
import re
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch import distributed as group

from mbrl.errors import ArgumentError, DivergenceError, MbrlError, RankError, one_line

# Of a rank that is alone with something long, an evaluation perhaps. One that is lost is noticed at
# once: its connections close.
_PATIENCE = datetime.timedelta(days=1)


class Ranks:
    r"""One process, which has all rows of a batch to itself.

    The rule by which several repeat what one does: every rank draws the random numbers of the whole
    batch and takes those of its own rows, so that noise belongs to a sample and not to a rank; what
    is then added up over ranks is added in their order. Parameters, optimisers, statistics and
    generators are the same on all ranks at all times, and a checkpoint of one is that of any number
    of them.

    Attributes:
        rank: from 0.
        size: how many there are.
    """

    rank = 0
    size = 1

    @property
    def leads(self) -> bool:
        """Whether this is the one that writes files and speaks."""
        return self.rank == 0

    def rows(self, count: int) -> slice:
        """Return which of ``count`` rows are this rank's: every ``size``-th.

        Rows that take long are often neighbours (starts from memory, say), so that all ranks get
        their share of those.

        Raises:
            ArgumentError: if there is not one for every rank.
        """
        if count < self.size:
            raise ArgumentError(f"{count} rows cannot be shared by {self.size} ranks")
        return slice(self.rank, count, self.size)

    def total(self, value: Tensor) -> Tensor:
        """Return the sum over ranks of tensors of one shape; nothing flows back through it."""
        return value.detach()

    def gathered(self, rows: Tensor, count: int) -> Tensor:
        """Return all ranks' rows [n, ...], ``count`` in all, as :meth:`rows` shared them."""
        return rows.detach()

    def any(self, flag: bool) -> bool:
        """Return whether the flag of any rank is set."""
        return flag

    def told(self, text: str) -> str:
        """Return the text of rank 0, whatever the others give."""
        return text

    def totals(self, values: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Return the sums over ranks of several tensors, in one go; None stays None."""
        return list(values)

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Let an error of this package that one rank meets end what all of them do here.

        Raises:
            DivergenceError: on the others.
        """
        yield


ALONE = Ranks()


class TorchRanks(Ranks):
    """A rank of torch's default process group."""

    def __init__(self) -> None:
        self.rank, self.size = group.get_rank(), group.get_world_size()

    def total(self, value: Tensor) -> Tensor:
        """Gather and add: torch's own sum has an order of its own."""
        return torch.stack(self._all(value)).sum(0)

    def gathered(self, rows: Tensor, count: int) -> Tensor:
        """Pad to one length, gather, and cut."""
        longest = -(-count // self.size)
        missing = longest - len(rows)
        padded = torch.cat([rows, rows.new_zeros((missing, *rows.shape[1:]))]) if missing else rows
        return torch.stack(self._all(padded), dim=1).flatten(0, 1)[:count]

    def any(self, flag: bool) -> bool:
        """Return whether the flag of any rank is set."""
        return bool(self.total(torch.tensor(float(flag))))

    def totals(self, values: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Add up one tensor per dtype."""
        found: list[Tensor | None] = [None] * len(values)
        present = {i: value for i, value in enumerate(values) if value is not None}
        for dtype in dict.fromkeys(value.dtype for value in present.values()):
            members = {i: value for i, value in present.items() if value.dtype == dtype}
            flat = self.total(torch.cat([value.flatten() for value in members.values()]))
            parts = flat.split([value.numel() for value in members.values()])
            for (i, value), part in zip(members.items(), parts, strict=True):
                found[i] = part.view_as(value)
        return found

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """Ask all ranks, once the body is done."""
        failure: MbrlError | None = None
        try:
            yield
        except RankError:
            raise
        except MbrlError as error:
            failure = error
        try:
            try:
                ended = self.any(failure is not None)
            except RankError as lost:
                raise failure or lost from None
            if ended:
                raise failure or DivergenceError("another rank could not go on; see what it says")
        finally:
            del failure  # which knows this frame: a circle that would keep the group alive

    def told(self, text: str) -> str:
        """Broadcast bytes: an object would be unpickled."""
        data = torch.tensor(list(text.encode()), dtype=torch.uint8)
        length = torch.tensor(len(data))
        with _lost():
            group.broadcast(length, 0)
            data = data if self.leads else torch.empty(int(length), dtype=torch.uint8)
            group.broadcast(data, 0)
        return bytes(data.tolist()).decode()

    def _all(self, value: Tensor) -> list[Tensor]:
        value = value.detach().contiguous()
        as_bytes = value.to(torch.uint8) if value.dtype == torch.bool else value
        parts = [torch.empty_like(as_bytes) for _ in range(self.size)]
        with _lost():
            group.all_gather(parts, as_bytes)
        return [part.to(value.dtype) for part in parts]


def launched() -> bool:
    """Whether ``torchrun`` started this process, and others beside it."""
    return group.is_torchelastic_launched() and int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_first() -> bool:
    """Whether this is the process that speaks: rank 0, or the only one."""
    return not launched() or os.environ.get("RANK") == "0"


@contextlib.contextmanager
def joined() -> Iterator[Ranks]:
    """Join the others that ``torchrun`` started, if it did; once for all that is inside.

    Raises:
        RankError: if they cannot be reached.
    """
    if not launched():
        yield ALONE
    elif group.is_initialized():
        yield TorchRanks()
    else:
        # What is imported later binds the group as a default argument and keeps its threads alive;
        # one of them may then want a lock of Python's that is gone, and abort the process.
        importlib.import_module("torch.distributed.nn.functional")
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        with _lost():
            group.init_process_group(backend, timeout=_PATIENCE)
        try:
            yield TorchRanks()
        finally:
            group.destroy_process_group()


@contextlib.contextmanager
def _lost() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of torch's own, whose text differs from version to version
        rank = os.environ.get("RANK", "?")
        # Without the place in its source that comes before, and the advice that comes after.
        reason = re.sub(r"^\[[^\]]*\] ", "", one_line(error)).partition(". ")[0]
        raise RankError(f"rank {rank} has lost another one ({reason})") from error
