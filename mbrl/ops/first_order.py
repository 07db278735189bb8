"""NumPy maps that bring their own linearisation, as differentiable torch ops."""

from __future__ import annotations

import inspect
from typing import Any, Protocol

import torch
from torch import Tensor

from mbrl.errors import SecondDerivativeError
from mbrl.ops.sweep import LinearizationSweep, SavedPoint
from mbrl.ops.tangent import TangentMap
from mbrl.physics import StateSpec
from mbrl.types import Array, Linearization

_NO_SECOND = (
    "MuJoCo ops have first derivatives only (A and B come from finite differences): "
    "hessian, nested jacrev/jacfwd and create_graph=True followed by grad are not available"
)


class SteppedMap(Protocol):
    """(state, control; constants) -> next state and ``extras`` further numbers, in one row.

    Attributes:
        spec: the state space.
        extras: how many numbers follow the next state.
    """

    spec: StateSpec
    extras: int

    def evaluate(self, state: Array, ctrl: Array, constants: Array | None) -> Array:
        """[B, nx], [B, nu], [B, n] or None -> [B, nx + extras]."""

    def linearize(self, state: Array, ctrl: Array, constants: Array | None) -> Linearization:
        """Return A [B, ndx + extras, ndx] and B [B, ndx + extras, nu] of the same map."""


class FirstOrderOp:
    r"""The map as an op with first derivatives in reverse and forward mode.

    With A, B the Jacobians in tangent space and E the tangent maps of x and of y = f(x, u), reverse
    mode hands back, for an upstream gradient g,

    .. math:: \lambda = E(y)^\top g, \quad g_u = B^\top \lambda, \quad
              g_x = E(x) (E(x)^\top E(x))^{-1} A^\top \lambda,

    and forward mode is the adjoint of the same maps. ``torch.func`` transforms (jvp, vjp, vmap,
    jacrev, jacfwd, and grad under vmap) work; any second derivative raises. Jacobians are computed
    in backward, for all saved points of an unroll in pooled calls of bounded memory.

    Args:
        source: the map.
    """

    def __init__(self, source: SteppedMap):
        self.source = source
        self.sweep = LinearizationSweep(source)
        self.input = TangentMap(source.spec)
        self.output = TangentMap(source.spec, source.extras)

    def __call__(self, state: Tensor, action: Tensor, constants: Tensor | None = None) -> Tensor:
        """[B, nx], [B, nu], [B, n], all float64 on the CPU -> [B, nx + extras].

        Nothing flows back into ``constants``.
        """
        result: Tensor = _Apply.apply(state, action, constants, self, SavedPoint())
        return result


class _Apply(torch.autograd.Function):
    """(state, action) -> y; NumPy is touched in ``forward`` alone."""

    @staticmethod
    def forward(
        state: Tensor,
        action: Tensor,
        constants: Tensor | None,
        op: FirstOrderOp,
        point: SavedPoint,
    ) -> Tensor:
        arguments = _numpy(state), _numpy(action), _numpy(constants)
        return torch.from_numpy(op.sweep.evaluate(point, *arguments))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        state, action, constants, ctx.op, ctx.point = inputs
        ctx.save_for_backward(state, action, constants, output)
        ctx.save_for_forward(state, action, constants, output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor, None, None, None]:
        state, action, constants, result = ctx.saved_tensors
        op = ctx.op
        # Nothing records this backward in the usual case: no need for ops that refuse to be
        # differentiated, whose dispatch costs more than a pendulum's Jacobian.
        recorded = torch.is_grad_enabled() or _transforms_active() or _dual_level() >= 0
        if recorded:
            a, b = _Linearize.apply(state, action, constants, op, ctx.point)
        else:
            a, b = map(torch.from_numpy, op.sweep.jacobians(ctx.point))
        costate = op.output.push_transposed(result, gradient)  # (B, dy)
        gradients = op.input.pull_transposed(state, _times(costate, a)), _times(costate, b)
        return (*(_FirstOrder.apply(*gradients) if recorded else gradients), None, None, None)

    @staticmethod
    def jvp(ctx: Any, state_t: Tensor | None, action_t: Tensor | None, *_: None) -> Tensor:
        state, action, constants, result = ctx.saved_tensors
        op = ctx.op
        a, b = _Linearize.apply(state, action, constants, op, ctx.point)
        moved = torch.zeros_like(a[:, :, 0])
        if state_t is not None:
            moved = moved + (a @ op.input.pull(state, state_t)[:, :, None])[:, :, 0]
        if action_t is not None:
            moved = moved + (b @ action_t[:, :, None])[:, :, 0]
        return op.output.push(result, moved)

    @staticmethod
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        return _vmapped(_Apply, info, in_dims, *inputs)


class _Linearize(torch.autograd.Function):
    """(state, action) -> (A, B), an op of its own whose derivatives refuse to exist.

    Were its outputs marked non-differentiable instead, a second derivative would silently lose
    every term that goes through A and B.
    """

    @staticmethod
    def forward(
        state: Tensor,
        action: Tensor,
        constants: Tensor | None,
        op: FirstOrderOp,
        point: SavedPoint,
    ) -> tuple[Tensor, Tensor]:
        arguments = _numpy(state), _numpy(action), _numpy(constants)
        if point.matches(*arguments):
            a, b = op.sweep.jacobians(point)
        else:
            a, b = op.source.linearize(*arguments)
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
    def vmap(info: Any, in_dims: Any, *inputs: Any) -> Any:
        return _vmapped(_Linearize, info, in_dims, *inputs)


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
# every call; one that admits any arguments binds fastest.
_ANY = inspect.Signature([inspect.Parameter("arguments", inspect.Parameter.VAR_POSITIONAL)])
for _function in (_Apply, _Linearize, _FirstOrder):
    _forward: Any = _function.forward
    _forward.__signature__ = _ANY

# Whether a torch.func transform is running; assumed where torch does not say.
_transforms_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: True)


def may_differentiate(*tensors: Tensor) -> bool:
    """Whether a derivative by any of the tensors may be asked for, in any mode."""
    return _transforms_active() or _dual_level() >= 0 or any(t.requires_grad for t in tensors)


def _numpy(tensor: Tensor | None) -> Any:
    return None if tensor is None else tensor.detach().numpy()


def _times(row: Tensor, matrix: Tensor) -> Tensor:
    """[B, i], [B, i, j] -> [B, j]; torch multiplies matrices of some 20 rows half as fast."""
    return (row[:, :, None] * matrix).sum(1)


def _dual_level() -> int:
    """Return the level of forward-mode dual numbers, negative outside; 0 where torch is silent."""
    return getattr(torch.autograd.forward_ad, "_current_level", 0)


def _vmapped(function: Any, info: Any, in_dims: Any, *inputs: Any) -> Any:
    """Fold the vmapped dimension of the tensors into the batch, and out of what comes back."""
    folded = []
    for value, dim in zip(inputs, in_dims, strict=True):
        if isinstance(value, Tensor):
            stacked = (
                value.movedim(dim, 0)
                if dim is not None
                else value.expand(info.batch_size, *value.shape)
            )
            value = stacked.flatten(0, 1)
        folded.append(value)
    results = function.apply(*folded)
    if isinstance(results, Tensor):
        return results.unflatten(0, (info.batch_size, -1)), 0
    return tuple(r.unflatten(0, (info.batch_size, -1)) for r in results), (0,) * len(results)
