"""Smoothing of contacts for the derivatives alone: the simulated step stays what it is."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import mujoco
import numpy as np

from mbrl.errors import ArgumentError
from mbrl.options import at_key, chosen
from mbrl.physics.state import StateSpec
from mbrl.types import Array, Linearization

if TYPE_CHECKING:
    from mbrl.physics.linearization import JacobianMethod

# How a method of differentiation is made for a model.
Build = Callable[[mujoco.MjModel], "JacobianMethod"]


@runtime_checkable
class Smoothing(Protocol):
    """Which A and B stand in for those of the control step; hashable, equal by its options."""

    def differentiated(
        self, model: mujoco.MjModel, build: Build, spec: StateSpec
    ) -> JacobianMethod:
        """Return the differentiation that takes the place of ``build(model)``.

        Args:
            model: the model to simulate, with its solver converged; not modified.
            build: makes the chosen method for a model.
            spec: the state space.
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImpedanceSmoothing:
    r"""A and B of the same model with softer contacts, which act from a distance.

    With gap :math:`\phi` between two geoms, a contact of MuJoCo counts from its margin m on, at the
    violation :math:`r = m - \phi > 0`, and its share in the acceleration is the impedance

    .. math:: d(r) = d_0 + (d_w - d_0)\, s(r / w), \qquad s(0) = 0, \quad s(y \ge 1) = 1,

    clipped to [1e-4, 0.9999], where s is the sigmoid of ``solimp`` (midpoint c, power p:
    :math:`s = y^p / c^{p-1}` up to c, :math:`1 - (1-y)^p / (1-c)^{p-1}` from there). As shipped,
    :math:`d_0 = 0.9`: the force jumps when geoms touch, and no derivative knows of it before. The
    differentiated copy has

    .. math:: d_0' = \min(d_0, \text{onset}), \quad w' = \max(w, \text{width}), \quad
              m' = m + \text{margin}, \quad
              \text{timeconst}' = \text{timeconst} \cdot \text{slowdown}

    (in the direct format of ``solref``, stiffness / slowdown^2 and damping / slowdown). With
    ``onset`` 0 the force sets in at the gap m' with slope zero; with ``margin`` = ``width`` it has
    risen to full impedance where the unmodified geoms would touch. Without a margin the copy's
    ground gives way by ``width`` before it holds: the small violations of the simulated states then
    lie where it hardly resists. With one, what rests on the ground is deep inside the copy's, which
    pushes with some margin / timeconst^2 instead of gravity, and holds by friction as much more
    strongly; ``slowdown`` weakens both.

    A and B are the copy's Jacobians *at the states of the unmodified simulation*: the chain rule
    evaluates every factor along the forward trajectory. They are no derivative of a rollout of the
    copy, and its next state is used for nothing. See "Smoothness and differentiability" and
    "Contact override" in MuJoCo's chapter on modeling.

    Args:
        width: least violation over which impedance rises, in metres (limits: radians or metres).
        onset: largest impedance at the onset, from 0 (smooth) to 1 (as the model has it).
        margin: distance added to the margin of every pair, in the units of ``width``; null: width.
        slowdown: factor on the time constants, at least 1.
        limits: whether the limits of joints and tendons are softened as well.

    Raises:
        ArgumentError: if a number is out of its range.
    """

    width: float = 0.005
    onset: float = 0.0
    margin: float | None = None
    slowdown: float = 1.0
    limits: bool = False

    def __post_init__(self) -> None:
        _check(self, "width", 0.0)
        _check(self, "onset", 0.0, 1.0)
        if self.margin is not None:
            _check(self, "margin", 0.0)
        _check(self, "slowdown", 1.0)

    def differentiated(
        self, model: mujoco.MjModel, build: Build, spec: StateSpec
    ) -> JacobianMethod:
        """Return the method for the softened copy."""
        return build(self.softened(model))

    def softened(self, model: mujoco.MjModel) -> mujoco.MjModel:
        """Return the copy of ``model`` that is differentiated."""
        own = copy.copy(model)
        margin = self.width if self.margin is None else self.margin
        for solimp in (own.geom_solimp, own.pair_solimp, own.flex_solimp, own.opt.o_solimp):
            self._soften(solimp)
        for solref in (own.geom_solref, own.pair_solref, own.pair_solreffriction):
            self._slow(solref)
        for solref in (own.flex_solref, own.opt.o_solref):
            self._slow(solref)
        # A pair's margin is the sum of its two geoms', except where the pair is declared.
        for share in (own.geom_margin, own.flex_margin):
            share += 0.5 * margin
        own.body_margin[own.body_geomnum > 0] += 0.5 * margin  # the largest of its geoms
        own.pair_margin += margin
        own.opt.o_margin += margin
        if self.limits:
            for solimp in (own.jnt_solimp, own.tendon_solimp_lim):
                self._soften(solimp)
            for solref in (own.jnt_solref, own.tendon_solref_lim):
                self._slow(solref)
            own.jnt_margin += margin
            own.tendon_margin += margin
        return own

    def _soften(self, solimp: Array) -> None:
        """(..., 5): d_0, d_w, width, midpoint, power."""
        solimp[..., 0] = np.minimum(solimp[..., 0], self.onset)
        solimp[..., 2] = np.maximum(solimp[..., 2], self.width)

    def _slow(self, solref: Array) -> None:
        """(..., 2): time constant and damping ratio; or minus stiffness and minus damping."""
        direct = solref[..., 0] <= 0.0
        solref[..., 0] *= np.where(direct, self.slowdown**-2, self.slowdown)
        solref[..., 1] *= np.where(direct, 1.0 / self.slowdown, 1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RandomizedSmoothing:
    r"""A and B averaged over perturbed states and controls: a bundle of N gradients.

    .. math:: \bar A = \frac{1}{N} \sum_{i=1}^N A(x \oplus \delta_i, u + \eta_i), \qquad
              \bar B = \frac{1}{N} \sum_{i=1}^N B(x \oplus \delta_i, u + \eta_i)

    with :math:`\delta_i, \eta_i` normal, in antithetic pairs (each also with the other sign, so
    what is linear in the perturbation cancels). In a Euclidean state space their expectations are
    the Jacobians of the smoothed step :math:`E[F(x \oplus \delta, u + \eta)]` wherever F is
    continuous. Where F jumps, as at the onset of a contact with ``solimp`` d_0 > 0 (MuJoCo's
    default), samples of its Jacobian miss the jump: an error of any size, which no N makes smaller.
    Matrices of states with quaternions are averaged as they stand, each in the tangent frames of
    its own sample.

    The perturbations of a row are a function of ``seed`` and of the bits of its state and control:
    the same row gets the same, in any company and at any number of threads, and different rows,
    such as the steps of one rollout, get independent ones, so that the expectation of a product of
    their matrices is the product of the expectations. Costs N times the exact linearisation.

    Suh, Pang & Tedrake, "Bundled gradients through contact via randomized smoothing", RA-L 2022;
    Pang, Suh, Yang & Tedrake, "Global planning for contact-rich manipulation via local
    smoothing of quasi-dynamic contact models", T-RO 2023.

    Args:
        samples: N, an even number.
        position_sd: standard deviation of positions in tangent space, in metres and radians.
        velocity_sd: of velocities, per second.
        activation_sd: of activations.
        control_sd: of controls; one that leaves its bounds has a column of zeros, as there.
        seed: of the perturbations.

    Raises:
        ArgumentError: if a number is out of its range.
    """

    samples: int = 16
    position_sd: float = 0.01
    velocity_sd: float = 0.0
    activation_sd: float = 0.0
    control_sd: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("position_sd", "velocity_sd", "activation_sd", "control_sd"):
            _check(self, name, 0.0)
        if not _is_integer(self.samples) or self.samples < 2 or self.samples % 2:
            raise ArgumentError(f"samples must be an even positive integer, got {self.samples!r}")
        if not _is_integer(self.seed) or not 0 <= self.seed < 2**64:
            raise ArgumentError(f"seed must be an integer from 0 to 2^64 - 1, got {self.seed!r}")

    def differentiated(
        self, model: mujoco.MjModel, build: Build, spec: StateSpec
    ) -> JacobianMethod:
        """Return the average over perturbations of the method for ``model``."""
        exact = build(model)
        return _Bundle(self, exact, spec) if self._deviations(spec).any() else exact

    def perturbations(self, state: Array, ctrl: Array, spec: StateSpec) -> Array:
        """Return one of each antithetic pair, [samples / 2, B, ndx + nu].

        Args:
            state: [B, nx].
            ctrl: [B, nu].
            spec: the state space.
        """
        rows = np.concatenate([state, ctrl], axis=1) + 0.0  # no negative zeros: equal to zero
        size = (self.samples // 2, spec.ndx + spec.nu)
        noise = np.empty((size[0], len(rows), size[1]))
        for row, values in enumerate(rows):
            key = self.seed.to_bytes(8, "little") + values.tobytes()
            digest = hashlib.blake2b(key, digest_size=16).digest()
            bits = np.random.Philox(key=np.frombuffer(digest, dtype=np.uint64))
            noise[:, row] = np.random.Generator(bits).standard_normal(size)
        return noise * self._deviations(spec)

    def _deviations(self, spec: StateSpec) -> Array:
        """Standard deviations of [dq, dv, da, du], (ndx + nu)."""
        parts = self.position_sd, self.velocity_sd, self.activation_sd, self.control_sd
        return np.repeat(parts, (spec.nv, spec.nv, spec.na, spec.nu)).astype(np.float64)


class _Bundle:
    """The average of a method's results over perturbed arguments."""

    def __init__(self, options: RandomizedSmoothing, method: JacobianMethod, spec: StateSpec):
        self._options, self._method, self._spec = options, method, spec

    @property
    def fallbacks(self) -> Mapping[str, int]:
        """What the method counts, if it does."""
        counted: Mapping[str, int] = getattr(self._method, "fallbacks", {})
        return counted

    def __call__(
        self, state: Array, ctrl: Array, *, eps: float | None, centered: bool
    ) -> Linearization:
        """Linearise around states [B, nx] and controls [B, nu]."""
        spec = self._spec
        a = np.zeros((len(state), spec.ndx, spec.ndx))
        b = np.zeros((len(state), spec.ndx, spec.nu))
        # One sample of all rows at a time: as much memory as without, and rows keep their numbers.
        for moved in self._options.perturbations(state, ctrl, spec):
            for signed in (moved, -moved):
                one = self._method(
                    spec.retract(state, signed[:, : spec.ndx]),
                    ctrl + signed[:, spec.ndx :],
                    eps=eps,
                    centered=centered,
                )
                a += one.A
                b += one.B
        return Linearization(a / self._options.samples, b / self._options.samples)


def smoothing_of(
    value: Smoothing | Mapping[str, Any] | None, where: str = "smoothing"
) -> Smoothing | None:
    """Return the smoothing that an object or ``{kind: name, **options}`` stands for.

    Args:
        value: a smoothing, its options, or None: none.
        where: the key or argument that it comes from, for messages.

    Raises:
        ConfigError: if there is no such kind, or an option does not fit.
        ArgumentError: if it is something else, or a number is out of its range.
    """
    if value is None or (isinstance(value, Smoothing) and not isinstance(value, type)):
        return value
    if not isinstance(value, Mapping):
        raise ArgumentError(
            f"{where} must be a mapping with the key kind, a smoothing, or None, got {value!r}"
        )
    options = chosen(SMOOTHINGS, value, where)
    kind = SMOOTHINGS[options.pop("kind")]
    with at_key(where, kind):
        made: Smoothing = kind(**options)
        return made


def _check(options: Any, name: str, low: float, high: float = float("inf")) -> None:
    """Refuse an option that is not a finite number from ``low`` to ``high``."""
    value = getattr(options, name)
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not low <= value <= high or value == float("inf"):
        legal = f"lie between {low} and {high}" if high < float("inf") else f"be at least {low}"
        raise ArgumentError(f"{name} must {legal}, and finite, got {value!r}")


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


SMOOTHINGS: dict[str, Callable[..., Any]] = {
    "impedance": ImpedanceSmoothing,
    "randomized": RandomizedSmoothing,
}
