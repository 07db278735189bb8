"""What a plan costs, and its quadratic model in tangent space."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from mbrl.errors import ArgumentError, SecondDerivativeError
from mbrl.planning.model import Model, Scene
from mbrl.tasks import Task


class Quadratic(NamedTuple):
    """Second-order model of a step's cost by dx and du, with the next state's share folded in."""

    x: Tensor  # (..., ndx)
    u: Tensor  # (..., nu)
    xx: Tensor  # (..., ndx, ndx)
    ux: Tensor  # (..., nu, ndx)
    uu: Tensor  # (..., nu, nu)


class StagePoints(NamedTuple):
    """Rows (x_t, u_t, x_{t+1}) of T steps of a batch B, steps outermost."""

    state: Tensor  # (T B, nx)
    action: Tensor  # (T B, nu)
    next_state: Tensor  # (T B, nx)
    steps: int  # T
    scene: Scene

    @classmethod
    def along(cls, states: Tensor, actions: Tensor, scene: Scene) -> StagePoints:
        """Return those of a rollout: states [T+1, B, nx], actions [T, B, nu]."""
        return cls(
            states[:-1].flatten(0, 1),
            actions.flatten(0, 1),
            states[1:].flatten(0, 1),
            len(actions),
            scene,
        )

    @property
    def times(self) -> Tensor:
        """Index of the step in its episode, [T B]."""
        rows = len(self.action) // self.steps
        return (self.scene.start + torch.arange(self.steps)).repeat_interleave(rows)


class StageCost(ABC):
    """c(x_t, u_t, x_{t+1}; t, c), one number a row."""

    @abstractmethod
    def __call__(self, points: StagePoints) -> Tensor:
        """Return costs [T B], differentiable once at least."""

    @abstractmethod
    def quadratic(self, points: StagePoints, a: Tensor, b: Tensor, model: Model) -> Quadratic:
        """Return the convex quadratic model of each row, [T B, ...].

        Args:
            points: where.
            a: A of the dynamics there, [T B, ndx, ndx]: dx' = A dx + B du.
            b: B, [T B, ndx, nu].
            model: the geometry of the states.
        """

    def over(self, points: StagePoints) -> Tensor | None:
        """Return which rows' episodes have ended by the last step, [B] bool; None: no one's."""
        return None


class DifferentiatedCost(StageCost):
    """A cost that torch differentiates: by (x, u, x') jointly, and twice for a quadratic model.

    The quadratic model's Hessian is autograd's with its negative eigenvalues set to zero.

    Args:
        name: of whose cost it is, for messages.
    """

    def __init__(self, name: str):
        self._name = name

    @abstractmethod
    def costs(self, x: Tensor, u: Tensor, y: Tensor, points: StagePoints) -> Tensor:
        """Return costs [T B] of states, actions and next states.

        Args:
            x: in place of ``points.state``, [T B, nx].
            u: in place of ``points.action``, [T B, nu].
            y: in place of ``points.next_state``, [T B, nx].
            points: where in the episodes that is.
        """

    def __call__(self, points: StagePoints) -> Tensor:
        """[T B]."""
        return self.costs(points.state, points.action, points.next_state, points)

    def quadratic(self, points: StagePoints, a: Tensor, b: Tensor, model: Model) -> Quadratic:
        """See :class:`StageCost`; the sizes of x, u and x' in the full Hessian follow each other.

        Raises:
            ArgumentError: if there are no second derivatives, or first ones are not finite.
        """
        sizes = [points.state.shape[1], points.action.shape[1], points.next_state.shape[1]]
        joint = torch.cat([points.state, points.action, points.next_state], dim=1)
        joint = joint.detach().requires_grad_()
        with torch.enable_grad():
            x, u, y = joint.split(sizes, dim=1)
            costs = self.costs(x, u, y, points)
            gradient, hessian = _derivatives(costs, joint, self._name)
        g, h = _in_tangent(gradient, hessian, points, sizes, model)
        ndx, nu = model.tangent_size, sizes[1]
        identity = torch.eye(ndx + nu, dtype=g.dtype).expand(len(g), -1, -1)
        joint_map = torch.cat([identity, torch.cat([a, b], dim=2)], dim=1)  # d(x, u, x')/d(x, u)
        g = (g[:, None, :] @ joint_map)[:, 0]
        if hessian is None:
            h = g.new_zeros(len(g), ndx + nu, ndx + nu)
        else:
            h = joint_map.mT @ convex(h) @ joint_map
        return Quadratic(
            g[:, :ndx], g[:, ndx:], h[:, :ndx, :ndx], h[:, ndx:, :ndx], h[:, ndx:, ndx:]
        )


class RewardCost(DifferentiatedCost):
    r"""A task's reward, negated: :math:`c = -r(x, u, x'; t, c)`.

    With ``until_termination`` nothing is earned after the step that ends the episode, as in the
    environment.

    Args:
        task: the task.
        until_termination: whether terminations count.
    """

    def __init__(self, task: Task, *, until_termination: bool = True):
        super().__init__(task.name)
        self._task, self._until_termination = task, until_termination

    def costs(self, x: Tensor, u: Tensor, y: Tensor, points: StagePoints) -> Tensor:
        """See :class:`DifferentiatedCost`; zero after the end.

        Rewards there may be anything, and so may their derivatives, which zeros would not stop:
        the reward is given the row's first step instead.
        """
        if not self._until_termination:
            return -self._reward(x, u, y, points)
        ended = self._ended(points)
        alive = torch.cat([torch.ones_like(ended[:1]), ~ended[:-1]]).flatten()
        if alive.all():
            return -self._reward(x, u, y, points)
        rows = ended.shape[1]
        x, u, y = (
            torch.where(alive[:, None], v, v[:rows].detach().repeat(points.steps, 1))
            for v in (x, u, y)
        )
        return torch.where(alive, -self._reward(x, u, y, points), 0.0)

    def _reward(self, x: Tensor, u: Tensor, y: Tensor, points: StagePoints) -> Tensor:
        task, scene = self._task, points.scene
        if not task.uses_time:
            return task.reward(x, u, y, t=scene.start, context=scene.flattened(points.steps))
        parts = [
            task.reward(*rows, t=scene.start + t, context=scene.context)
            for t, rows in enumerate(zip(*(v.chunk(points.steps) for v in (x, u, y)), strict=True))
        ]
        return torch.cat(parts)

    def over(self, points: StagePoints) -> Tensor | None:
        """See :class:`StageCost`."""
        return self._ended(points)[-1] if self._until_termination else None

    def _ended(self, points: StagePoints) -> Tensor:
        """Return whether the episode has ended with a step or before it, [T, B] bool."""
        task, scene = self._task, points.scene
        with torch.no_grad():
            if task.uses_time:
                ended = torch.stack(
                    [
                        task.terminated(y, t=scene.start + t, context=scene.context)
                        for t, y in enumerate(points.next_state.detach().chunk(points.steps))
                    ]
                )
            else:
                ended = task.terminated(
                    points.next_state.detach(),
                    t=scene.start,
                    context=scene.flattened(points.steps),
                ).unflatten(0, (points.steps, -1))
        return ended.cumsum(0) > 0


class Residuals(Protocol):
    """A sum of norms of residuals; see ``mbrl.tasks.residual.ResidualCost``."""

    def __call__(self, state: Tensor, action: Tensor, t: Any = 0) -> Tensor:
        """[N, nx], [N, nu] -> [N], differentiable."""

    def expand(self, state: Tensor, action: Tensor, t: Any) -> Any:
        """Return value, gradient and Hessian by the residual, and its Jacobians."""


class ResidualStage(StageCost):
    r"""A sum of weighted norms of residuals after the step, :math:`c = \sum w \, n(r(x', u; t))`.

    Its Hessian is Gauss and Newton's, :math:`J^\top w n'' J`: convex, and exact where residuals
    are linear.

    Args:
        cost: the sum.
    """

    def __init__(self, cost: Residuals):
        self._cost = cost

    def __call__(self, points: StagePoints) -> Tensor:
        """[T B]."""
        return self._cost(points.next_state, points.action, points.times)

    def quadratic(self, points: StagePoints, a: Tensor, b: Tensor, model: Model) -> Quadratic:
        """See :class:`StageCost`."""
        found = self._cost.expand(points.next_state, points.action, points.times)
        by_x, by_u = found.jx @ a, found.jx @ b + found.ju  # (N, m, ndx), (N, m, nu)
        gradient = found.gradient[:, None, :]
        curved_x, curved_u = found.hessian @ by_x, found.hessian @ by_u
        return Quadratic(
            (gradient @ by_x)[:, 0],
            (gradient @ by_u)[:, 0],
            by_x.mT @ curved_x,
            by_u.mT @ curved_x,
            by_u.mT @ curved_u,
        )


class TerminalCost(ABC):
    """phi(x_T), one number a row.

    Attributes:
        until_termination: whether it stands for what is to come, and so is not paid where the
            episode has ended; a cost of residuals is, lest an early end is a way around it.
    """

    until_termination = False

    @abstractmethod
    def __call__(self, state: Tensor, scene: Scene, steps: int) -> Tensor:
        """Return costs [B] of final states [B, nx], reached after ``steps``; differentiable."""

    @abstractmethod
    def quadratic(
        self, state: Tensor, scene: Scene, steps: int, model: Model
    ) -> tuple[Tensor, Tensor]:
        """Return gradient [B, ndx] and convex Hessian [B, ndx, ndx] in tangent space."""


class ResidualTerminal(TerminalCost):
    """A sum of weighted norms of residuals of the last state, under no control.

    Args:
        cost: the sum.
        action_size: nu.
    """

    def __init__(self, cost: Residuals, action_size: int):
        self._cost, self._action_size = cost, action_size

    def __call__(self, state: Tensor, scene: Scene, steps: int) -> Tensor:
        """[B]."""
        return self._cost(state, self._nothing(state), scene.start + steps - 1)

    def quadratic(
        self, state: Tensor, scene: Scene, steps: int, model: Model
    ) -> tuple[Tensor, Tensor]:
        """See :class:`TerminalCost`."""
        found = self._cost.expand(state, self._nothing(state), scene.start + steps - 1)
        gradient = (found.gradient[:, None, :] @ found.jx)[:, 0]
        return gradient, found.jx.mT @ found.hessian @ found.jx

    def _nothing(self, state: Tensor) -> Tensor:
        return state.new_zeros(len(state), self._action_size)


class ValueTerminal(TerminalCost):
    r"""A value function, negated: :math:`\phi(x) = -V(x)`.

    For plans made in Python, of a value function that is at hand; no run leaves one behind, and so
    no configuration names one.

    Where the stage cost says that the episode has ended, nothing is to come.

    Args:
        value: states [B, nx] -> values [B], in torch.
    """

    until_termination = True

    def __init__(self, value: Any):
        self._value = value

    def __call__(self, state: Tensor, scene: Scene, steps: int) -> Tensor:
        """[B]."""
        return -self._value(state).to(torch.float64)

    def quadratic(
        self, state: Tensor, scene: Scene, steps: int, model: Model
    ) -> tuple[Tensor, Tensor]:
        """See :class:`TerminalCost`; autograd's Hessian without its negative eigenvalues."""
        state = state.detach().requires_grad_()
        with torch.enable_grad():
            gradient, hessian = _derivatives(self(state, scene, steps), state, "the value function")
        state, ndx = state.detach(), model.tangent_size
        if hessian is None:
            return model.to_tangent(state, gradient), gradient.new_zeros(len(state), ndx, ndx)
        bent = model.hessian_to_tangent(state, gradient, hessian)
        return model.to_tangent(state, gradient), convex(bent)


def convex(hessian: Tensor) -> Tensor:
    """Return symmetric matrices [N, n, n] with their negative eigenvalues set to zero."""
    hessian = 0.5 * (hessian + hessian.mT)
    # Of a matrix that has a Cholesky factor, shifted by its rounding, nothing need be changed.
    size = hessian.abs().amax((1, 2)) * torch.finfo(hessian.dtype).eps * hessian.shape[1]
    shifted = hessian + size[:, None, None] * torch.eye(hessian.shape[1], dtype=hessian.dtype)
    rows = torch.linalg.cholesky_ex(shifted).info.nonzero()[:, 0]
    if len(rows):
        values, vectors = torch.linalg.eigh(hessian[rows])
        hessian[rows] = (vectors * values.clamp(min=0)[:, None, :]) @ vectors.mT
    return hessian


def _derivatives(costs: Tensor, at: Tensor, name: str) -> tuple[Tensor, Tensor | None]:
    """Return gradients [N, n] of costs [N] by rows [N, n], and Hessians; None: they are zero."""
    if not costs.requires_grad:
        return torch.zeros_like(at), None
    try:
        (gradient,) = torch.autograd.grad(costs.sum(), at, create_graph=True)
        if not gradient.requires_grad:
            return gradient, None
        rows = [
            torch.autograd.grad(column.sum(), at, retain_graph=True, materialize_grads=True)[0]
            for column in gradient.unbind(1)
        ]
    except SecondDerivativeError as error:
        raise ArgumentError(
            f"{name}: its reward has no second derivatives, which this planner needs; "
            "give a cost of residuals (cost: ...), or choose a planner that needs none"
        ) from error
    if not gradient.isfinite().all():
        raise ArgumentError(
            f"{name}: torch finds no finite slope of its cost at states and actions that are "
            "finite; at 0, sqrt has none, and Tensor.norm has"
        )
    # A kink has no curvature: at 0, torch's second derivatives of a norm are NaN.
    hessian = torch.stack(rows, dim=1)
    return gradient.detach(), torch.where(hessian.isfinite(), hessian, 0.0)


def _in_tangent(
    gradient: Tensor, hessian: Tensor | None, points: StagePoints, sizes: list[int], model: Model
) -> tuple[Tensor, Tensor]:
    """Return gradient and Hessian by tangents of x, by u, and by tangents of x'."""
    gx, gu, gy = gradient.split(sizes, dim=1)
    at = points.state, None, points.next_state
    moved = [model.to_tangent(points.state, gx), gu, model.to_tangent(points.next_state, gy)]
    g = torch.cat(moved, dim=1)
    if hessian is None:
        return g, g.new_zeros(())
    blocks = [list(row.split(sizes, dim=2)) for row in hessian.split(sizes, dim=1)]
    for i, x in enumerate(at):
        for j, y in enumerate(at):
            blocks[i][j] = _block(blocks[i][j], x, y, (gx, gu, gy)[i] if i == j else None, model)
    return g, torch.cat([torch.cat(row, dim=2) for row in blocks], dim=1)


def _block(
    block: Tensor, x: Tensor | None, y: Tensor | None, gradient: Tensor | None, model: Model
) -> Tensor:
    """Return one block of a Hessian by tangents, where its rows and columns belong to states."""
    if gradient is not None:
        return block if x is None else model.hessian_to_tangent(x, gradient, block)

    def columns(matrix: Tensor, state: Tensor | None) -> Tensor:
        if state is None:
            return matrix
        rows = state.repeat_interleave(matrix.shape[1], 0)
        return model.to_tangent(rows, matrix.flatten(0, 1)).unflatten(0, matrix.shape[:2])

    return columns(columns(block, y).mT, x).mT
