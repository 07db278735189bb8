r"""Solutions of equations as functions of what the equations depend on: implicit differentiation.

An implicit gradient is a pair: ``solve``, which finds w* somehow, and ``condition`` F, which says
what w* is, F(w*, theta) = 0. How the adjoint system is solved is an argument.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from mbrl.errors import ForwardModeError, SecondDerivativeError
from mbrl.ops.adjoints import (
    Adjoint,
    AdjointSystem,
    Condition,
    Exact,
    Names,
    Values,
    leaves_alike,
    leaves_of,
    names_of,
    rebuilt,
    transforms_active,
)

W = TypeVar("W", Tensor, dict[str, Tensor])
Theta = TypeVar("Theta", Tensor, dict[str, Tensor])

_NO_SECOND = (
    "implicit gradients are first derivatives only: what the adjoint system leaves out of a second "
    "one would be missing silently; hessian and create_graph=True followed by grad are refused"
)


def implicit_gradient(
    condition: Condition,
    w: Values,
    theta: Theta,
    gradient: Values,
    *constants: Any,
    adjoint: Adjoint = Exact(),  # noqa: B008 (frozen)
    damping: float = 0.0,
    pull: Callable[..., Theta] | None = None,
) -> Theta:
    r"""Return the gradient by theta of an outer loss L(w*), where F(w*, theta) = 0.

    .. math:: \nabla_\theta L = -\nabla_\theta \langle z, F(w^*, \theta) \rangle,
              \qquad \Big(\frac{\partial F}{\partial w} + \lambda I\Big)^\top z = \nabla_w L(w^*)

    z is constant in the first formula; it is the implicit function theorem at a solution w*. Given
    any other w, of K optimiser steps say, the same formula is the gradient along the level set of F
    through w: the response of the w' with F(w', theta) = F(w, theta). Nothing checks which it is.

    With F the gradient of an inner loss, or w - T(w, theta) for a fixed point of T, A is near the
    identity or a multiple of it, as :class:`Identity` and :class:`Neumann` take it; T - w is not.

    Args:
        condition: F(w, theta, \*constants), of the form of w; derivatives in it are to be taken by
            torch.func.
        w: w*, a tensor or a dict of tensors.
        theta: likewise.
        gradient: that of the outer loss by w*, of the form of w.
        *constants: anything else that F needs.
        adjoint: the rule for z.
        damping: lambda.
        pull: (z, w, theta, \*constants) -> the gradient of <z, F> by theta, of the form of theta,
            in closed form; z is flat, its entries in the order of w. None: F is differentiated
            automatically.

    Returns:
        The gradient, of the form of theta. It can be used under ``torch.func.vmap``, and cannot be
        differentiated.

    Raises:
        ArgumentError: if F or the gradient have another form than w, or what ``pull`` returns than
            theta.
    """
    with torch.no_grad():
        system = AdjointSystem(condition, w, theta, constants, damping)
        z = system.solution_of(adjoint, gradient)
        pulled = system.by_theta(z) if pull is None else pull(z, w, theta, *constants)
        found = leaves_alike(pulled, theta, "what pull returns", "theta")
    if torch.is_grad_enabled() or transforms_active():
        anchors = (*leaves_of(w), *leaves_of(theta), *leaves_of(gradient))
        negated = _Negated.apply(len(found), *found, *anchors)
    else:  # nobody could differentiate it
        negated = [-leaf for leaf in found]
    result: Any = rebuilt(negated, names_of(theta))
    return result


def implicit_solution(
    solve: Callable[..., W],
    condition: Condition,
    theta: Values,
    *constants: Values,
    adjoint: Adjoint = Exact(),  # noqa: B008 (frozen)
    damping: float = 0.0,
) -> W:
    r"""Return w* = solve(theta), whose derivative is that of the solution of F(w*, theta) = 0.

    .. math:: \frac{dw^*}{d\theta} = -\Big(\frac{\partial F}{\partial w} + \lambda I\Big)^{-1}
              \frac{\partial F}{\partial \theta}

    ``solve`` is not differentiated, and may do whatever it likes: iterate from a warm start, or
    make K optimiser steps only; see :func:`implicit_gradient` for what the derivative then means.
    There is reverse mode, ``torch.func.vmap`` included, and no second derivative.

    Args:
        solve: (theta, \*constants) -> w*. Under vmap it is called on all rows at once, so it may
            not branch on values.
        condition: F(w, theta, \*constants), of the form of w.
        theta: a tensor or a dict of tensors.
        *constants: further tensors or dicts of tensors, nothing flows back into them. What vmap
            batches must come in here, and not by closure.
        adjoint: the rule for z.
        damping: lambda.
    """
    call = _Call(solve, condition, (theta, *constants), adjoint, damping)
    leaves = [leaf for values in (theta, *constants) for leaf in leaves_of(values)]
    solution: Any = rebuilt(_Solution.apply(call, *leaves), call.names)
    return solution


class _Call:
    """One use of :func:`implicit_solution`: all of its arguments, the forms of the tensors."""

    def __init__(
        self,
        solve: Callable[..., Values],
        condition: Condition,
        forms: tuple[Values, ...],
        adjoint: Adjoint,
        damping: float,
    ):
        self.solve, self.condition, self.adjoint, self.damping = solve, condition, adjoint, damping
        self._names = [names_of(form) for form in forms]
        self.names: Names = None  # of w, known once it has been solved for

    def arguments(self, leaves: tuple[Tensor, ...]) -> list[Values]:
        """Return theta and the constants."""
        rest = iter(leaves)
        counts = [1 if names is None else len(names) for names in self._names]
        return [
            rebuilt([next(rest) for _ in range(count)], names)
            for count, names in zip(counts, self._names, strict=True)
        ]


class _Solution(torch.autograd.Function):
    """(theta, constants) -> w*."""

    generate_vmap_rule = True

    @staticmethod
    def forward(call: _Call, *leaves: Tensor) -> tuple[Tensor, ...]:
        w = call.solve(*call.arguments(leaves))
        call.names = names_of(w)
        return tuple(leaf.clone() for leaf in leaves_of(w))  # none may be an input itself

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.call, ctx.count = inputs[0], len(inputs) - 1
        ctx.save_for_backward(*inputs[1:], *output)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        call, count = ctx.call, ctx.count
        theta, *constants = call.arguments(ctx.saved_tensors[:count])
        found = leaves_of(
            implicit_gradient(
                call.condition,
                rebuilt(ctx.saved_tensors[count:], call.names),
                theta,
                rebuilt(gradients, call.names),
                *constants,
                adjoint=call.adjoint,
                damping=call.damping,
            )
        )
        return (None, *found, *(None,) * (count - len(found)))

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        raise ForwardModeError("implicit solutions have first derivatives in reverse mode only")


class _Negated(torch.autograd.Function):
    """(values, what they depend on) -> minus the values; differentiating them raises."""

    generate_vmap_rule = True

    @staticmethod
    def forward(count: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(-tensor for tensor in tensors[:count])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> Any:
        raise SecondDerivativeError(_NO_SECOND)

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        raise SecondDerivativeError(_NO_SECOND)


# Function.apply binds arguments by the signature of forward, which it would otherwise parse anew at
# every call; one that admits any arguments binds fastest.
_ANY = inspect.Signature([inspect.Parameter("arguments", inspect.Parameter.VAR_POSITIONAL)])
for _function in (_Solution, _Negated):
    _forward: Any = _function.forward
    _forward.__signature__ = _ANY
