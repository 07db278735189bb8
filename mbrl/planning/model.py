"""What planners ask of dynamics: rollouts, Jacobians and costates, simulated or learned alike."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mbrl.errors import DivergenceError
from mbrl.ops.tangent import TangentMap
from mbrl.physics import Simulator, StateSpec
from mbrl.tasks import declared

Law = Callable[[int, Tensor], Tensor]


class Scene(NamedTuple):
    """Where in an episode a plan begins, and what is constant in it."""

    start: int = 0  # index of the first step in its episode
    context: Tensor | None = None  # (B, n): goals and the like, see ``Task.start``

    def repeated(self, times: int) -> Scene:
        """Return the scene of ``times`` copies of every row, copies outermost."""
        if self.context is None:
            return self
        return self._replace(context=self.context.repeat(times, 1))

    def rows(self, rows: Tensor) -> Scene:
        """Return the scene of some rows, by their indices [n]."""
        return self if self.context is None else self._replace(context=self.context[rows])

    def flattened(self, steps: int) -> Tensor | None:
        """Return the context of T steps of all rows, [T B, n], steps outermost."""
        return None if self.context is None else self.context.repeat(steps, 1)


class Model(ABC):
    r"""A map x' = F(x, u) on a manifold, over a batch of rows, without autograd.

    Shapes: N rows, T steps; nx coordinates, ndx tangent coordinates, nu controls; float64.

    Attributes:
        state_size: nx.
        tangent_size: ndx.
        particles: P, in how many ways what may happen is drawn; see :meth:`futures`.
        control_steps: control steps taken so far, over all rows.
        linearizations: states linearised so far.
    """

    state_size: int
    tangent_size: int
    particles: int = 1

    def __init__(self) -> None:
        self.control_steps = 0
        self.linearizations = 0

    @abstractmethod
    def closed_loop(
        self, state: Tensor, law: Law, steps: int, scene: Scene
    ) -> tuple[Tensor, Tensor]:
        """Apply u_t = law(t, x_t): [N, nx] -> states [T+1, N, nx] and controls [T, N, nu].

        A row that diverges is NaN from there on.
        """

    def rollout(self, state: Tensor, actions: Tensor, scene: Scene) -> Tensor:
        """Apply actions [T, N, nu] from states [N, nx]: states [T+1, N, nx]; see closed_loop."""
        return self.closed_loop(state, lambda t, _: actions[t], len(actions), scene)[0]

    def futures(self, state: Tensor, actions: Tensor, scene: Scene) -> Tensor:
        """Return what may happen under actions [T, N, nu], [P, T+1, N, nx]: P equally likely ways.

        Here one, :meth:`rollout`; what is uncertain has several.
        """
        return self.rollout(state, actions, scene)[None]

    def sketch(self, state: Tensor, actions: Tensor, scene: Scene) -> Tensor | None:
        """Return a cheap approximation of :meth:`rollout`, to tell poor candidates by.

        States [T+1, N, nx]; None where there is none that is cheaper.
        """
        return None

    @abstractmethod
    def linearize(
        self, states: Tensor, actions: Tensor, scene: Scene, steps: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """[T, N, nx], [T, N, nu] -> A [T, N, ndx, ndx] and B [T, N, ndx, nu], dx' = A dx + B du.

        Args:
            states: [T, N, nx].
            actions: [T, N, nu].
            scene: of N rows.
            steps: which steps after the scene's start these are, T indices; None: 0 to T - 1.

        Raises:
            DivergenceError: naming rows that cannot be linearised.
        """

    def adjoint(
        self,
        states: Tensor,
        actions: Tensor,
        state_gradients: Tensor,
        action_gradients: Tensor,
        scene: Scene,
    ) -> Tensor:
        r"""Return total derivatives by the actions, [T, N, nu], of a function of a rollout.

        .. math:: \lambda_T = \ell_{x_T}, \qquad g_t = \ell_{u_t} + B_t^\top \lambda_{t+1},
                  \qquad \lambda_t = \ell_{x_t} + A_t^\top \lambda_{t+1}

        Args:
            states: [T+1, N, nx].
            actions: [T, N, nu].
            state_gradients: partial derivatives by the states in tangent space, [T+1, N, ndx].
            action_gradients: by the actions, [T, N, nu].
            scene: where the rollout was.
        """
        a, b = self.linearize(states[:-1], actions, scene)
        costate, total = state_gradients[-1], action_gradients.clone()
        for t in range(len(actions) - 1, -1, -1):
            total[t] += (costate[:, None, :] @ b[t])[:, 0]
            costate = state_gradients[t] + (costate[:, None, :] @ a[t])[:, 0]
        return total

    @abstractmethod
    def difference(self, x: Tensor, y: Tensor) -> Tensor:
        """Return the tangent vectors at x that lead to y: [..., nx], [..., nx] -> [..., ndx]."""

    @abstractmethod
    def to_tangent(self, state: Tensor, gradient: Tensor) -> Tensor:
        """Return E(x)' g: gradients by coordinates [N, nx] as those by tangents, [N, ndx]."""

    @abstractmethod
    def change(self, state: Tensor) -> Tensor:
        """Return zero tangent vectors [N, ndx] whose derivative by the state is the tangent map's.

        What a feedback gain multiplies at the very state that it was made for.
        """

    @abstractmethod
    def hessian_to_tangent(self, state: Tensor, gradient: Tensor, hessian: Tensor) -> Tensor:
        r"""Return the Hessian of f(x (+) d) by d at 0.

        A quaternion's :math:`q \exp(d) \approx q + E d - \tfrac18 |d|^2 q` bends:

        .. math:: \nabla_d^2 = E^\top H E - \tfrac14 (g^\top q) \, I.

        Args:
            state: x, [N, nx].
            gradient: g of f in coordinates, [N, nx].
            hessian: H of f in coordinates, [N, nx, nx].

        Returns:
            [N, ndx, ndx].
        """


class ManifoldModel(Model):
    """A model on the state space of MuJoCo.

    Args:
        spec: the state space; None: ``state_size`` Euclidean coordinates.
        state_size: nx.
    """

    def __init__(self, spec: StateSpec | None, state_size: int):
        super().__init__()
        self._spec = spec
        self._tangent = None if spec is None or spec.is_euclidean else TangentMap(spec)
        self.state_size = state_size
        self.tangent_size = state_size if spec is None else spec.ndx

    def difference(self, x: Tensor, y: Tensor) -> Tensor:
        """See :class:`Model`."""
        if self._tangent is None or self._spec is None:
            return y - x
        return torch.from_numpy(self._spec.difference(x.numpy(), y.numpy()))

    def to_tangent(self, state: Tensor, gradient: Tensor) -> Tensor:
        """See :class:`Model`."""
        return gradient if self._tangent is None else self._tangent.push_transposed(state, gradient)

    def change(self, state: Tensor) -> Tensor:
        """See :class:`Model`."""
        here = state.detach()
        return state - here if self._tangent is None else self._tangent.pull(here, state - here)

    def hessian_to_tangent(self, state: Tensor, gradient: Tensor, hessian: Tensor) -> Tensor:
        """See :class:`Model`."""
        tangent, spec = self._tangent, self._spec
        if tangent is None or spec is None:
            return hessian

        def each_row(matrix: Tensor) -> Tensor:  # [N, k, nx] -> [N, k, ndx]
            rows = state.repeat_interleave(matrix.shape[1], 0)
            return tangent.push_transposed(rows, matrix.flatten(0, 1)).unflatten(
                0, matrix.shape[:2]
            )

        curved = each_row(each_row(hessian).mT).mT
        for q, v in zip(spec.quaternion_x, spec.quaternion_dx, strict=True):
            bend = (gradient[:, q] * state[:, q]).sum(-1)
            curved[:, v, v] -= 0.25 * bend[:, None]
        return curved


class SimulatorModel(ManifoldModel):
    """The real physics.

    Args:
        simulator: the simulator.
        method: see ``Simulator.linearize``.
        eps: see ``Simulator.linearize``.
        centered: see ``Simulator.linearize``.
        smoothing: whose A and B stand in; see ``Simulator.linearize``.
    """

    def __init__(
        self,
        simulator: Simulator,
        *,
        method: str = "auto",
        eps: float | None = None,
        centered: bool = False,
        smoothing: Any = None,
    ):
        super().__init__(simulator.spec, simulator.spec.nx)
        self.simulator = simulator
        simulator.check_linearization(method, eps)
        self._options: dict[str, Any] = {
            "method": method,
            "eps": eps,
            "centered": centered,
            "smoothing": smoothing,
        }

    def closed_loop(
        self, state: Tensor, law: Law, steps: int, scene: Scene
    ) -> tuple[Tensor, Tensor]:
        """See :class:`Model`."""
        self.control_steps += steps * len(state)
        states, ctrls = self.simulator.closed_loop(
            state.numpy(), lambda t, x: law(t, torch.from_numpy(x)).numpy(), steps, True
        )
        return torch.from_numpy(states), torch.from_numpy(ctrls)

    def rollout(self, state: Tensor, actions: Tensor, scene: Scene) -> Tensor:
        """See :class:`Model`."""
        self.control_steps += len(actions) * len(state)
        states = self.simulator.rollout(state.numpy(), actions.numpy(), mark_diverged=True)
        return torch.from_numpy(states)

    def linearize(
        self, states: Tensor, actions: Tensor, scene: Scene, steps: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """See :class:`Model`."""
        shape = actions.shape[:2]
        self.linearizations += shape.numel()
        found = self.simulator.linearize(
            states.flatten(0, 1).numpy(), actions.flatten(0, 1).numpy(), **self._options
        )
        a, b = torch.from_numpy(found.A), torch.from_numpy(found.B)
        return a.unflatten(0, shape), b.unflatten(0, shape)

    def adjoint(
        self,
        states: Tensor,
        actions: Tensor,
        state_gradients: Tensor,
        action_gradients: Tensor,
        scene: Scene,
    ) -> Tensor:
        """See :class:`Model`; one native sweep."""
        self.linearizations += actions.shape[:2].numel()
        found = self.simulator.adjoint(
            states.numpy(),
            actions.numpy(),
            state_gradients.numpy(),
            action_gradients.numpy(),
            **self._options,
        )
        return torch.from_numpy(found.ctrls)


class TorchModel(ManifoldModel):
    """Any differentiable module (state [N, nx], action [N, nu]) -> next state [N, nx].

    Learned dynamics, and tasks whose step is more than the engine's. Jacobians are rows of reverse
    mode, one backward pass for each of nx.

    Args:
        dynamics: the module; its forward may declare ``t`` and ``context``.
        state_size: nx.
        spec: the state space, if states are MuJoCo's; None: Euclidean.
    """

    def __init__(self, dynamics: nn.Module, state_size: int, spec: StateSpec | None = None):
        super().__init__(spec, state_size)
        self._dynamics = dynamics
        self._keywords = declared(dynamics.forward)

    def closed_loop(
        self, state: Tensor, law: Law, steps: int, scene: Scene
    ) -> tuple[Tensor, Tensor]:
        """See :class:`Model`."""
        self.control_steps += steps * len(state)
        states, applied, here = [state], [], state
        lost = torch.zeros(len(state), dtype=torch.bool)
        with torch.no_grad():
            for t in range(steps):
                applied.append(law(t, here))
                following = self._marked(here, applied[-1], t, scene)
                lost = lost | ~following.isfinite().all(-1)
                states.append(torch.where(lost[:, None], torch.nan, following))
                here = torch.where(lost[:, None], state, following)  # laws refuse NaN
        return torch.stack(states), torch.stack(applied)

    def linearize(
        self, states: Tensor, actions: Tensor, scene: Scene, steps: Sequence[int] | None = None
    ) -> tuple[Tensor, Tensor]:
        """See :class:`Model`."""
        self.linearizations += actions.shape[:2].numel()
        pairs = [
            self._jacobian(x, u, t, scene)
            for t, x, u in zip(steps or range(len(actions)), states, actions, strict=True)
        ]
        a, b = zip(*pairs, strict=True)
        return torch.stack(a), torch.stack(b)

    def _step(self, state: Tensor, action: Tensor, t: int, scene: Scene) -> Tensor:
        known = {"t": scene.start + t, "context": scene.context}
        keywords = {name: known[name] for name in self._keywords}
        following: Tensor = self._dynamics(state, action, **keywords)
        return following.to(torch.float64)

    def _marked(self, state: Tensor, action: Tensor, t: int, scene: Scene) -> Tensor:
        """Step the rows that do not diverge; the others are NaN."""
        rows, following = torch.arange(len(state)), torch.full_like(state, torch.nan)
        while len(rows):
            try:
                found = self._step(state[rows], action[rows], t, scene.rows(rows))
            except DivergenceError as error:
                rows = without(rows, error)
            else:
                following[rows] = found
                break
        return following

    def _jacobian(self, x: Tensor, u: Tensor, t: int, scene: Scene) -> tuple[Tensor, Tensor]:
        x, u = x.detach().requires_grad_(), u.detach().requires_grad_()
        with torch.enable_grad():
            y = self._step(x, u, t, scene)
        rows = [
            torch.autograd.grad(y[:, i].sum(), (x, u), retain_graph=True, materialize_grads=True)
            for i in range(y.shape[1])
        ]
        a, b = (torch.stack(part, dim=1) for part in zip(*rows, strict=True))
        if self._tangent is None:
            return a, b
        tangent, y, x = self._tangent, y.detach(), x.detach()

        def columns(matrix: Tensor) -> Tensor:  # E(y)^+ M: [N, nx, k] -> [N, ndx, k]
            k = matrix.shape[2]
            moved = tangent.pull(y.repeat_interleave(k, 0), matrix.mT.flatten(0, 1))
            return moved.unflatten(0, (len(y), k)).mT

        reduced = columns(a)  # (N, ndx, nx), by coordinates of x
        by_tangent = tangent.push_transposed(
            x.repeat_interleave(reduced.shape[1], 0), reduced.flatten(0, 1)
        )
        return by_tangent.unflatten(0, reduced.shape[:2]), columns(b)


def all_finite(values: Tensor) -> bool:
    """Return whether all numbers are finite: one pass over them, where they are."""
    # A sum is finite only where all of its terms are; the other way, it may overflow.
    return bool(values.sum().isfinite()) or bool(values.isfinite().all())


def without(rows: Tensor, error: DivergenceError) -> Tensor:
    """Leave out the rows that an error names, as rows or as points of all steps; else all."""
    keep = torch.ones(len(rows), dtype=torch.bool)
    keep[[row % len(rows) for row in error.rows]] = False
    return rows[keep] if error.rows else rows[:0]


@contextlib.contextmanager
def naming(rows: Tensor) -> Iterator[None]:
    """Let an error of a part of a batch, or of its points of all steps, name rows of the batch.

    Args:
        rows: which rows of the batch are the part.
    """
    try:
        yield
    except DivergenceError as error:
        named = sorted({int(rows[row % len(rows)]) for row in error.rows or range(len(rows))})
        raise DivergenceError(str(error), named) from error
