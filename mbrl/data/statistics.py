"""How large observations, actions and changes are: what a model of the dynamics works in."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from mbrl.data.trajectories import Transitions
from mbrl.errors import ArgumentError, suggestion

_EPS = 1e-7

Rule = Literal["frozen", "updated"]


class Statistics(NamedTuple):
    r"""Means :math:`\mu` and deviations :math:`\sigma` of inputs (o, u) and of changes o' - o.

    A network f takes and gives normalised numbers, and a model predicts with it

    .. math:: z = \frac{(o, u) - \mu}{\sigma + 10^{-7}}, \qquad
              y = \frac{(o' - o) - \mu_d}{\sigma_d + 10^{-7}} \approx f(z), \qquad
              \hat o' = o + \sigma_d f(z) + \mu_d

    as in Nagabandi et al., Neural Network Dynamics for Model-Based Deep Reinforcement Learning with
    Model-Free Fine-Tuning (2018), section IV. The way back has no :math:`10^{-7}`, so that what
    never changed in the data is predicted never to change.
    """

    input_mean: Tensor  # [n_obs + nu]
    input_deviation: Tensor  # [n_obs + nu]
    change_mean: Tensor  # [n_obs]
    change_deviation: Tensor  # [n_obs]

    @classmethod
    def of(cls, transitions: Transitions) -> Statistics:
        """Return the statistics of all steps, deviations with the divisor N.

        Raises:
            ArgumentError: if there is no step.
        """
        observations, actions, following = transitions
        if not len(observations):
            raise ArgumentError("statistics need at least one step")
        inputs = torch.cat([observations, actions], dim=-1)
        changes = following - observations
        return cls(
            inputs.mean(0),
            inputs.std(0, correction=0),
            changes.mean(0),
            changes.std(0, correction=0),
        )

    def inputs(self, observations: Tensor, actions: Tensor) -> Tensor:
        """Return normalised inputs z: [..., n_obs], [..., nu] -> [..., n_obs + nu]."""
        joint = torch.cat([observations, actions], dim=-1)
        return (joint - self.input_mean) / (self.input_deviation + _EPS)

    def targets(self, observations: Tensor, next_observations: Tensor) -> Tensor:
        """Return normalised changes y: [..., n_obs], [..., n_obs] -> [..., n_obs]."""
        changes = next_observations - observations
        return (changes - self.change_mean) / (self.change_deviation + _EPS)

    def prediction(self, observations: Tensor, outputs: Tensor) -> Tensor:
        """Return next observations by outputs f(z): [..., n_obs], [..., n_obs] -> [..., n_obs]."""
        return observations + outputs * self.change_deviation + self.change_mean

    def to(self, like: Tensor) -> Statistics:
        """Return them in the precision and on the device of a tensor."""
        return Statistics(*(part.to(like) for part in self))

    def state_dict(self) -> dict[str, Tensor]:
        """Return the four tensors by name."""
        return {name: part.clone() for name, part in self._asdict().items()}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Tensor]) -> Statistics:
        """Return what :meth:`state_dict` was asked of."""
        return cls(*(state[name].clone() for name in cls._fields))


def revised(previous: Statistics | None, transitions: Transitions, rule: Rule) -> Statistics:
    """Return the statistics to go on with when data have come.

    Args:
        previous: those so far; None: there are none yet.
        transitions: all data.
        rule: ``frozen`` keeps those of the first data (Nagabandi et al.), so that the network's
            inputs and targets mean the same for good; ``updated`` takes them of all data.

    Raises:
        ArgumentError: on another rule, or no data.
    """
    if rule not in ("frozen", "updated"):
        raise ArgumentError(f"rule: unknown value {rule!r}; {suggestion(rule, get_args(Rule))}")
    if rule == "frozen" and previous is not None:
        return previous
    return Statistics.of(transitions)
