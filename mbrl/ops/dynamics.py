"""The control step of a MuJoCo model as a differentiable torch op."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn

from mbrl.errors import ArgumentError, SecondDerivativeError
from mbrl.ops.sweep import LinearizationSweep, SavedPoint
from mbrl.ops.tangent import TangentMap
from mbrl.physics import Simulator

_NO_SECOND = (
    "the MuJoCo dynamics op has first derivatives only (A and B come from finite differences): "
    "hessian, nested jacrev/jacfwd and create_graph=True followed by grad are not available"
)


class MujocoDynamics(nn.Module):
    r"""Differentiable control step :math:`x' = F(x, u)` of an unmodified MuJoCo model.

    With A, B the Jacobians in tangent space and E the tangent map of the state space, reverse mode
    hands back, for an upstream gradient g,

    .. math:: \lambda = E(x')^\top g, \quad g_u = B^\top \lambda, \quad
              g_x = E(x) (E(x)^\top E(x))^{-1} A^\top \lambda,

    and forward mode is the adjoint of the same maps. ``torch.func`` transforms (jvp, vjp, vmap,
    jacrev, jacfwd, and grad under vmap) work; any second derivative raises. Jacobians are computed
    in backward, for all steps of an unroll in pooled calls of bounded memory.

    Args:
        simulator: the simulator to differentiate.
        method: see ``Simulator.linearize``.
        eps: see ``Simulator.linearize``.
        centered: see ``Simulator.linearize``.

    Raises:
        ArgumentError: if there is no such method.
        ModelError: if the method cannot differentiate this model.
    """

    def __init__(
        self,
        simulator: Simulator,
        *,
        method: str = "auto",
        eps: float | None = None,
        centered: bool = False,
    ):
        super().__init__()
        simulator.linearization_method(method)
        self.simulator = simulator
        self._rule = _Rule(simulator, LinearizationSweep(simulator, method, eps, centered))

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
        spec = self.simulator.spec
        if state.shape[-1:] != (spec.nx,) or action.shape[-1:] != (spec.nu,):
            raise ArgumentError(
                f"state and action must have widths {spec.nx} and {spec.nu}, "
                f"got shapes {list(state.shape)} and {list(action.shape)}"
            )
        if state.shape[:-1] != action.shape[:-1]:
            raise ArgumentError(
                "state and action must have the same batch, "
                f"got shapes {list(state.shape)} and {list(action.shape)}"
            )
        rows = state.shape[:-1].numel()
        following: Tensor = _Dynamics.apply(
            state.reshape(rows, spec.nx).to("cpu", torch.float64),
            action.reshape(rows, spec.nu).to("cpu", torch.float64),
            self._rule,
            SavedPoint(),
        )
        return following.reshape(state.shape).to(state.device)


class _Rule:
    """What the two autograd Functions below share: engine, saved points, tangent maps."""

    def __init__(self, simulator: Simulator, sweep: LinearizationSweep):
        self.simulator, self.sweep = simulator, sweep
        self.tangent = TangentMap(simulator.spec)


class _Dynamics(torch.autograd.Function):
    """(state, action) -> next state; NumPy is touched in ``forward`` alone."""

    @staticmethod
    def forward(state: Tensor, action: Tensor, rule: _Rule, point: SavedPoint) -> Tensor:
        x, u = state.detach().numpy(), action.detach().numpy()
        following = torch.from_numpy(rule.simulator.step(x, u))
        rule.sweep.record(point, x, u)
        return following

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        state, action, ctx.rule, ctx.point = inputs
        ctx.save_for_backward(state, action, output)
        ctx.save_for_forward(state, action, output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None]:
        state, action, following = ctx.saved_tensors
        tangent = ctx.rule.tangent
        # Nothing records this backward in the usual case: no need for ops that refuse to be
        # differentiated, whose dispatch costs more than a pendulum's Jacobian.
        recorded = torch.is_grad_enabled() or _transforms_active() or _dual_level() >= 0
        linearize = _Linearize.apply if recorded else _Linearize.forward
        a, b = linearize(state, action, ctx.rule, ctx.point)
        costate = tangent.push_transposed(following, gradient)[:, None]  # (B, 1, ndx)
        gradients = tangent.pull_transposed(state, (costate @ a)[:, 0]), (costate @ b)[:, 0]
        return (*(_FirstOrder.apply(*gradients) if recorded else gradients), None, None)

    @staticmethod
    def jvp(ctx: Any, state_t: Tensor | None, action_t: Tensor | None, *_: None) -> Tensor:
        state, action, following = ctx.saved_tensors
        tangent = ctx.rule.tangent
        a, b = _Linearize.apply(state, action, ctx.rule, ctx.point)
        moved = torch.zeros_like(a[:, :, 0])
        if state_t is not None:
            moved = moved + (a @ tangent.pull(state, state_t)[:, :, None])[:, :, 0]
        if action_t is not None:
            moved = moved + (b @ action_t[:, :, None])[:, :, 0]
        return tangent.push(following, moved)

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, state: Tensor, action: Tensor, rule: _Rule, point: SavedPoint
    ) -> Any:
        state, action = _folded(info, in_dims, state, action)
        following = _Dynamics.apply(state, action, rule, point)
        return following.unflatten(0, (info.batch_size, -1)), 0


class _Linearize(torch.autograd.Function):
    """(state, action) -> (A, B), an op of its own whose derivatives refuse to exist.

    Were its outputs marked non-differentiable instead, a second derivative would silently lose
    every term that goes through A and B.
    """

    @staticmethod
    def forward(
        state: Tensor, action: Tensor, rule: _Rule, point: SavedPoint
    ) -> tuple[Tensor, Tensor]:
        x, u = state.detach().numpy(), action.detach().numpy()
        sweep = rule.sweep
        a, b = sweep.jacobians(point) if point.matches(x, u) else sweep.linearize(x, u)
        return torch.from_numpy(a), torch.from_numpy(b)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise SecondDerivativeError(_NO_SECOND)

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        raise SecondDerivativeError(_NO_SECOND)

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, state: Tensor, action: Tensor, rule: _Rule, point: SavedPoint
    ) -> Any:
        state, action = _folded(info, in_dims, state, action)
        a, b = _Linearize.apply(state, action, rule, point)
        split = (info.batch_size, -1)
        return (a.unflatten(0, split), b.unflatten(0, split)), (0, 0)


class _FirstOrder(torch.autograd.Function):
    """Identity on the gradients that the op hands back; differentiating them again raises.

    ``_Linearize`` would raise too, but only after the products that lead to it, which in a
    vmapped second derivative are too large to form.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(state_gradient: Tensor, action_gradient: Tensor) -> tuple[Tensor, Tensor]:
        return state_gradient.view_as(state_gradient), action_gradient.view_as(action_gradient)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise SecondDerivativeError(_NO_SECOND)

    @staticmethod
    def jvp(ctx: Any, state_t: Tensor, action_t: Tensor) -> tuple[Tensor, Tensor]:
        # Forward over reverse along the upstream gradient alone is linear, hence right.
        return state_t.view_as(state_t), action_t.view_as(action_t)


# Function.apply binds arguments by the signature of forward, which it would otherwise parse anew at
# every call.
for _function in (_Dynamics, _Linearize, _FirstOrder):
    _forward: Any = _function.forward
    _forward.__signature__ = inspect.signature(_forward)

# Whether a torch.func transform is running; assumed where torch does not say.
_transforms_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)


def _dual_level() -> int:
    """Return the level of forward-mode dual numbers, negative outside; 0 where torch is silent."""
    return getattr(torch.autograd.forward_ad, "_current_level", 0)


def _folded(info: Any, in_dims: Any, *tensors: Tensor) -> list[Tensor]:
    """Fold a vmapped dimension into the batch: [V, B, n] -> [V B, n]."""
    folded = []
    for tensor, dim in zip(tensors, in_dims, strict=False):
        stacked = (
            tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)
        )
        folded.append(stacked.flatten(0, 1))
    return folded
