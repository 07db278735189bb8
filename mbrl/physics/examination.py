"""How well a model can be differentiated at given states: errors, noise, kinks, lost gradients."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

import mujoco
import numpy as np
from numpy.typing import NDArray

from mbrl.errors import ModelError
from mbrl.physics.differences import ManifoldDifference
from mbrl.physics.linearization import METHODS, converged
from mbrl.physics.simulator import Simulator
from mbrl.physics.step_difference import bounds, default_eps
from mbrl.types import Array, Linearization

# Two sizes of centred differences, neither of them a method's default. Where the Jacobians they
# give agree, both mean the same derivative; next to a switch of contacts they do not.
_REFERENCE_EPS = (2.0**-21, 2.0**-19)
_AGREEMENT = 2e-5
# One-sided derivatives of two branches differ however small the difference; curvature shrinks.
_KINK_EPS, _KINK = (2.0**-22, 2.0**-24), 1e-3
_SWEPT = 16  # states, about, at which many sizes are tried
SWEPT_EPS = tuple(2.0**-k for k in (31, 27, 23, 19, 15))
# Within this share of its range a control counts as at its limit: where a tanh squashes actions
# into the range, its slope is below 0.4 % there.
_NEAR = 1e-3
_ROUNDS = 3  # of measuring time


class Spread(NamedTuple):
    """A figure over states."""

    median: float
    worst: float


class Fallbacks(NamedTuple):
    """Rows that a method did not differentiate itself, but left to differences of the step."""

    points: int
    fallen: int
    reasons: Mapping[str, int]


@dataclass(frozen=True)
class MethodFigures:
    """What one method does at the examined states.

    Attributes:
        one_sided: error of [A B] with the method's default, one-sided differences: the median over
            all states, the worst over trusted ones.
        centered: the same with centred differences.
        microseconds: wall time per state, one-sided, of the whole batch on the simulator's threads.
        fallbacks: rows of the one-sided linearisation that were left to differences of the step.
    """

    one_sided: Spread
    centered: Spread
    microseconds: float
    fallbacks: Fallbacks


class SizeFigures(NamedTuple):
    """Median errors of [A B] over some trusted states at one size of differences."""

    eps: float
    one_sided: float
    centered: float


class SolverFigures(NamedTuple):
    """What the model's own solver settings leave of the optimum."""

    name: str
    tolerance: float
    iterations: int
    step: Spread  # largest |F - F converged| over the coordinates of the tangent space, SI units
    jacobian: Spread  # error of [A B] by differences of the step as it is


@dataclass(frozen=True)
class Examination:
    r"""Figures on the Jacobians [A B] of a control step at B states.

    Errors are relative, in Frobenius' norm, against centred differences of the step with its solver
    converged, extrapolated from two sizes h and 4h:

    .. math:: J = (16\, C(h) - C(4h)) / 15, \qquad e = \|\hat J - J\| / \|J\|.

    Attributes:
        integrator: of the model, as MJCF names it.
        method: the method in use.
        eps: size of its differences.
        centered: whether they are.
        methods: figures of every method that accepts the model, by name.
        refused: why the others do not, by name.
        trusted: [B] bool, where C(h) and C(4h) agree: elsewhere there is no Jacobian to compare to,
            because a switch is near or the step curves too strongly.
        kinks: [B] bool, where derivatives from either side differ by more than 1e-3, and go on
            differing as the differences shrink.
        contact: [B] bool, contacts are detected.
        constrained: [B] bool, constraint rows exist (contacts, limits, equalities, friction loss).
        forced: [B] bool, some constraint exerts a force.
        saturated: [B, nu] bool, the control is within a thousandth of its range of a limit.
        beyond: [B, nu] bool, the control is beyond a limit.
        vanishing: [B, nu] bool, the column of B is exactly zero.
        actuators: their names; of a nameless one that of its joint, or its index.
        change: relative change of [A B] of the method in use when its eps is halved.
        order: log2 of the ratio of that change at twice eps to that at eps, median: 1 or more where
            curvature dominates (2 for centred differences), -1 where rounding does.
        sizes: errors of method "step" over a range of eps, at some 16 of the states.
        solver: what the model's own solver settings leave of the optimum.
    """

    integrator: str
    method: str
    eps: float
    centered: bool
    methods: Mapping[str, MethodFigures]
    refused: Mapping[str, str]
    trusted: NDArray[np.bool_]
    kinks: NDArray[np.bool_]
    contact: NDArray[np.bool_]
    constrained: NDArray[np.bool_]
    forced: NDArray[np.bool_]
    saturated: NDArray[np.bool_]
    beyond: NDArray[np.bool_]
    vanishing: NDArray[np.bool_]
    actuators: tuple[str, ...]
    change: Spread
    order: float
    sizes: tuple[SizeFigures, ...]
    solver: SolverFigures


def examine(
    simulator: Simulator,
    states: Array,
    ctrls: Array,
    *,
    method: str = "auto",
    eps: float | None = None,
    centered: bool = False,
) -> Examination:
    """Examine the Jacobians of a model at states that are typical of its use.

    Args:
        simulator: the model.
        states: [B, nx].
        ctrls: [B, nu].
        method: the method in use, see ``Simulator.linearize``.
        eps: size of its differences; None: the method's own.
        centered: whether its differences are centred.

    Raises:
        ArgumentError: on a wrong shape, method or eps.
        ModelError: if the method in use cannot differentiate the model.
        DivergenceError: naming the rows whose simulation diverged.
    """
    name = simulator.linearization_method(method)
    eps = eps or METHODS[name].default_eps(simulator.model, centered)

    def jacobian(by: str = "step", every: int = 1, **options: Any) -> Array:
        return _joined(simulator.linearize(states[::every], ctrls[::every], method=by, **options))

    reference, trusted = _reference(jacobian)
    refused = _refusals(simulator)
    accepted = [other for other in METHODS if other not in refused]
    seconds = _seconds(
        {by: lambda by=by: jacobian(by) for by in accepted}  # type: ignore[misc]
    )

    def figures(by: str) -> MethodFigures:
        one_sided, fallbacks = counted(simulator, lambda: jacobian(by))
        return MethodFigures(
            _spread(relative_error(one_sided, reference), trusted),
            _spread(relative_error(jacobian(by, centered=True), reference), trusted),
            1e6 * seconds[by] / len(states),
            fallbacks,
        )

    changes = _changes(lambda size: jacobian(name, eps=size, centered=centered), eps)
    used = simulator.linearize(states, ctrls, method=name, eps=eps, centered=centered)
    low, high = (bound[simulator.spec.na :] for bound in bounds(simulator.model))
    near = _NEAR * np.where(np.isfinite(high - low), high - low, 0.0)
    fields = simulator.fields(states, ("ncon", "nefc", "qfrc_constraint"), ctrls)
    return Examination(
        integrator=_option_name(mujoco.mjtIntegrator(simulator.model.opt.integrator)),
        method=name,
        eps=eps,
        centered=centered,
        methods={by: figures(by) for by in accepted},
        refused=refused,
        trusted=trusted,
        kinks=_kinks(jacobian),
        contact=fields["ncon"].astype(bool),
        constrained=fields["nefc"].astype(bool),
        forced=(fields["qfrc_constraint"] != 0.0).any(axis=1),
        saturated=(ctrls <= low + near) | (ctrls >= high - near),
        beyond=(ctrls < low) | (ctrls > high),
        vanishing=(used.B == 0.0).all(axis=1),
        actuators=_actuators(simulator.model),
        change=_spread(changes[1]),
        order=_order(*changes),
        sizes=_sizes(jacobian, reference, trusted),
        solver=_solver(simulator, states, ctrls, reference, trusted),
    )


def relative_error(found: Array, expected: Array) -> Array:
    """Frobenius norm of the difference over that of ``expected``, [B], of [B, n, m]."""
    error = np.linalg.norm(found - expected, axis=(1, 2))
    return np.asarray(error / np.linalg.norm(expected, axis=(1, 2)))


def counted(simulator: Simulator, call: Callable[[], Array]) -> tuple[Array, Fallbacks]:
    """Return what a linearisation gives, and which of its rows fell back to differences."""
    before = Counter(simulator.linearization_fallbacks)
    result = call()
    reasons = Counter(simulator.linearization_fallbacks) - before
    return result, Fallbacks(len(result), reasons.total(), reasons)


def _joined(linearization: Linearization) -> Array:
    return np.concatenate(linearization, axis=2)


def _spread(values: Array, worst_over: NDArray[np.bool_] | None = None) -> Spread:
    chosen = values if worst_over is None else values[worst_over]
    return Spread(float(np.median(values)), float(chosen.max(initial=0.0)))


def _reference(jacobian: Callable[..., Array]) -> tuple[Array, NDArray[np.bool_]]:
    """Return the extrapolated Jacobians, and where they can be trusted."""
    fine, coarse = (jacobian(eps=eps, centered=True) for eps in _REFERENCE_EPS)
    return (16.0 * fine - coarse) / 15.0, relative_error(coarse, fine) < _AGREEMENT


def _kinks(jacobian: Callable[..., Array]) -> NDArray[np.bool_]:
    """Return where the step has one derivative on one side and another on the other."""

    def gap(eps: float) -> Array:
        # C = (D+ + D-) / 2 of the one-sided quotients D+ and D-: D+ - D- = 2 (D+ - C).
        one_sided, both = (jacobian(eps=eps, centered=centered) for centered in (False, True))
        return 2.0 * relative_error(one_sided, both)

    wide, narrow = map(gap, _KINK_EPS)
    return (narrow > _KINK) & (narrow > 0.5 * wide)


def _refusals(simulator: Simulator) -> dict[str, str]:
    """Return why methods cannot differentiate the model, for those that cannot."""
    found = {}
    for name in METHODS:
        try:
            simulator.linearization_method(name)
        except ModelError as error:
            found[name] = str(error)
    return found


def _seconds(calls: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Return median times; calls take turns, so that a drift of the machine meets them all."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for measured in (False, *[True] * _ROUNDS):  # the first allocates
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if measured:
                times[name].append(time.perf_counter() - start)
    return {name: median(series) for name, series in times.items()}


def _changes(jacobian: Callable[[float], Array], eps: float) -> tuple[Array, Array]:
    """Relative changes, [B] each, from 2 eps to eps and from eps to eps / 2."""
    double, single, half = (jacobian(factor * eps) for factor in (2.0, 1.0, 0.5))
    return relative_error(double, single), relative_error(half, single)


def _order(wider: Array, narrower: Array) -> float:
    """Return how fast the changes shrink with eps; nan where there is none to speak of."""
    both = (wider > 0.0) & (narrower > 0.0)
    return float(np.median(np.log2(wider[both] / narrower[both]))) if both.any() else float("nan")


def _sizes(
    jacobian: Callable[..., Array], reference: Array, trusted: NDArray[np.bool_]
) -> tuple[SizeFigures, ...]:
    every = max(1, len(reference) // _SWEPT)
    reference, trusted = reference[::every], trusted[::every]
    if not trusted.any():
        return ()

    def error(eps: float, centered: bool) -> float:
        found = jacobian(every=every, eps=eps, centered=centered)
        return float(np.median(relative_error(found, reference)[trusted]))

    return tuple(SizeFigures(eps, error(eps, False), error(eps, True)) for eps in SWEPT_EPS)


def _solver(
    simulator: Simulator,
    states: Array,
    ctrls: Array,
    reference: Array,
    trusted: NDArray[np.bool_],
) -> SolverFigures:
    """Compare the step as the model's solver leaves it with the converged one."""
    model, spec = simulator.model, simulator.spec
    exact = Simulator(
        converged(model), frame_skip=simulator.frame_skip, threads=simulator.threads
    ).step(states, ctrls)
    gap = np.abs(spec.difference(exact, simulator.step(states, ctrls))).max(axis=1)
    plain = ManifoldDifference(spec, simulator.step, spec.difference, *bounds(model), len(states))
    found = _joined(plain(states, ctrls, eps=default_eps(model, False)))
    return SolverFigures(
        _option_name(mujoco.mjtSolver(model.opt.solver)),
        float(model.opt.tolerance),
        int(model.opt.iterations),
        _spread(gap),
        _spread(relative_error(found, reference), trusted),
    )


def _option_name(value: Any) -> str:
    """Return the name of an option's value, as MJCF writes it."""
    name = value.name.split("_", 1)[1]
    return {"EULER": "Euler", "NEWTON": "Newton"}.get(name, name if len(name) < 4 else name.lower())


def _actuators(model: mujoco.MjModel) -> tuple[str, ...]:
    """Return names that a user knows; many models name the joints alone."""

    def name(actuator: int) -> str:
        given = mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_ACTUATOR, actuator)
        if given or model.actuator_trntype[actuator] != mujoco.mjtTrn.mjTRN_JOINT:
            return given or str(actuator)
        joint = int(model.actuator_trnid[actuator, 0])
        return mujoco.mj_id2name(model, mujoco.mjtObj.mjOBJ_JOINT, joint) or str(actuator)

    return tuple(map(name, range(model.nu)))
