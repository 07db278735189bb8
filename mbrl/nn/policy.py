"""Policies: maps from observations to actions inside the control range."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mbrl.nn.mlp import MLP, Activation, DType
from mbrl.nn.normalizer import RunningNormalizer
from mbrl.nn.squash import Squash
from mbrl.types import Step

FIRST = Step()  # the first step, without noise


class Policy(nn.Module):
    """Base of all policies: observation [B, n_obs] -> action [B, nu].

    A policy is built from sizes and bounds alone, knows no simulator, and is a pure function of its
    arguments: noise comes from the generator of the step that it is given.

    Args:
        observation_size: n_obs.
        action_low: [nu].
        action_high: [nu].
        generator: where initial weights are drawn from.
    """

    normalizer: RunningNormalizer | None
    uses_time: bool = False  # whether actions depend on the index of the step

    def __init__(self) -> None:
        super().__init__()
        self.normalizer = None  # not on the class: it would hide a module of that name

    def forward(self, observation: Tensor, step: Step = FIRST) -> Tensor:
        """Return actions [B, nu] float64; without a generator in ``step``, the noise-free ones."""
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
            len(action_low),
            generator,
            hidden=hidden,
            activation=activation,
            output_scale=output_scale,
            dtype=dtype,
        )

    def forward(self, observation: Tensor, step: Step = FIRST) -> Tensor:
        """Return actions [B, nu] float64."""
        if self.normalizer is not None:
            observation = self.normalizer(observation)
        return self.squash(self.network(observation).to(torch.float64))


def act(policy: Policy, observation: Tensor, step: Step) -> Tensor:
    r"""Return a policy's actions [B, nu], honouring the gain of ``step``.

    With a gain g, the action and what flows back into the observation are unchanged, and what flows
    back into the policy's parameters is multiplied by g:

    .. math:: du = \partial_o \pi \; do + g \; \partial_\theta \pi \; d\theta.
    """
    if step.gain is None:
        action: Tensor = policy(observation, step)
        return action
    noise = None if step.generator is None else step.generator.get_state()
    frozen = {name: parameter.detach() for name, parameter in policy.named_parameters()}
    seen: Tensor = torch.func.functional_call(
        policy, frozen, (observation, step._replace(draws=None))
    )
    if step.generator is not None and noise is not None:
        step.generator.set_state(noise)  # the same noise again
    made: Tensor = policy(observation.detach(), step)
    return seen + step.gain(policy, step.t) * (made - made.detach())
