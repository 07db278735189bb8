"""The control step of a MuJoCo model as a differentiable function of its parameters too."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from mbrl.errors import ArgumentError
from mbrl.ops.batch import batched
from mbrl.ops.first_order import FirstOrderOp, may_differentiate
from mbrl.physics import ModelParameters, ParametricSimulator, Simulator
from mbrl.types import Array, Linearization


class ParametricDynamics(nn.Module):
    r"""Differentiable control step :math:`x' = F(x, u; p)` with parameters p of the model.

    Derivatives are those of :class:`MujocoDynamics` and, beside them,
    :math:`\Theta = \partial (F(x, u; p + d) \ominus F(x, u; p)) / \partial d`: first ones in
    reverse and forward mode, see :class:`FirstOrderOp`; second ones raise. Where only parameters
    need a gradient, as in one-step prediction errors, nothing else is differenced.

    Args:
        simulator: the simulator to differentiate.
        parameters: the numbers of its model that vary.
        eps: size of the differences, those of parameters relative to their magnitude; None: the
            measured best.
        centered: second-order differences, at twice the cost.

    Attributes:
        simulator: the same control step without torch, ``step`` and ``linearize``.
        model_parameters: the numbers that vary.

    Raises:
        ArgumentError: if the parameters are those of another model, or eps is out of range.
    """

    def __init__(
        self,
        simulator: Simulator,
        parameters: ModelParameters,
        *,
        eps: float | None = None,
        centered: bool = False,
    ):
        super().__init__()
        self.simulator = ParametricSimulator(simulator, parameters)
        self.model_parameters = parameters
        simulator.check_linearization("auto", eps)
        self.op, self._parameter_op = (
            FirstOrderOp(_ParametricStep(self.simulator, eps, centered, alone))
            for alone in (False, True)
        )

    def forward(self, state: Tensor, action: Tensor, parameters: Tensor) -> Tensor:
        """Advance every row by one control step.

        Args:
            state: [B, nx] or [nx]; computed in float64 on the CPU.
            action: [B, nu] or [nu]; the engine clamps it to the control range.
            parameters: [P] for all rows, or one set each, of the batch shape of ``state``.

        Returns:
            Next states, of the state's shape, in float64 on the state's device.

        Raises:
            ArgumentError: on a wrong shape, a number that is not finite, or a parameter out of its
                bounds.
            DivergenceError: naming the rows whose simulation diverged.
            SecondDerivativeError: when a second derivative is taken.
        """
        rows, actions = batched(self.simulator.spec, state, action)
        inputs = torch.cat([actions, self._rows(parameters, state)], dim=1)
        # The parameters' own graph would not show: it is the state's and the action's that matter.
        op = self.op if may_differentiate(state, action) else self._parameter_op
        return op(rows, inputs).reshape(state.shape).to(state.device)

    def _rows(self, parameters: Tensor, state: Tensor) -> Tensor:
        """Return the parameters of every row, [B, P], in float64 on the CPU."""
        if not isinstance(parameters, Tensor) or parameters.is_complex():
            kind = parameters.dtype if isinstance(parameters, Tensor) else type(parameters).__name__
            raise ArgumentError(f"parameters must be a tensor of real numbers, got {kind}")
        size, batch = self.model_parameters.size, state.shape[:-1]
        if parameters.shape not in ((size,), (*batch, size)):
            raise ArgumentError(
                f"parameters must have shape [{size}] or {[*batch, size]}, "
                f"got {list(parameters.shape)}"
            )
        values = parameters.to("cpu", torch.float64).expand(*batch, size)
        return values.reshape(batch.numel(), size)


class _ParametricStep:
    """The map (x, [u, p]) -> x': an op knows parameters as further controls."""

    extras = 0

    def __init__(
        self,
        simulator: ParametricSimulator,
        eps: float | None,
        centered: bool,
        parameters_alone: bool,
    ):
        self._simulator, self._eps, self._centered = simulator, eps, centered
        self._alone = parameters_alone
        self.spec = simulator.spec

    def evaluate(self, state: Array, ctrl: Array, constants: Array | None) -> Array:
        nu = self.spec.nu
        return self._simulator.step(state, ctrl[:, :nu], ctrl[:, nu:])

    def linearize(self, state: Array, ctrl: Array, constants: Array | None) -> Linearization:
        nu, ndx = self.spec.nu, self.spec.ndx
        arguments = state, ctrl[:, :nu], ctrl[:, nu:]
        if self._alone:
            theta = self._simulator.sensitivity(*arguments, eps=self._eps, centered=self._centered)
            a, b = np.zeros((len(state), ndx, ndx)), np.zeros((len(state), ndx, nu))
        else:
            a, b, theta = self._simulator.linearize(
                *arguments, eps=self._eps, centered=self._centered
            )
        return Linearization(a, np.concatenate([b, theta], axis=2))
