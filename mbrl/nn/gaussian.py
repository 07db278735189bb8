"""Gaussian policies, whose noise is an input: reparameterised, with densities."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from mbrl.errors import ArgumentError
from mbrl.nn.mlp import MLP, Activation, DType
from mbrl.nn.normalizer import RunningNormalizer
from mbrl.nn.policy import FIRST, Policy
from mbrl.nn.squash import Squash, soft_lower_bound
from mbrl.types import Draw, Step

# Log deviations of the action noise, in units of half the control range.
_LOWEST_LOG_SD, _LOG_SD_THRESHOLD = -9.0, -7.0
Deviation = Literal["network", "constant", "per_step"]


def standard_normal(step: Step, like: Tensor) -> Tensor:
    """Draw noise of the shape [B, ...] and dtype of ``like`` from the generator of a step.

    Where processes share a batch, that of the whole batch is drawn, and the rows here get theirs:
    noise belongs to a row, whoever has it.
    """
    rows, total = step.part or (range(len(like)), len(like))
    shape = total, *like.shape[1:]
    drawn = torch.randn(shape, generator=step.generator, dtype=like.dtype)
    return drawn[rows.start : rows.stop : rows.step]


class GaussianPolicy(Policy):
    r"""Base of Gaussians :math:`u = \mathrm{squash}(z), z = \mu + h \sigma \xi`.

    The noise xi ~ N(0, I) is an input, so that gradients pass through mu and sigma (Kingma and
    Welling 2014, section 2.4). Deviations are in units of h, half the control range (1 where
    unbounded), and bounded below smoothly. Subclasses say what mu and sigma are.
    """

    squash: Squash

    def moments(self, observation: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of z, [B, nu] float64 each; both must be differentiable.

        Args:
            observation: [B, width].
            t: index of the step.
        """
        raise NotImplementedError

    def deviation_at(self, t: int) -> Tensor | None:
        """Return sigma h of step t, [nu], where no observation changes it; else None."""
        return None

    def forward(self, observation: Tensor, step: Step = FIRST) -> Tensor:
        """Return actions [B, nu] float64: sampled with a generator, the squashed mean without."""
        mean, sd = self.moments(observation, step.t)
        if step.generator is None:
            return self.squash(mean)
        noise = standard_normal(step, mean)
        replay = step.replay if step.part is None or 0 in step.part.rows else None
        if replay is not None:
            again = ((replay[step.t] - mean[:1]) / sd[:1]).detach()
            noise = torch.cat([again, noise[1:]])
        sample = mean + sd * noise
        if replay is not None:
            # Without the rounding of the way there and back, so that it repeats bit for bit.
            first = replay[step.t] + (sample[:1] - sample[:1].detach())
            sample = torch.cat([first, sample[1:]])
        if step.draws is not None:
            step.draws.append(Draw(self, step.t, observation.detach(), sample.detach()))
        return self.squash(sample)

    def log_prob(self, observation: Tensor, sample: Tensor, t: int) -> Tensor:
        """Return the log density of each entry of z = ``sample`` [B, nu], [B, nu]."""
        mean, sd = self.moments(observation, t)
        residual = (sample - mean) / sd
        return -0.5 * residual.square() - sd.log() - 0.5 * math.log(2 * math.pi)

    def _deviation(self, log_sd: Tensor) -> Tensor:
        return soft_lower_bound(log_sd, _LOWEST_LOG_SD, _LOG_SD_THRESHOLD).exp() * self.squash.unit


class GaussianMLP(GaussianPolicy):
    r"""Gaussian with :math:`\mu = f(\mathrm{normalise}(o))`, f an MLP.

    Args:
        observation_size: n_obs.
        action_low: [nu].
        action_high: [nu].
        generator: where initial weights are drawn from.
        initial_sd: deviation at the start, in units of half the control range.
        deviation: what sigma is: an output of the network, a constant parameter, or a parameter
            per step of the episode.
        steps: how many steps have deviations of their own (per_step); later ones share the last.
        hidden: see :class:`DeterministicMLP`, as for all that follow.
        activation: the nonlinearity.
        normalize: whether observations are normalised by running statistics.
        output_scale: factor on the last layer's initial weights.
        dtype: precision of the network.

    Raises:
        ArgumentError: if ``initial_sd`` is not positive, or ``steps`` does not fit.
    """

    def __init__(
        self,
        observation_size: int,
        action_low: Tensor,
        action_high: Tensor,
        generator: torch.Generator,
        *,
        initial_sd: float = 0.1,
        deviation: Deviation = "network",
        steps: int | None = None,
        hidden: Sequence[int] = (64, 64),
        activation: Activation = "tanh",
        normalize: bool = False,
        output_scale: float = 0.1,
        dtype: DType = "float32",
    ):
        super().__init__()
        _check_positive("initial_sd", initial_sd)
        if (deviation == "per_step") != (steps is not None) or (steps is not None and steps < 1):
            raise ArgumentError(
                f"steps must be a positive number with deviation: per_step, and null otherwise; "
                f"got {steps} with {deviation}"
            )
        size = len(action_low)
        self.normalizer = RunningNormalizer(observation_size) if normalize else None
        self.squash = Squash(action_low, action_high)
        self.network = MLP(
            observation_size,
            2 * size if deviation == "network" else size,
            generator,
            hidden=hidden,
            activation=activation,
            output_scale=output_scale,
            dtype=dtype,
        )
        start = math.log(initial_sd)
        if deviation == "network":
            bias: Any = self.network[-1].bias
            with torch.no_grad():
                bias[size:] = start
            self.log_sd = None
        else:
            self.uses_time = deviation == "per_step"
            shape = (steps or 1, size)
            self.log_sd = nn.Parameter(torch.full(shape, start, dtype=torch.float64))

    def moments(self, observation: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of z, [B, nu] float64 each."""
        if self.normalizer is not None:
            observation = self.normalizer(observation)
        raw = self.network(observation).to(torch.float64)
        sd = self.deviation_at(t)
        if sd is None:
            mean, log_sd = raw.chunk(2, dim=-1)
            return mean, self._deviation(log_sd)
        return raw, sd.expand_as(raw)

    def deviation_at(self, t: int) -> Tensor | None:
        """Return sigma h of step t, [nu], unless it is an output of the network."""
        if self.log_sd is None:
            return None
        return self._deviation(self.log_sd[min(t, len(self.log_sd) - 1)])


class OpenLoop(GaussianPolicy):
    r"""A trajectory of actions: one free parameter vector per step, whatever is observed.

    .. math:: u_t = \mathrm{squash}(M_t + h \Sigma_t \xi_t), \qquad t < H.

    Trajectory optimisation is the training of this policy (Model-Based-RL's TrajOpt).

    Args:
        observation_size: n_obs; not used.
        action_low: [nu].
        action_high: [nu].
        generator: where the initial trajectory is drawn from.
        steps: H.
        initial_spread: deviation of the random initial actions about the middle of their range, in
            units of half the control range.
        initial_sd: deviation Sigma at the start, in the same units; null: none, ever.
        after: what follows the last action: it is held, or the trajectory repeats.

    Raises:
        ArgumentError: if a number is out of its range.
    """

    uses_time = True

    def __init__(
        self,
        observation_size: int,
        action_low: Tensor,
        action_high: Tensor,
        generator: torch.Generator,
        *,
        steps: int,
        initial_spread: float = 0.1,
        initial_sd: float | None = None,
        after: Literal["hold", "repeat"] = "hold",
    ):
        super().__init__()
        if steps < 1:
            raise ArgumentError(f"steps must be at least 1, got {steps}")
        if initial_spread < 0:
            raise ArgumentError(f"initial_spread must not be negative, got {initial_spread}")
        self.squash = Squash(action_low, action_high)
        self._repeats = after == "repeat"
        shape = (steps, len(action_low))
        drawn = torch.randn(shape, generator=generator, dtype=torch.float64)
        self.mean = nn.Parameter(initial_spread * self.squash.unit * drawn)
        self.log_sd = None
        if initial_sd is not None:
            _check_positive("initial_sd", initial_sd)
            start = torch.full(shape, math.log(initial_sd), dtype=torch.float64)
            self.log_sd = nn.Parameter(start)

    def moments(self, observation: Tensor, t: int) -> tuple[Tensor, Tensor]:
        """Return mean and deviation of z, [B, nu] float64 each."""
        sd, shape = self.deviation_at(t), (len(observation), -1)
        if sd is None:
            raise ArgumentError("the open-loop policy has no deviations: give it an initial_sd")
        return self.mean[self._row(t)].expand(shape), sd.expand(shape)

    def deviation_at(self, t: int) -> Tensor | None:
        """Return Sigma h of step t, [nu], if there are deviations."""
        return None if self.log_sd is None else self._deviation(self.log_sd[self._row(t)])

    def forward(self, observation: Tensor, step: Step = FIRST) -> Tensor:
        """Return actions [B, nu] float64."""
        if self.log_sd is None:
            return self.squash(self.mean[self._row(step.t)].expand(len(observation), -1))
        return super().forward(observation, step)

    def _row(self, t: int) -> int:
        return t % len(self.mean) if self._repeats else min(t, len(self.mean) - 1)


def _check_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ArgumentError(f"{name} must be positive, got {value}")
