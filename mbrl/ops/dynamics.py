"""The control step of a MuJoCo model as a differentiable torch op."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from mbrl.errors import ArgumentError
from mbrl.ops.batch import batched
from mbrl.ops.first_order import FirstOrderOp
from mbrl.physics import Simulator, Smoothing, smoothing_of
from mbrl.types import Array, Linearization


class MujocoDynamics(nn.Module):
    r"""Differentiable control step :math:`x' = F(x, u)` of an unmodified MuJoCo model.

    First derivatives in reverse and forward mode, see :class:`FirstOrderOp`; second ones raise.

    Args:
        simulator: the simulator to differentiate.
        method: see ``Simulator.linearize``.
        eps: see ``Simulator.linearize``.
        centered: see ``Simulator.linearize``.
        smoothing: see ``Simulator.linearize``; only derivatives change, never a value.

    Raises:
        ArgumentError: if there is no such method or smoothing, or a number is out of range.
        ModelError: if the method cannot differentiate this model.

    Attributes:
        simulator: the same.
        options: how it is differentiated, as ``Simulator.linearize`` takes it.
    """

    def __init__(
        self,
        simulator: Simulator,
        *,
        method: str = "auto",
        eps: float | None = None,
        centered: bool = False,
        smoothing: Smoothing | Mapping[str, Any] | None = None,
    ):
        super().__init__()
        if not isinstance(simulator, Simulator):
            raise ArgumentError(f"simulator must be a Simulator, got {type(simulator).__name__}")
        self.simulator = simulator
        self.options: dict[str, Any] = {
            "method": method,
            "eps": eps,
            "centered": centered,
            "smoothing": smoothing_of(smoothing),
        }
        self.op = FirstOrderOp(_ControlStep(simulator, self.options))

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Advance every row by one control step.

        Args:
            state: [B, nx] or [nx]; computed in float64 on the CPU.
            action: [B, nu] or [nu]; the engine clamps it to the control range.

        Returns:
            Next states, of the state's shape, in float64 on the state's device.

        Raises:
            ArgumentError: on a wrong shape or a number that is not finite.
            DivergenceError: naming the rows whose simulation diverged.
            SecondDerivativeError: when a second derivative is taken.
        """
        rows, actions = batched(self.simulator.spec, state, action)
        following = self.op(rows, actions).to(state.device)
        return following if state.ndim == 2 else following.reshape(state.shape)


class _ControlStep:
    """A simulator's control step, and how it is differentiated."""

    extras = 0

    def __init__(self, simulator: Simulator, options: Mapping[str, Any]):
        simulator.check_linearization(options["method"], options["eps"])
        self._simulator, self._options = simulator, options
        self.spec = simulator.spec

    def evaluate(self, state: Array, ctrl: Array, constants: Array | None) -> Array:
        return self._simulator.step(state, ctrl)

    def linearize(self, state: Array, ctrl: Array, constants: Array | None) -> Linearization:
        return self._simulator.linearize(state, ctrl, **self._options)
