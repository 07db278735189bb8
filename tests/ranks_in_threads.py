"""Ranks as threads of one process: what they say to each other goes through a list."""

import threading
from concurrent.futures import ThreadPoolExecutor

import torch

from mbrl.ranks import TorchRanks


class ThreadRanks(TorchRanks):
    def __init__(self, rank, size, barrier, board):
        self.rank, self.size = rank, size
        self._barrier, self._board = barrier, board

    def told(self, text):
        return self._shown("told", text)[0]

    def _all(self, value):
        return [part.clone() for part in self._shown("all", value.detach().clone())]

    def _shown(self, call, word):
        """Return the words of all ranks, which must have made the same call."""
        self._board[self.rank] = call, word
        self._barrier.wait()
        calls, found = zip(*self._board, strict=True)
        self._barrier.wait()
        assert set(calls) == {call}, calls
        return found


def on_ranks(size, job):
    """Call ``job(ranks)`` on so many ranks at once, and return what each returned."""
    barrier, board = threading.Barrier(size, timeout=60), [None] * size

    def one(rank):
        torch.set_num_threads(1)
        try:
            return job(ThreadRanks(rank, size, barrier, board))
        except BaseException:
            barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(one, rank) for rank in range(size)]
    return [future.result() for future in futures]
