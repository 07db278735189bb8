"""The check of a task and its graph, in words and tables."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mbrl.checking.visits import Visits, visits
from mbrl.graph import Graph
from mbrl.ops import MujocoDynamics
from mbrl.physics import Simulator
from mbrl.physics.examination import Examination, Fallbacks, Spread, examine

_STATES = 64
# From here on something is worth a sentence.
_SHORT_OF_OPTIMUM = 1e-6  # of the step, relatively
_NOISY = 1e-4  # change of a Jacobian when eps is halved
_GOOD_ENOUGH, _POOR_EPS = 1e-5, 10.0  # an error, and how many times that at the best size


class _Choice(NamedTuple):
    """How a graph's dynamics are differentiated."""

    method: str
    eps: float | None
    centered: bool
    bare: bool  # the engine's step itself; else the environment's, which runs it


def check(graph: Graph, generator: torch.Generator, *, states: int = _STATES) -> str:
    """Return a report on the derivatives of a graph's physics where its task goes.

    Args:
        graph: the computation graph.
        generator: draws the states.
        states: how many to examine.

    Raises:
        TaskError: if the task has no simulator.
        ModelError: if the method that the graph asks for cannot differentiate the model.
        DivergenceError: if the physics diverge.
    """
    met = visits(graph, states, generator)
    choice = _choice(graph)
    simulator = graph.task.simulator
    found = examine(
        simulator,
        met.states,
        met.ctrls,
        method=choice.method,
        eps=choice.eps,
        centered=choice.centered,
    )
    blocks = (
        _heading(graph.task.name, simulator, met, choice, found),
        _methods(found),
        _sizes(found),
        _shares(found, met),
        ["Notes", *map(_wrapped, _notes(found, met, choice))],
    )
    return "\n\n".join("\n".join(block) for block in blocks if block) + "\n"


def _choice(graph: Graph) -> _Choice:
    for spec in graph.spec.nodes:
        if spec.kind == "dynamics":
            bare = any(isinstance(m, MujocoDynamics) for m in graph.nodes[spec.name].modules())
            options = {key: spec.options[key] for key in ("method", "eps", "centered")}
            return _Choice(**options, bare=bare)
    return _Choice("auto", None, False, bare=False)


def _heading(
    name: str, simulator: Simulator, met: Visits, choice: _Choice, found: Examination
) -> list[str]:
    spec, solver, count = simulator.spec, found.solver, len(met.states)
    asked = "'auto'" if choice.method == "auto" else repr(choice.method)
    rows = [
        ("states", f"{count}: {met.by_policy} along episodes of the graph's policy, untrained, "
         f"{count - met.by_policy} under random actions"),
        ("model", f"nq {spec.nq}, nv {spec.nv}, na {spec.na}, nu {spec.nu}; "
         f"{found.integrator}, frame skip {simulator.frame_skip}; "
         f"solver {solver.name}, tolerance {solver.tolerance:.0e}, "
         f"at most {solver.iterations} iterations"),
        ("method", f"{found.method!r} (the graph asks for {asked}), "
         f"{_differences(found)}, eps {found.eps:.1e}, solver converged"),
        ("noise", f"halving eps changes [A B] by {_pair(found.change)}"
         f" (median / worst state){_regime(found)}"),
    ]  # fmt: skip
    return [name, *(f"  {label:8}{text}" for label, text in rows)]


def _differences(found: Examination) -> str:
    if found.method == "implicit":
        return "centred differences of geometry alone"
    return f"{_kind(found.centered)} differences"


def _regime(found: Examination) -> str:
    # Curvature shrinks the change by 2 (centred: 4) per halving, rounding doubles it.
    if not np.isfinite(found.order):
        return ""
    if abs(found.order) < 0.5:
        return ": curvature and rounding in balance"
    return ": curvature of the step" if found.order > 0.0 else ": rounding"


def _methods(found: Examination) -> list[str]:
    rows = [
        (name, *map(_small, (*figures.one_sided, *figures.centered)),
         f"{figures.microseconds:.0f}", _fallbacks(figures.fallbacks))
        for name, figures in found.methods.items()
    ]  # fmt: skip
    heads = ("method", "one-sided", "worst", "centred", "worst", "us/state", "fell back")
    trusted = int(found.trusted.sum())
    return [
        "Jacobians [A B]: error relative to extrapolated centred differences, median and worst",
        f"(worst over the {trusted} of {len(found.trusted)} states where those can be trusted)",
        *_table(heads, rows),
        *(f"  refused: {reason}" for reason in found.refused.values()),
    ]


def _sizes(found: Examination) -> list[str]:
    if not found.sizes:
        return []
    rows = [tuple(map(_small, size)) for size in found.sizes]
    return [
        "Size of differences: median error of method 'step'",
        *_table(("eps", "one-sided", "centred"), rows),
    ]


def _shares(found: Examination, met: Visits) -> list[str]:
    """Return the table of how many states have what, the policy's apart from the others."""
    rows = [
        ("contacts", found.contact),
        ("constraint rows (contacts, limits, equalities, friction loss)", found.constrained),
        ("constraint forces", found.forced),
        ("a kink or a jump within 1e-7", found.kinks),
        ("no Jacobian to tell to 2e-5", ~found.trusted),
    ]
    for j, name in enumerate(found.actuators):
        for text, share in (
            ("at or beyond a limit", found.saturated[:, j]),
            ("without any effect", found.vanishing[:, j]),
        ):
            if share.any():
                rows.append((f"control {name!r} {text}", share))
    return [
        "States with",
        *_table(
            ("", "policy", "random"),
            [
                (text, *(_percent(part) for part in (row[: met.by_policy], row[met.by_policy :])))
                for text, row in rows
            ],
        ),
    ]


def _notes(found: Examination, met: Visits, choice: _Choice) -> list[str]:
    """Return what a user should know, one sentence each."""
    notes = [
        *_method_notes(found, choice, met),
        *_control_notes(found, met),
        *_state_notes(found),
        *_solver_notes(found),
    ]
    return notes or ["nothing stands in the way of gradients in these states"]


def _method_notes(found: Examination, choice: _Choice, met: Visits) -> Iterator[str]:
    if not choice.bare:
        yield (
            "this graph differentiates the environment's own step, by differences; what is said "
            "here is of the physics inside"
        )
    if not met.known:
        yield (
            "the environment makes its controls in its own step: these were drawn at random "
            "within the model's limits"
        )
    fallbacks = found.methods[found.method].fallbacks
    if fallbacks.fallen:
        reasons = ", ".join(f"{reason}: {n}" for reason, n in fallbacks.reasons.items())
        yield (
            f"method {found.method!r} left {fallbacks.fallen} of {fallbacks.points} points to "
            f"differences of the step ({reasons or 'no reason given'})"
        )
    if found.change.median > _NOISY:
        change = _small(found.change.median)
        yield f"halving eps changes Jacobians by {change} (median): they are not to be relied on"
    yield from _eps_notes(found)


def _eps_notes(found: Examination) -> Iterator[str]:
    """Hold the size of differences of the step against others."""
    if not found.sizes or found.method == "implicit":
        return
    side = "centered" if found.centered else "one_sided"
    best = min(found.sizes, key=lambda size: getattr(size, side))
    nearest = min(found.sizes, key=lambda size: abs(np.log(size.eps / found.eps)))
    error, least = getattr(nearest, side), getattr(best, side)
    if error > max(_POOR_EPS * least, _GOOD_ENOUGH):
        yield (
            f"{_kind(found.centered)} differences near eps {found.eps:.1e} err by "
            f"{_small(error)}, with {best.eps:.1e} by {_small(least)}: set eps"
        )


def _control_notes(found: Examination, met: Visits) -> Iterator[str]:
    own = slice(met.by_policy)
    for j, name in enumerate(found.actuators):
        vanishing, beyond = found.vanishing[own, j], found.beyond[own, j]
        lost = f"the gradient vanishes for actuator {name!r} in"
        for share, reason in (
            (vanishing & beyond, "its control is beyond its limit"),
            (vanishing & ~beyond, "its control has no effect within one control step"),
        ):
            if share.any():
                yield f"{lost} {_percent(share)} of the policy's states: {reason}"
        inside = found.saturated[own, j] & ~beyond
        if met.known and inside.any():
            yield (
                f"the control of actuator {name!r} is at its limit in {_percent(inside)} of the "
                "policy's states: where a policy squashes its actions, its gradient is next to "
                "zero there"
            )


def _state_notes(found: Examination) -> Iterator[str]:
    if found.kinks.any():
        yield (
            f"{_percent(found.kinks)} of states lie at a kink or a jump, where a contact or limit "
            "switches: derivatives from either side disagree, and one of them is taken"
        )
    if not found.trusted.all():
        yield (
            f"in {_percent(~found.trusted)} of states two sizes of centred differences, 5e-7 and "
            "2e-6, disagree: a contact or limit switches that near, or the step curves as strongly"
        )


def _solver_notes(found: Examination) -> Iterator[str]:
    solver = found.solver
    if solver.step.worst > _SHORT_OF_OPTIMUM:
        yield (
            f"the model's solver ({solver.name}, tolerance {solver.tolerance:.0e}) leaves the step "
            f"up to {_small(solver.step.worst)} (m, rad, per second) from its optimum, which is "
            "what is differentiated: differences of the step as it is would err by "
            f"{_pair(solver.jacobian)} (median / worst)"
        )


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Lay out columns, the first to the left, numbers to the right."""
    table = [tuple(heads), *map(tuple, rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  "
        + "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in table
    ]


def _wrapped(note: str) -> str:
    return textwrap.fill(note, 100, initial_indent="  - ", subsequent_indent="    ")


def _kind(centered: bool) -> str:
    return "centred" if centered else "one-sided"


def _pair(spread: Spread) -> str:
    return f"{_small(spread.median)} / {_small(spread.worst)}"


def _small(value: float) -> str:
    return f"{value:.0e}" if value else "0"


def _percent(share: NDArray[np.bool_]) -> str:
    return f"{100 * share.mean():.0f} %" if len(share) else "-"


def _fallbacks(fallbacks: Fallbacks) -> str:
    return f"{fallbacks.fallen} of {fallbacks.points}" if fallbacks.fallen else "none"
