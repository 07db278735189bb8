"""Policies: maps from observations to actions inside the control range."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mbrl.nn.mlp import MLP, Activation, DType
from mbrl.nn.normalizer import RunningNormalizer
from mbrl.nn.squash import Squash, soft_lower_bound

# Log deviations of the action noise, in units of half the control range.
_LOWEST_LOG_SD, _LOG_SD_THRESHOLD = -9.0, -7.0


class Policy(nn.Module):
    """Base of all policies: observation [B, n_obs] -> action [B, nu].

    A policy is built from sizes and bounds alone, knows no simulator, and is a pure function of its
    arguments: noise comes from the generator it is given.

    Args:
        observation_size: n_obs.
        action_low: [nu].
        action_high: [nu].
        generator: where initial weights are drawn from.
    """

    normalizer: RunningNormalizer | None

    def __init__(self) -> None:
        super().__init__()
        self.normalizer = None  # not on the class: it would hide a module of that name

    def forward(self, observation: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return actions [B, nu] float64; without a generator, the noise-free ones."""
        raise NotImplementedError


class DeterministicMLP(Policy):
    r"""u = squash(f(normalise(o))), f an MLP.

    Args:
        observation_size: n_obs.
        action_low: [nu].
        action_high: [nu].
        generator: where initial weights are drawn from.
        hidden: widths of the hidden layers.
        activation: the nonlinearity.
        normalize: whether observations are normalised by running statistics. Worth it where their
            scales differ by orders of magnitude; it moves the policy a little at every update.
        output_scale: factor on the last layer's initial weights; small: actions start near the
            middle of their range.
        dtype: precision of the network.
    """

    def __init__(
        self,
        observation_size: int,
        action_low: Tensor,
        action_high: Tensor,
        generator: torch.Generator,
        *,
        hidden: Sequence[int] = (64, 64),
        activation: Activation = "tanh",
        normalize: bool = False,
        output_scale: float = 0.1,
        dtype: DType = "float32",
    ):
        super().__init__()
        self.normalizer = RunningNormalizer(observation_size) if normalize else None
        self.squash = Squash(action_low, action_high)
        self.network = MLP(
            observation_size,
            self._outputs(len(action_low)),
            generator,
            hidden=hidden,
            activation=activation,
            output_scale=output_scale,
            dtype=dtype,
        )

    def forward(self, observation: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return actions [B, nu] float64."""
        return self.squash(self._raw(observation))

    def _raw(self, observation: Tensor) -> Tensor:
        if self.normalizer is not None:
            observation = self.normalizer(observation)
        return self.network(observation).to(torch.float64)

    def _outputs(self, action_size: int) -> int:
        return action_size


class GaussianMLP(DeterministicMLP):
    r"""Reparameterised Gaussian :math:`u = \mathrm{squash}(\mu(o) + h \sigma(o) \xi)`.

    The noise xi ~ N(0, I) is an input, so that gradients pass through mu and sigma.

    The network gives the mean and the log deviation; deviations are in units of h, half the control
    range (1 where unbounded), and bounded below smoothly (Kingma and Welling 2014, section 2.4).

    Args:
        observation_size: n_obs.
        action_low: [nu].
        action_high: [nu].
        generator: where initial weights are drawn from.
        initial_sd: deviation at the start, in units of half the control range.
        hidden: see :class:`DeterministicMLP`, as for all that follow.
        activation: the nonlinearity.
        normalize: whether observations are normalised by running statistics.
        output_scale: factor on the last layer's initial weights.
        dtype: precision of the network.
    """

    def __init__(
        self,
        observation_size: int,
        action_low: Tensor,
        action_high: Tensor,
        generator: torch.Generator,
        *,
        initial_sd: float = 0.1,
        hidden: Sequence[int] = (64, 64),
        activation: Activation = "tanh",
        normalize: bool = False,
        output_scale: float = 0.1,
        dtype: DType = "float32",
    ):
        super().__init__(
            observation_size,
            action_low,
            action_high,
            generator,
            hidden=hidden,
            activation=activation,
            normalize=normalize,
            output_scale=output_scale,
            dtype=dtype,
        )
        bias: Any = self.network[-1].bias
        with torch.no_grad():
            bias[len(action_low) :] = float(torch.tensor(initial_sd).log())

    def forward(self, observation: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Return actions [B, nu] float64: sampled with a generator, the squashed mean without."""
        mean, log_sd = self._raw(observation).chunk(2, dim=-1)
        if generator is None:
            return self.squash(mean)
        sd = soft_lower_bound(log_sd, _LOWEST_LOG_SD, _LOG_SD_THRESHOLD).exp() * self.squash.unit
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
        return self.squash(mean + sd * noise)

    def _outputs(self, action_size: int) -> int:
        return 2 * action_size
