"""Norms of residuals with their derivatives in closed form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mbrl.errors import ArgumentError, ConfigError
from mbrl.options import at_key, chosen


class Norm(ABC):
    """A convex function n(r) of a residual r [N, k], zero at zero; the names are MuJoCo MPC's."""

    @abstractmethod
    def value(self, r: Tensor) -> Tensor:
        """Return n(r), [N, k] -> [N]; differentiable by autograd."""

    @abstractmethod
    def gradient(self, r: Tensor) -> Tensor:
        """Return n'(r), [N, k] -> [N, k]."""

    @abstractmethod
    def hessian(self, r: Tensor) -> Tensor:
        """Return n''(r), positive semidefinite, [N, k] -> [N, k, k]."""


class Quadratic(Norm):
    r""":math:`n(r) = \frac{1}{2} |r|^2`."""

    def value(self, r: Tensor) -> Tensor:
        """[N, k] -> [N]."""
        return 0.5 * r.square().sum(-1)

    def gradient(self, r: Tensor) -> Tensor:
        """[N, k] -> [N, k]."""
        return r

    def hessian(self, r: Tensor) -> Tensor:
        """[N, k] -> [N, k, k]."""
        return torch.eye(r.shape[-1], dtype=r.dtype).expand(*r.shape, -1)


class _Rounded(Norm):
    """A norm with a length p at which its shape changes.

    Args:
        p: in the residual's units, positive.
    """

    def __init__(self, *, p: float = 0.1):
        if not 0 < p < float("inf"):
            raise ArgumentError(f"p must be positive, got {p!r}")
        self.p = p


class L2(_Rounded):
    r""":math:`n(r) = \sqrt{|r|^2 + p^2} - p`: a cone, rounded within p of its tip.

    Args:
        p: in the residual's units, positive.
    """

    def value(self, r: Tensor) -> Tensor:
        """[N, k] -> [N]."""
        square = r.square().sum(-1)
        # Without the cancellation of the textbook's form.
        return square / ((square + self.p**2).sqrt() + self.p)

    def gradient(self, r: Tensor) -> Tensor:
        """[N, k] -> [N, k]."""
        return r / self._length(r)

    def hessian(self, r: Tensor) -> Tensor:
        """[N, k] -> [N, k, k]."""
        unit, eye = self.gradient(r), torch.eye(r.shape[-1], dtype=r.dtype)
        return (eye - unit[..., :, None] * unit[..., None, :]) / self._length(r)[..., None]

    def _length(self, r: Tensor) -> Tensor:
        return (r.square().sum(-1, keepdim=True) + self.p**2).sqrt()


class SmoothAbs(_Rounded):
    r""":math:`n(r) = \sum_i \sqrt{r_i^2 + p^2} - p`: absolute values, rounded within p of zero.

    Args:
        p: in the residual's units, positive.
    """

    def value(self, r: Tensor) -> Tensor:
        """[N, k] -> [N]."""
        square = r.square()
        return (square / ((square + self.p**2).sqrt() + self.p)).sum(-1)

    def gradient(self, r: Tensor) -> Tensor:
        """[N, k] -> [N, k]."""
        return r / (r.square() + self.p**2).sqrt()

    def hessian(self, r: Tensor) -> Tensor:
        """[N, k] -> [N, k, k]."""
        return torch.diag_embed(self.p**2 * (r.square() + self.p**2) ** -1.5)


class Cosh(_Rounded):
    r""":math:`n(r) = \sum_i p^2 (\cosh(r_i / p) - 1)`: :math:`r^2/2` that grows steep beyond p.

    Args:
        p: in the residual's units, positive.
    """

    def value(self, r: Tensor) -> Tensor:
        """[N, k] -> [N]."""
        # cosh x - 1 = 2 sinh(x/2)^2, without cancellation.
        return 2 * self.p**2 * (r / (2 * self.p)).sinh().square().sum(-1)

    def gradient(self, r: Tensor) -> Tensor:
        """[N, k] -> [N, k]."""
        return self.p * (r / self.p).sinh()

    def hessian(self, r: Tensor) -> Tensor:
        """[N, k] -> [N, k, k]."""
        return torch.diag_embed((r / self.p).cosh())


NORMS: dict[str, type[Norm]] = {
    "quadratic": Quadratic,
    "l2": L2,
    "smooth_abs": SmoothAbs,
    "cosh": Cosh,
}


def norm_of(declared: str | Mapping[str, Any] | None, where: str) -> Norm:
    """Return the norm that YAML declares: a name, or ``{kind: name, **options}``.

    Args:
        declared: what stands there; None: quadratic.
        where: its key, for messages.

    Raises:
        ConfigError: naming the key, its value and what is legal.
    """
    if declared is None:
        declared = "quadratic"
    if isinstance(declared, str):
        declared = {"kind": declared}
    if not isinstance(declared, Mapping):
        raise ConfigError(f"{where} must be a name or a mapping, got {declared!r}")
    options = chosen(NORMS, declared, where)
    kind = NORMS[options.pop("kind")]
    with at_key(where, kind):
        return kind(**options)
