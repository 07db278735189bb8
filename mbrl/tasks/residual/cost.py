"""Costs that are weighted norms of residuals."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from mbrl.errors import ArgumentError, ConfigError
from mbrl.ops import FirstOrderOp, batched
from mbrl.options import completed
from mbrl.physics import Simulator, StateSpec
from mbrl.tasks.residual.named_model import NamedModel, Point, Residual, Steps
from mbrl.tasks.residual.norms import Norm, norm_of
from mbrl.tasks.residual.residuals import residual_of
from mbrl.types import Array, Linearization

Terms = Mapping[str, Mapping[str, Any]] | Sequence[Mapping[str, Any]]


class Expansion(NamedTuple):
    """A cost to second order in its residuals, and these to first order, all float64.

    With n the cost as a function of all residuals r, the Gauss-Newton model is
    ``l_x = jx' gradient``, ``l_xx = jx' hessian jx``, and likewise for u.
    """

    value: Tensor  # (N,)
    gradient: Tensor  # (N, m): dn/dr
    hessian: Tensor  # (N, m, m): d2n/dr2, positive semidefinite
    jx: Tensor  # (N, m, ndx): dr/dx in tangent space
    ju: Tensor  # (N, m, nu): dr/du


class ResidualCost:
    r"""A cost in the form of MuJoCo MPC, of the state x that the action u of step t led to.

    .. math:: \ell(x, u; t) = \sum_i w_i(t) \, n_i(r_i(x, u; t)), \qquad
              w_i(t) = w_i \, [(t + 1) \, \Delta t > s_i].

    Args:
        simulator: the physics.
        terms: ``{residual: {kind: ..., ...}, norm: name or {kind: ..., p: ...}, weight: w, after:
            s}`` each, in a list or, so that each has a name, in a mapping; a norm is quadratic, a
            weight 1, and a term counts from the start (s = 0 seconds) where none is given.
        where: configuration key, for messages.

    Attributes:
        simulator: the physics.
        size: width m of all residuals together.
        names: of the terms.
        parts: where each term's residual is among them.
        uses_time: whether it depends on t.

    Raises:
        ConfigError: naming the key, its value and what is legal.
    """

    def __init__(self, simulator: Simulator, terms: Terms, *, where: str = "cost"):
        self.simulator, self._terms, self._where = simulator, terms, where
        named = NamedModel(simulator)
        self._residuals: list[Residual] = []
        self._norms: list[Norm] = []
        self._weights: list[float] = []
        self._first: list[int] = []  # step from which each term counts
        self.names: list[str] = []
        for name, key, declared in _named(terms, where):
            options = completed(_term, declared, key)
            if options["weight"] <= 0:
                raise ConfigError(f"{key}.weight must be positive, got {options['weight']}")
            if not options["after"] >= 0:
                raise ConfigError(f"{key}.after must not be negative, got {options['after']}")
            self.names.append(name)
            self._residuals.append(residual_of(named, options["residual"], f"{key}.residual"))
            self._norms.append(norm_of(options["norm"], f"{key}.norm"))
            self._weights.append(options["weight"])
            # The state after step t is at (t + 1) dt.
            self._first.append(math.floor(options["after"] / simulator.dt + 1e-9))
        ends = np.cumsum([0, *(r.size for r in self._residuals)]).tolist()
        self.size: int = ends[-1]
        self.parts = [slice(a, b) for a, b in itertools.pairwise(ends)]
        self.uses_time = any(r.uses_time for r in self._residuals) or any(self._first)
        self._map = ResidualMap(simulator, named, self._residuals)
        self._op = FirstOrderOp(self._map)

    def residuals(self, state: Tensor, action: Tensor, t: int | Tensor = 0) -> Tensor:
        """Evaluate all residuals; differentiable once, Jacobians are computed in backward.

        Args:
            state: the states after the action, [N, nx].
            action: [N, nu].
            t: index of the action's step, one for all rows or [N].

        Returns:
            [N, m] float64.

        Raises:
            ArgumentError: on a wrong shape.
            DivergenceError: naming the rows that MuJoCo cannot make sense of.
        """
        state, action = batched(self.simulator.spec, state, action)
        steps = step_indices(t, len(state))[:, None].to(torch.float64)
        return self._op(state, action, steps)[:, self.simulator.spec.nx :]

    def __call__(self, state: Tensor, action: Tensor, t: int | Tensor = 0) -> Tensor:
        """Return the cost [N]; arguments and errors are those of :meth:`residuals`."""
        values = self.terms(self.residuals(state, action, t), t)
        return torch.stack(values).sum(0)

    def terms(self, residuals: Tensor, t: int | Tensor = 0) -> list[Tensor]:
        """Return the weighted terms, [N] each, of residuals [N, m] at the steps t."""
        weights = self._weights_at(step_indices(t, len(residuals)))
        return [
            weight * norm.value(residuals[:, part])
            for weight, norm, part in zip(weights, self._norms, self.parts, strict=True)
        ]

    def expand(self, state: Tensor, action: Tensor, t: int | Tensor = 0) -> Expansion:
        """Expand the cost; no autograd. Arguments and errors are those of :meth:`residuals`."""
        state, action = batched(self.simulator.spec, state.detach(), action.detach())
        steps = step_indices(t, len(state))
        found, jx, ju = map(
            torch.from_numpy, self._map.expand(state.numpy(), action.numpy(), steps.numpy())
        )
        gradient = torch.empty_like(found)
        hessian = found.new_zeros(len(found), self.size, self.size)
        for weight, norm, part in zip(
            self._weights_at(steps), self._norms, self.parts, strict=True
        ):
            gradient[:, part] = weight[:, None] * norm.gradient(found[:, part])
            hessian[:, part, part] = weight[:, None, None] * norm.hessian(found[:, part])
        return Expansion(torch.stack(self.terms(found, steps)).sum(0), gradient, hessian, jx, ju)

    def on(self, simulator: Simulator) -> ResidualCost:
        """Return the same cost evaluated by another simulator of the same model."""
        return ResidualCost(simulator, self._terms, where=self._where)

    def _weights_at(self, steps: Tensor) -> list[Tensor]:
        """Return the weights of the terms at steps [N], [N] each."""
        return [
            weight * (steps >= first).to(torch.float64)
            for weight, first in zip(self._weights, self._first, strict=True)
        ]

    def __reduce__(self) -> tuple[object, ...]:
        """A copy or a pickle is a new cost of the same terms."""
        return _remade, (self.simulator, self._terms, self._where)


class ResidualMap:
    """(x, u; t) -> (x, r): residuals as a map that brings its own linearisation.

    Args:
        simulator: the physics.
        named: where the residuals were made.
        residuals: the residuals.
    """

    def __init__(self, simulator: Simulator, named: NamedModel, residuals: Sequence[Residual]):
        self.spec: StateSpec = simulator.spec
        self.extras = sum(r.size for r in residuals)
        self._simulator, self._residuals = simulator, residuals
        self._sensing = simulator.sensing(named.probes) if named.probes else None

    def values(self, state: Array, ctrl: Array, steps: Steps) -> Array:
        """[N, nx], [N, nu], [N] -> [N, m]."""
        state, ctrl = self._simulator.checked(state, ctrl)
        nothing = np.empty((len(state), 0))
        measured = nothing if self._sensing is None else self._sensing.values(state, ctrl)
        point = Point(state, ctrl, steps, measured)
        return np.concatenate([r.value(point) for r in self._residuals], axis=1)

    def expand(self, state: Array, ctrl: Array, steps: Steps) -> tuple[Array, Array, Array]:
        """[N, nx], [N, nu], [N] -> r [N, m], dr/dx [N, m, ndx], dr/du [N, m, nu]."""
        state, ctrl = self._simulator.checked(state, ctrl)
        point = Point(state, ctrl, steps, np.empty((len(state), 0)))
        if self._sensing is not None:
            measured, slopes = self._sensing.linearize(state, ctrl)
            point = point._replace(measured=measured, slopes=slopes)
        values = np.concatenate([r.value(point) for r in self._residuals], axis=1)
        parts = [r.slopes(point) for r in self._residuals]
        x, u = (np.concatenate(each, axis=1) for each in zip(*parts, strict=True))
        return values, x, u

    def evaluate(self, state: Array, ctrl: Array, constants: Array | None) -> Array:
        """Return (x, r) in one row each, [N, nx + m]."""
        return np.concatenate([state, self.values(state, ctrl, _given(constants))], axis=1)

    def linearize(self, state: Array, ctrl: Array, constants: Array | None) -> Linearization:
        """Return the Jacobians of (x, r)."""
        _, x, u = self.expand(state, ctrl, _given(constants))
        n, ndx = len(state), self.spec.ndx
        stay = np.broadcast_to(np.eye(ndx), (n, ndx, ndx))
        still = np.zeros((n, ndx, self.spec.nu))
        return Linearization(np.concatenate([stay, x], 1), np.concatenate([still, u], 1))


def _term(
    *,
    residual: Mapping[str, Any],
    norm: str | Mapping[str, Any] = "quadratic",
    weight: float = 1.0,
    after: float = 0.0,
) -> None:
    """What a term is declared by."""


def _named(terms: Terms, where: str) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Return the name, the configuration key and the declaration of every term."""
    if isinstance(terms, Mapping):
        found = [(str(name), f"{where}.{name}", term) for name, term in terms.items()]
    elif isinstance(terms, list | tuple):
        found = [(str(i), f"{where}[{i}]", term) for i, term in enumerate(terms)]
    else:
        raise ConfigError(f"{where} must be a mapping or a list of terms, got {terms!r}")
    if not found:
        raise ConfigError(f"{where} must have a term, got none")
    return found


def step_indices(t: int | Tensor, n: int) -> Tensor:
    """Return the index of the step of every row, [n]."""
    steps = torch.as_tensor(t)
    if steps.is_floating_point() or steps.ndim > 1 or (steps.ndim and len(steps) != n):
        raise ArgumentError(f"t must be an integer or {n} of them, got {t!r}")
    return steps.to("cpu", torch.int64).expand(n)


def _given(constants: Array | None) -> Steps:
    if constants is None:
        raise ValueError("residuals need the index of the step")
    return constants[:, 0].astype(np.int64)


def _remade(simulator: Simulator, terms: Terms, where: str) -> ResidualCost:
    return ResidualCost(simulator, terms, where=where)
