"""Learned maps in the place of a control step: for its values, or for its derivatives alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mbrl.ops.first_order import may_differentiate
from mbrl.ops.tangent import TangentMap
from mbrl.physics import StateSpec


class SurrogateDynamics(nn.Module):
    r"""The values of one map with the derivatives of another.

    .. math:: x' = F(x, u), \qquad dx' = E(F) \, E(f)^+ \, df(x, u)

    where f stands in for F, and the tangent maps E carry tangent vectors over from f(x, u) to
    F(x, u), on which quaternions differ. A learned f is so differentiated along real trajectories,
    where its errors do not add up (Heess et al. 2015, arXiv:1510.09142). Derivatives are those of
    autograd: reverse and forward mode, and vmap.

    Args:
        dynamics: F; it is not differentiated.
        surrogate: f, on the same state space.
        spec: the state space; None: Euclidean.
    """

    def __init__(self, dynamics: nn.Module, surrogate: nn.Module, spec: StateSpec | None):
        super().__init__()
        self.dynamics, self.surrogate = dynamics, surrogate
        self._tangent = None if spec is None or spec.is_euclidean else TangentMap(spec)

    def forward(self, state: Tensor, action: Tensor, **known: Any) -> Tensor:
        """Advance every row by one control step.

        Args:
            state: [B, nx], float64.
            action: [B, nu].
            **known: keywords of F.

        Returns:
            Next states [B, nx], those of F to the bit.
        """
        following: Tensor = self.dynamics(state.detach(), action.detach(), **known)
        learned = self.surrogate.parameters()
        if not (may_differentiate(state, action) or may_differentiate(*learned)):
            return following
        found: Tensor = _StandIn.apply(following, self.surrogate(state, action), self._tangent)
        return found


class _StandIn(torch.autograd.Function):
    """(value, surrogate) -> value, whose derivatives are those of the surrogate."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, surrogate: Tensor, tangent: TangentMap | None) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        value, surrogate, ctx.tangent = inputs
        ctx.save_for_backward(value, surrogate)
        ctx.save_for_forward(value, surrogate)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        value, surrogate = ctx.saved_tensors
        tangent: TangentMap | None = ctx.tangent
        if tangent is not None:
            costate = tangent.push_transposed(value, gradient)
            gradient = tangent.pull_transposed(surrogate, costate)
        return None, gradient, None

    @staticmethod
    def jvp(ctx: Any, value: Any, surrogate: Tensor, *_: Any) -> Tensor:
        real, learned = ctx.saved_tensors
        tangent: TangentMap | None = ctx.tangent
        if tangent is None:
            return surrogate.clone()
        return tangent.push(real, tangent.pull(learned, surrogate))
