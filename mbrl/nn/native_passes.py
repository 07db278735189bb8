"""Passes through many small perceptrons, and Adam, in native code, where it was compiled."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from mbrl.cores import usable_cores
from mbrl.nn.stacked_layers import Parameters, Stack, Tape

# Up to which width of a layer this is faster than torch: ten seeds of two networks with two hidden
# layers of 32, batches of 256, take a third of torch's time with AVX-512 and a half with AVX2; of
# 128 they take six and nine tenths, and with 256 torch's products win against AVX2.
_WIDEST = 128


def _load() -> ModuleType | None:
    try:
        return importlib.import_module("mbrl.nn._perceptron")
    except ImportError:  # without a compiler torch does the same, more slowly
        return None


_NATIVE = _load()


class NativePasses:
    """Passes that keep some rows of a batch in the processor's cache from layer to layer.

    The lanes of vectors are rows: widths of 1 or 33 waste none. Tensors that are returned have
    the rows next to each other in memory, those of a unit after those of another. Sums over rows
    are taken in a fixed order, and a seed's do not depend on other seeds, nor on the number of
    threads that the seeds are shared by. See :class:`~mbrl.nn.FlatMLP`.

    Args:
        stack: the networks.
        variant: of the code, for instructions of a processor; None: the best for this one.
    """

    def __init__(self, stack: Stack, variant: str | None = None):
        module: Any = _NATIVE
        self._network = module.Network(stack.widths, stack.copies, variant or module.VARIANTS[0])

    @staticmethod
    def suit(stack: Stack) -> bool:
        """Whether there is native code, and it is faster."""
        return _NATIVE is not None and max(stack.widths) <= _WIDEST

    @staticmethod
    def take(value: Tensor) -> bool:
        """Whether tensors like this one can be used."""
        return value.dtype in (torch.float32, torch.float64) and value.is_cpu

    def forward(self, parameters: Parameters, value: Tensor) -> Tape:
        """[S, B, inputs] -> outputs [E, B, outputs]."""
        record, output = self._network.forward(parameters.array, _array(value), _threads())
        return Tape(record, torch.from_numpy(output).mT)

    def output(self, parameters: Parameters, value: Tensor) -> Tensor:
        """Return the outputs alone; what comes between stays in the innermost cache."""
        found = self._network.output(parameters.array, _array(value), _threads())
        return torch.from_numpy(found).mT

    def gradient(
        self, parameters: Parameters, tape: Tape, cotangent: Tensor, out: Parameters
    ) -> None:
        """Write the gradient by the parameters to ``out``."""
        self._network.gradient(
            parameters.array, tape.record, _array(cotangent), out.array, _threads()
        )

    def input_gradient(self, parameters: Parameters, tape: Tape, cotangent: Tensor) -> Tensor:
        """Return the gradient by the input, [S, B, inputs]."""
        found = self._network.input_gradient(
            parameters.array, tape.record, _array(cotangent), _threads()
        )
        return torch.from_numpy(found).mT

    def derivative(self, parameters: Parameters, tape: Tape, tangent: Parameters) -> Tensor:
        """Return the derivative along ``tangent``, [E, B, outputs]."""
        found = self._network.derivative(parameters.array, tape.record, tangent.array, _threads())
        return torch.from_numpy(found).mT


class NativeAdam:
    """Steps of Adam on one tensor of parameters; see :class:`~mbrl.nn.FlatAdam`.

    What a number becomes depends on no other, nor on the number of threads.

    Args:
        values: what is learned, changed in place.
        first: the mean of gradients, likewise.
        second: that of their squares, likewise.
        lr: rate.
        betas: decay rates.
        eps: what is added to the root.
        variant: of the code, for instructions of a processor; None: the best for this one.
    """

    def __init__(
        self,
        values: Tensor,
        first: Tensor,
        second: Tensor,
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        variant: str | None = None,
    ):
        module: Any = _NATIVE
        self._step = module.adam_step
        self._changed = [_array(each) for each in (values, first, second)]
        self._constant = lr, betas, eps, variant or module.VARIANTS[0]

    @staticmethod
    def take(values: Tensor) -> bool:
        """Whether there is native code, and it can change these values."""
        return _NATIVE is not None and NativePasses.take(values) and values.is_contiguous()

    def step(self, gradient: Tensor, number: int) -> None:
        """Take the step of this number; before the first, 1, moments may be anything."""
        self._step(*self._changed, _array(gradient), number, *self._constant, _threads())


class _Threads(threading.local):
    """At most how many share the seeds: as many as torch takes, or had before it left them."""

    def __init__(self) -> None:
        self._left: int | None = None

    def __call__(self) -> int:
        # More of them than cores would only wait for one another.
        return min(self._left or torch.get_num_threads(), usable_cores())

    @contextmanager
    def leave(self) -> Iterator[None]:
        before, threads = self._left, torch.get_num_threads()
        self._left = before or threads
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            self._left = before


_threads = _Threads()


def threads_to_passes() -> AbstractContextManager[None]:
    """Torch's operations take one thread meanwhile, native passes those that torch had.

    Where both alternate in a tenth of a millisecond, a thread of either that looks for more to do
    keeps those of the other from working. Passes, of this thread of Python's; torch's number is
    that of the process.
    """
    return _threads.leave()


def _array(tensor: Tensor) -> Any:
    return tensor.detach().numpy()
