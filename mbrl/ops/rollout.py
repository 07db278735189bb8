"""A whole rollout, open loop or under linear feedback, as one differentiable torch op."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mbrl.errors import ArgumentError, DivergenceError, ForwardModeError, SecondDerivativeError
from mbrl.ops.tangent import TangentMap
from mbrl.physics import Simulator, Smoothing, smoothing_of
from mbrl.types import Array

_NO_SECOND = (
    "MuJoCo ops have first derivatives only (A and B come from finite differences): "
    "hessian, nested jacrev and create_graph=True followed by grad are not available"
)
_NO_FORWARD = (
    "MujocoRollout has derivatives in reverse mode only; for jvp, jacfwd and dual numbers "
    "step MujocoDynamics, which has both"
)


class Rollout(NamedTuple):
    """A rollout's states, the initial one included, and the actions that were applied."""

    states: Tensor  # (T+1, B, nx)
    actions: Tensor  # (T, B, nu)


class MujocoRollout(nn.Module):
    r"""T control steps of an unmodified MuJoCo model as one differentiable map.

    .. math:: x_{t+1} = F(x_t, u_t), \qquad u_t = \bar u_t + K_t (x_t \ominus r_t),
              \qquad t = 0 \ldots T-1,

    open loop (:math:`u = \bar u`) without gains K and reference r. Values and derivatives are those
    of :class:`MujocoDynamics` applied step by step, to the rounding; but backward is one sweep of
    :meth:`Simulator.adjoint`, which linearises all steps at once and keeps no graph. Gradients
    reach the initial state, the actions, the gains and the reference. Reverse mode and
    ``torch.func`` vmap, vjp, grad and jacrev work; forward mode, any second derivative and the
    ``is_grads_batched`` of ``torch.autograd.grad`` raise.

    Args:
        simulator: the simulator to differentiate.
        method: see ``Simulator.linearize``.
        eps: see ``Simulator.linearize``.
        centered: see ``Simulator.linearize``.
        smoothing: see ``Simulator.linearize``; only derivatives change, never a value.

    Raises:
        ArgumentError: if there is no such method or smoothing, or a number is out of range.
        ModelError: if the method cannot differentiate this model.
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
        simulator.check_linearization(method, eps)
        self.simulator = simulator
        self._options: dict[str, Any] = {
            "method": method,
            "eps": eps,
            "centered": centered,
            "smoothing": smoothing_of(smoothing),
        }
        self._tangent = TangentMap(simulator.spec)

    def forward(
        self,
        state: Tensor,
        actions: Tensor,
        gains: Tensor | None = None,
        reference: Tensor | None = None,
    ) -> Rollout:
        """Apply a sequence of actions, corrected by feedback if there are gains.

        Args:
            state: initial states, [B, nx]; computed in float64 on the CPU.
            actions: [T, B, nu]; the engine clamps what is applied to the control range.
            gains: K, [T, B, nu, ndx], or [T, nu, ndx] for all rows; they multiply the difference
                to the reference in tangent space. None: open loop.
            reference: r, [T, B, nx]; given with gains, and only then.

        Returns:
            States [T+1, B, nx] and applied actions [T, B, nu], before the engine clamps them;
            float64 on the state's device.

        Raises:
            ArgumentError: on a wrong shape or a number that is not finite.
            DivergenceError: naming the rows whose simulation diverged.
            ForwardModeError: when a derivative is taken in forward mode.
            SecondDerivativeError: when a second derivative is taken.
        """
        inputs = self._checked(state, actions, gains, reference)
        states, applied = _Apply.apply(*inputs, self)
        return Rollout(states.to(state.device), applied.to(state.device))

    def _checked(
        self, state: Tensor, actions: Tensor, gains: Tensor | None, reference: Tensor | None
    ) -> list[Tensor | None]:
        """Return the arguments in float64 on the CPU, with the batch second in all of them."""
        spec = self.simulator.spec
        if (gains is None) != (reference is None):
            given = "gains" if reference is None else "reference"
            raise ArgumentError(f"gains and reference must be given together, got only {given}")
        tensors = {"state": state, "actions": actions}
        if gains is not None and reference is not None:
            tensors |= {"gains": gains, "reference": reference}
        for name, value in tensors.items():
            _check_real(value, name)
        if actions.ndim != 3 or actions.shape[2] != spec.nu:
            raise ArgumentError(
                f"actions must have shape [T, B, {spec.nu}], got {list(actions.shape)}"
            )
        steps, batch, nu = actions.shape
        if gains is not None and gains.ndim == 3:
            _check_shape(gains, "gains", (steps, nu, spec.ndx))
            tensors["gains"] = gains[:, None].expand(-1, batch, -1, -1)
        shapes = {
            "state": (batch, spec.nx),
            "actions": (steps, batch, nu),
            "gains": (steps, batch, nu, spec.ndx),
            "reference": (steps, batch, spec.nx),
        }
        for name, value in tensors.items():
            _check_shape(value, name, shapes[name])
        tensors["state"] = state[None]
        inputs = [value.to("cpu", torch.float64) for value in tensors.values()]
        return [*inputs, *[None] * (4 - len(inputs))]

    def _unrolled(
        self, state: Array, actions: Array, gains: Array | None, reference: Array | None
    ) -> tuple[Array, Array]:
        """Return states (T+1, B, nx) and applied actions (T, B, nu) of checked arguments."""
        simulator = self.simulator
        if gains is None or reference is None:
            return simulator.rollout(state, actions), actions.copy()
        states = np.empty((len(actions) + 1, *state.shape))
        applied = np.empty(actions.shape)
        states[0] = state
        for t, x in enumerate(states[:-1]):
            deviation = simulator.spec.difference(reference[t], x)
            with np.errstate(over="ignore", invalid="ignore"):  # the simulator refuses the result
                applied[t] = actions[t] + (gains[t] @ deviation[:, :, None])[:, :, 0]
            try:
                states[t + 1] = simulator.step(x, applied[t])
            except DivergenceError as error:
                raise type(error)(f"step {t}: {error}", error.rows) from error
        return states, applied

    def _gradients(
        self,
        states_gradient: Tensor,
        actions_gradient: Tensor,
        states: Tensor,
        actions: Tensor,
        gains: Tensor | None,
        reference: Tensor | None,
    ) -> tuple[Tensor, ...]:
        """Gradients by state (1, B, nx), actions (T, B, nu), gains and reference if there are."""
        spec, tangent, steps = self.simulator.spec, self._tangent, len(actions)
        direct = tangent.push_transposed(states.flatten(0, 1), states_gradient.flatten(0, 1))
        partial = direct.reshape(steps + 1, -1, spec.ndx).clone()
        # The initial state is handed out as it came: its gradient is no tangent vector's.
        partial[0] = 0.0
        if gains is None or reference is None:
            slopes = None
        else:
            deviation = spec.difference(reference.numpy(), states[:-1].numpy())
            slopes = spec.through_difference(gains.numpy(), deviation)
        costate, by_actions = self.simulator.adjoint(
            states.numpy(),
            actions.numpy(),
            partial.numpy(),
            actions_gradient.numpy(),
            gains=slopes,
            **self._options,
        )
        by_state = states_gradient[0] + tangent.pull_transposed(
            states[0], torch.from_numpy(costate)
        )
        found = by_state[None], torch.from_numpy(by_actions)
        if gains is None or reference is None:
            return found
        by_gains = by_actions[..., None] * deviation[..., None, :]
        by_deviation = by_actions[..., None, :] @ gains.numpy()  # (T, B, 1, ndx)
        pulled = torch.from_numpy(-spec.through_difference(by_deviation, -deviation)[..., 0, :])
        by_reference = tangent.pull_transposed(reference.flatten(0, 1), pulled.flatten(0, 1))
        return *found, torch.from_numpy(by_gains), by_reference.reshape(reference.shape)


class _Apply(torch.autograd.Function):
    """(state, actions, gains, reference) -> (states, applied actions), B second everywhere."""

    @staticmethod
    def forward(
        state: Tensor,
        actions: Tensor,
        gains: Tensor | None,
        reference: Tensor | None,
        rollout: MujocoRollout,
    ) -> tuple[Tensor, Tensor]:
        feedback = (None if v is None else v.detach().numpy() for v in (gains, reference))
        states, applied = rollout._unrolled(
            state[0].detach().numpy(), actions.detach().numpy(), *feedback
        )
        return torch.from_numpy(states), torch.from_numpy(applied)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _, _, gains, reference, ctx.rollout = inputs
        ctx.save_for_backward(*output, gains, reference)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        found = _Adjoint.apply(*gradients, *ctx.saved_tensors, ctx.rollout)
        return (*found, *[None] * (5 - len(found)))

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        raise ForwardModeError(_NO_FORWARD)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        return _vmapped(_Apply, info, in_dims, *inputs)


class _Adjoint(torch.autograd.Function):
    """Gradients by the inputs of ``_Apply``; differentiating them again raises."""

    @staticmethod
    def forward(
        states_gradient: Tensor,
        actions_gradient: Tensor,
        states: Tensor,
        actions: Tensor,
        gains: Tensor | None,
        reference: Tensor | None,
        rollout: MujocoRollout,
    ) -> tuple[Tensor, ...]:
        feedback = (None if v is None else v.detach() for v in (gains, reference))
        return rollout._gradients(
            states_gradient, actions_gradient, states.detach(), actions.detach(), *feedback
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise SecondDerivativeError(_NO_SECOND)

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        raise SecondDerivativeError(_NO_SECOND)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        return _vmapped(_Adjoint, info, in_dims, *inputs)


def _vmapped(function: Any, info: Any, in_dims: Any, *inputs: Any) -> Any:
    """Fold the vmapped dimension of the tensors into the batch, and out of what comes back."""
    folded = []
    for value, dim in zip(inputs, in_dims, strict=True):
        if isinstance(value, Tensor):
            if dim is None:
                value, dim = value.expand(info.batch_size, *value.shape), 0
            value = value.movedim(dim, 1).flatten(1, 2)
        folded.append(value)
    results = function.apply(*folded)
    unfolded = tuple(result.unflatten(1, (info.batch_size, -1)) for result in results)
    return unfolded, (1,) * len(results)


def _check_real(value: object, name: str) -> None:
    """Refuse what is no tensor of real numbers."""
    if not isinstance(value, Tensor) or value.is_complex():
        kind = value.dtype if isinstance(value, Tensor) else type(value).__name__
        raise ArgumentError(f"{name} must be a tensor of real numbers, got {kind}")


def _check_shape(value: Tensor, name: str, shape: tuple[int, ...]) -> None:
    """Refuse a tensor of another shape."""
    if value.shape != shape:
        raise ArgumentError(f"{name} must have shape {list(shape)}, got {list(value.shape)}")
