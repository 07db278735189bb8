"""Rules for the adjoint of an implicit gradient: exactly, by iteration, by a series, not at all."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias

import torch
from torch import Tensor

from mbrl.errors import ArgumentError

Values: TypeAlias = Tensor | dict[str, Tensor]  # one tensor, or parameters by name
Names: TypeAlias = tuple[str, ...] | None  # of tensors; None: a single one
Pullback: TypeAlias = Callable[[Tensor], Sequence[Tensor]]
Condition: TypeAlias = Callable[..., Values]  # (w, theta, *constants) -> F, of the form of w

# Whether a torch.func transform is running; assumed where torch does not say.
transforms_active: Callable[[], bool] = getattr(
    torch._C, "_are_functorch_transforms_active", lambda: True
)


class AdjointSystem:
    r"""The linear system :math:`A^\top z = g` with :math:`A = \partial F/\partial w + \lambda I`.

    Vectors are flat, [n]: the entries of w in the order of its names, each in row-major order.
    Nothing is computed before it is asked for.

    Args:
        condition: F.
        w: where F is linearised.
        theta: what F depends on besides.
        constants: further arguments of F.
        damping: lambda.

    Attributes:
        w, theta, constants, damping: the same.
    """

    def __init__(
        self,
        condition: Condition,
        w: Values,
        theta: Values,
        constants: tuple[Any, ...] = (),
        damping: float = 0.0,
    ):
        self.w: Any = w
        self.theta: Any = theta
        self.constants, self.damping = constants, damping
        self._condition = condition

    def times_transposed(self, vector: Tensor) -> Tensor:
        """Return A' v: one vector-Jacobian product of F."""
        return self._pull(vector)[0] + self.damping * vector

    def times(self, vector: Tensor) -> Tensor:
        """Return A v, [n] -> [n], in reverse mode alone: A is the transpose of v -> A' v."""
        return self._push(vector)[0] + self.damping * vector

    def matrix(self) -> Tensor:
        """Return A, [n, n], by n vector-Jacobian products at once."""
        jacobian: Tensor = torch.func.jacrev(self._of_w)(self._point())
        return jacobian + self.damping * torch.eye(
            len(jacobian), dtype=jacobian.dtype, device=jacobian.device
        )

    def solution_of(self, adjoint: Adjoint, gradient: Values) -> Tensor:
        """Return the rule's z, [n], for g of the form of w."""
        return adjoint(self, flat(gradient, self.w, "gradient"))

    def residual(self, z: Tensor, gradient: Values) -> Tensor:
        """Return A' z - g, [n], of a rule's z [n] for g of the form of w: zero if z is exact."""
        return self.times_transposed(z) - flat(gradient, self.w, "gradient")

    def by_theta(self, vector: Tensor) -> Values:
        """Return the gradient of <v, F>, v [n], by theta, of the form of theta."""
        names = names_of(self.theta)
        pull = _pullback(
            lambda *leaves: self._of_theta(rebuilt(leaves, names)), leaves_of(self.theta)
        )
        return rebuilt(pull(vector), names)

    @functools.cached_property
    def _pull(self) -> Pullback:
        return _pullback(self._of_w, [self._point()])

    @functools.cached_property
    def _push(self) -> Pullback:
        point = self._point()
        # A pull of its own: torch.func cannot differentiate one whose vjp is over.
        return _pullback(
            lambda v: torch.func.vjp(self._of_w, point)[1](v)[0], [torch.zeros_like(point)]
        )

    def _point(self) -> Tensor:
        return flat(self.w, self.w, "w")

    def _of_w(self, point: Tensor) -> Tensor:
        value = self._condition(_unflat(point, self.w), self.theta, *self.constants)
        return flat(value, self.w, "condition")

    def _of_theta(self, theta: Values) -> Tensor:
        value = self._condition(self.w, theta, *self.constants)
        return flat(value, self.w, "condition")


class Adjoint(Protocol):
    """A rule for the adjoint: any function of the system, and of g [n], that returns z [n].

    One that knows more of a problem than products with A, such as a factorisation, is a function
    of ``system.w`` and ``system.theta``.
    """

    def __call__(self, system: AdjointSystem, gradient: Tensor) -> Tensor:
        """Return z [n], exactly or nearly the solution of A' z = g, of g = ``gradient`` [n]."""


@dataclass(frozen=True)
class Exact:
    """Forms A and solves: n vector-Jacobian products and O(n^3).

    Attributes:
        jacobian: (w, theta, *constants) -> dF/dw in closed form, [..., n, n]: one block per leading
            index of w, as it lies in memory. None: by automatic differentiation, one block.
    """

    jacobian: Callable[..., Tensor] | None = None

    def __call__(self, system: AdjointSystem, gradient: Tensor) -> Tensor:
        """Return the solution."""
        if self.jacobian is None:
            return torch.linalg.solve(system.matrix().mT, gradient)
        a = self.jacobian(system.w, system.theta, *system.constants)
        if system.damping:
            a = a + system.damping * torch.eye(a.shape[-1], dtype=a.dtype, device=a.device)
        right = gradient.reshape(a.shape[:-1])
        return torch.linalg.solve(a.mT, right[..., None])[..., 0].reshape(gradient.shape)


@dataclass(frozen=True)
class ConjugateGradient:
    """Conjugate gradients from zero (Hestenes and Stiefel 1952), for w of many entries.

    Without ``normal``, A must be symmetric and positive definite, as that of a damped convex inner
    loss is: one vector-Jacobian product an iteration. With ``normal`` it solves A A' z = A g, which
    any A that can be inverted allows; iterations cost three times as much, and their number grows
    with the square of A's condition number.

    An A that is neither, as the Hessian of a network's loss is, goes unnoticed without ``normal``:
    the residual then need not fall at all, and :meth:`AdjointSystem.residual` says what it is.

    Attributes:
        iterations: at most. Under torch.func transforms all are made, converged rows staying put.
        tolerance: of the residual, relative to the right-hand side.
        normal: whether to solve the normal equations.
        blocks: of so many diagonal blocks of A, equal in size, each has step lengths of its own,
            and stops by itself: problems side by side do not wait for the worst.
    """

    iterations: int = 100
    tolerance: float = 1e-5
    normal: bool = False
    blocks: int = 1

    def __post_init__(self) -> None:
        _check(self.iterations >= 1, "iterations", "at least 1", self.iterations)
        _check(self.tolerance >= 0, "tolerance", "at least 0", self.tolerance)
        _check(self.blocks >= 1, "blocks", "at least 1", self.blocks)

    def __call__(self, system: AdjointSystem, gradient: Tensor) -> Tensor:
        """Return the last iterate.

        Raises:
            ArgumentError: if A has no such blocks.
        """
        n = gradient.numel()
        _check(n % self.blocks == 0, "blocks", f"a divisor of the entries of w, {n}", self.blocks)
        if self.normal:
            return self._solved(
                lambda v: system.times(system.times_transposed(v)), system.times(gradient)
            )
        return self._solved(system.times_transposed, gradient)

    def _solved(self, product: Callable[[Tensor], Tensor], right: Tensor) -> Tensor:
        residual = direction = right.reshape(self.blocks, -1)
        z, square = torch.zeros_like(residual), _dot(residual, residual)
        enough = self.tolerance**2 * square
        active = square > enough
        for _ in range(self.iterations):
            if not transforms_active() and not active.any():
                break
            image = product(direction.flatten()).view_as(z)
            curvature = _dot(direction, image)
            active = active & (curvature != 0)
            step = torch.where(active, square / _nonzero(curvature, active), 0.0)
            z, residual = z + step * direction, residual - step * image
            following = _dot(residual, residual)
            growth = following / _nonzero(square, active)
            direction = torch.where(active, residual + growth * direction, direction)
            square = torch.where(active, following, square)
            active = active & (square > enough)
        return z.flatten()


@dataclass(frozen=True)
class Neumann:
    r"""The first terms of a series that converges if :math:`|1 - \eta \mu| < 1` for all of A.

    .. math:: z = \eta \sum_{k<n} (I - \eta A^\top)^k g

    which is what n steps of size :math:`\eta` along the inner gradient, differentiated as they are
    with A held, would give (Lorraine et al. 2020, arXiv:1911.02590).

    Attributes:
        terms: n.
        step: eta.
    """

    terms: int = 10
    step: float = 1.0

    def __post_init__(self) -> None:
        _check(self.terms >= 1, "terms", "at least 1", self.terms)
        _check(self.step > 0, "step", "positive", self.step)

    def __call__(self, system: AdjointSystem, gradient: Tensor) -> Tensor:
        """Return the partial sum."""
        z = term = gradient
        for _ in range(self.terms - 1):
            term = term - self.step * system.times_transposed(term)
            z = z + term
        return self.step * z


@dataclass(frozen=True)
class Identity:
    """z = g: the inverse is left out, as if A were I. Damping has no effect."""

    def __call__(self, system: AdjointSystem, gradient: Tensor) -> Tensor:
        """Return the gradient itself."""
        return gradient


def _pullback(function: Callable[..., Tensor], point: Sequence[Tensor]) -> Pullback:
    """Return v -> v' d function / d point, of one or several tensors."""
    if transforms_active():
        pull: Any = torch.func.vjp(function, *point)[1]
        return lambda vector: pull(vector, retain_graph=True)
    # The same by autograd, whose overhead is a fraction: it counts where problems are small.
    leaves = [tensor.detach().requires_grad_() for tensor in point]
    with torch.enable_grad():
        value = function(*leaves)
    return lambda vector: torch.autograd.grad(
        value, leaves, vector, retain_graph=True, materialize_grads=True
    )


def names_of(values: Values) -> Names:
    """Return what :func:`rebuilt` needs of the form."""
    return tuple(values) if isinstance(values, dict) else None


def leaves_of(values: Values) -> list[Tensor]:
    """Return the tensors, in the order of their names."""
    return list(values.values()) if isinstance(values, dict) else [values]


def rebuilt(leaves: Sequence[Tensor], names: Names) -> Values:
    """Return what :func:`leaves_of` took apart."""
    return leaves[0] if names is None else dict(zip(names, leaves, strict=True))


def flat(values: Values, like: Values, name: str) -> Tensor:
    """Return all entries, [n], in the order of ``like``.

    Raises:
        ArgumentError: if the values, called ``name``, have another form.
    """
    return torch.cat([leaf.reshape(-1) for leaf in leaves_alike(values, like, name, "w")])


def leaves_alike(values: Values, like: Values, name: str, of: str) -> list[Tensor]:
    """Return the tensors of values, called ``name``, in the order of ``like``, called ``of``.

    Raises:
        ArgumentError: if the values have another form.
    """
    if not _alike(values, like):
        raise ArgumentError(
            f"{name} must have the form of {of}, {_shapes(like)}, got {_shapes(values)}"
        )
    if isinstance(values, dict):
        return [values[key] for key in like]
    return [values]


def _unflat(point: Tensor, like: Values) -> Values:
    if not isinstance(like, dict):
        return point.reshape(like.shape)
    leaves = leaves_of(like)
    parts = point.split([leaf.numel() for leaf in leaves])
    return rebuilt(
        [p.reshape(leaf.shape) for p, leaf in zip(parts, leaves, strict=True)], names_of(like)
    )


def _alike(values: Values, like: Values) -> bool:
    if isinstance(values, dict) and isinstance(like, dict):
        return {k: v.shape for k, v in values.items()} == {k: v.shape for k, v in like.items()}
    return isinstance(values, Tensor) and isinstance(like, Tensor) and values.shape == like.shape


def _shapes(values: Values) -> Any:
    if isinstance(values, dict):
        return {name: list(value.shape) for name, value in values.items()}
    return list(values.shape)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """[blocks, n], [blocks, n] -> [blocks, 1]."""
    return (a * b).sum(1, keepdim=True)


def _nonzero(divisor: Tensor, active: Tensor) -> Tensor:
    return torch.where(active, divisor, torch.ones_like(divisor))


def _check(legal: bool, name: str, what: str, value: object) -> None:
    if not legal:
        raise ArgumentError(f"{name} must be {what}, got {value}")
