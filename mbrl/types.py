"""Shared vocabulary: the tuples and protocols that rooms pass to each other.

Shapes: B batch, T steps, nx = nq + nv + na (state), ndx = 2 nv + na (tangent space), nu (control).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

Array: TypeAlias = NDArray[np.float64]
Space: TypeAlias = Literal["observations", "states"]  # what data or a model are of
# What is seen inside an update, by name: a number [], one a step [T], or several a step [T, n].
Diagnostics: TypeAlias = Mapping[str, Array]


class Linearization(NamedTuple):
    """First-order model dy = A dx + B du of a map in tangent space; of a control step dy = ndx."""

    A: Array  # (B, dy, ndx)
    B: Array  # (B, dy, nu)


class SensorLinearization(NamedTuple):
    """Jacobians of sensor values in tangent space: dy = C dx + D du."""

    C: Array  # [B, nsensordata, ndx]
    D: Array  # [B, nsensordata, nu]


class ParametricLinearization(NamedTuple):
    """First-order model dx' = A dx + B du + Theta dp of a control step, p parameters of a model."""

    A: Array  # (B, ndx, ndx)
    B: Array  # (B, ndx, nu)
    Theta: Array  # (B, ndx, P)


class Transition(NamedTuple):
    """What one control step of a task gives."""

    next_state: torch.Tensor  # (B, nx)
    reward: torch.Tensor  # (B,)
    observation: torch.Tensor  # (B, n_obs)
    terminated: torch.Tensor  # (B,) bool


class Transitions(NamedTuple):
    """Samples of a dynamics, N of them, in no order that matters; states may be observations."""

    states: torch.Tensor  # (N, n)
    actions: torch.Tensor  # (N, nu)
    next_states: torch.Tensor  # (N, n)
    rewards: torch.Tensor | None = None  # (N,)


class Start(NamedTuple):
    """Where episodes begin."""

    state: torch.Tensor  # (B, nx)
    context: torch.Tensor  # (B, n): goals and the like, constant in an episode; n may be 0


class Draw(NamedTuple):
    """One sample of a stochastic policy, as a score function needs it; nothing flows back."""

    policy: Any  # that drew it
    t: int  # index of the step in its episode
    observation: torch.Tensor  # (B, width)
    sample: torch.Tensor  # (B, nu), before it is squashed into the control range


class Part(NamedTuple):
    """The rows of a batch that one of several processes has."""

    rows: range  # which of the whole
    total: int  # how many the whole has


class Step(NamedTuple):
    """What nodes and policies may use while they run, beside their inputs.

    ``draws``, ``gain`` and ``replay`` serve estimators of gradients
    (``mbrl.algorithms.estimators``).
    """

    t: int = 0  # index of the step in its episode
    generator: torch.Generator | None = None  # noise; None: none wanted
    context: torch.Tensor | None = None  # (B, n): see Start
    draws: list[Draw] | None = None  # where stochastic policies note what they drew
    # Factor on the gradient that reaches a policy's parameters through the action of step t, (nu)
    # or a number; what reaches its observation is untouched.
    gain: Callable[[Any, int], torch.Tensor | float] | None = None
    replay: torch.Tensor | None = None  # (T, nu): samples that row 0 repeats instead of drawing
    start: int = 0  # index of the first step of the unrolling: before it, nothing is remembered
    part: Part | None = None  # where processes share a batch


class Trajectory(NamedTuple):
    """An unrolled computation graph; a row that ended keeps its last state and earns nothing."""

    states: torch.Tensor  # (T+1, B, nx)
    actions: torch.Tensor  # (T, B, nu)
    rewards: torch.Tensor  # (T, B)
    alive: torch.Tensor  # (T, B) bool: the row was still running when step t was taken
    values: Mapping[str, torch.Tensor]  # every other value asked for, (T, B, ...); mask by alive


class OpenLoop(NamedTuple):
    """What a model makes of a trajectory when it is told its first state and all actions."""

    observed: Array  # (T+1, n)
    predicted: Array  # (T+1, n); the first row is the observed one
    dt: float | None  # seconds of a step; None: steps take no time
    names: Sequence[str] | None = None  # of the columns


class RecordedEpisode(NamedTuple):
    """What it takes to play an episode of the real environment again, bit for bit."""

    seed: int  # that it was reset with
    actions: Array  # (T, nu)


class Curve(NamedTuple):
    """A line with a band around it."""

    label: str  # in the legend
    x: Array  # (n)
    mean: Array  # (n)
    low: Array  # (n)
    high: Array  # (n)


class Panel(NamedTuple):
    """Curves that share their axes."""

    title: str
    x_label: str
    y_label: str
    curves: Sequence[Curve]
    x: float | None = None  # base of the logarithm that an axis is scaled by; None: linear
    y: float | None = None


class Chart(NamedTuple):
    """Results as a picture and as a table: panels side by side, columns of equal length."""

    name: str  # of the files
    panels: Sequence[Panel]
    columns: Mapping[str, Sequence[str | float]]


class Exhibits(NamedTuple):
    """What is worth showing of an update."""

    open_loop: OpenLoop | None = None
    episode: RecordedEpisode | None = None
    chart: Chart | None = None


class Dynamics(Protocol):
    """A differentiable map (state [B,nx], action [B,nu]) -> next state [B,nx]."""

    def __call__(self, state: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        """Advance every row by one control step: [B, nx], [B, nu] -> [B, nx]."""
