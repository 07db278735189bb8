"""Policies of S seeds whose actions are squashed Gaussians, and their derivatives written out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mbrl.nn import FlatMLP, Parameters, Tape

_LOG_STD = -10.0, 2.0  # the bounds of a deviation's logarithm


class Sample(NamedTuple):
    """Actions of a batch, and what their derivative takes."""

    action: Tensor  # (S, B, nu), in (-1, 1)
    log_prob: Tensor  # (S, B)
    scaled: Tensor  # (S, B, nu): sigma xi
    tape: Tape


class TanhGaussian:
    r"""A reparameterised policy in (-1, 1) (Haarnoja et al. 2018, appendix C).

    .. math:: a = \tanh z, \qquad z = \mu(s) + \sigma(s) \xi, \qquad \xi \sim N(0, I), \qquad
              \log \pi(a | s) = \log N(z; \mu, \sigma^2) - \sum_j \log (1 - a_j^2)

    with the logarithm of sigma clipped to [-10, 2].

    Args:
        observation_size: n.
        action_size: nu.
        hidden: widths of the hidden layers.

    Attributes:
        network: the shape of its parameters phi.
    """

    def __init__(self, observation_size: int, action_size: int, *, hidden: Sequence[int]):
        self._size = action_size
        self.network = FlatMLP(observation_size, 2 * action_size, hidden=hidden)

    def mean_action(self, phi: Parameters, observation: Tensor) -> Tensor:
        """Return tanh(mu), [S, B, n] -> [S, B, nu]."""
        return self.network.output(phi, observation)[..., : self._size].tanh()

    def sample(self, phi: Parameters, observation: Tensor, noise: Tensor) -> Sample:
        """Return the actions for observations [S, B, n] and noise xi [S, B, nu]."""
        tape = self.network.forward(phi, observation)
        mean, raw = tape.output.split(self._size, -1)
        log_std = raw.clamp(*_LOG_STD)
        scaled = log_std.exp().mul_(noise)
        z = mean + scaled
        # log(1 - tanh(z)^2), where tanh(z) may be rounded to 1.
        slope = 2 * (math.log(2) - z - torch.nn.functional.softplus(-2 * z))
        each = 0.5 * noise.square() + log_std + slope + 0.5 * math.log(2 * math.pi)
        return Sample(z.tanh(), -each.sum(-1), scaled, tape)

    def gradient(
        self, phi: Parameters, sample: Sample, action: Tensor, log_prob: Tensor, out: Parameters
    ) -> None:
        r"""Write the gradient of :math:`\langle u, a \rangle + \langle v, \log \pi \rangle`.

        Args:
            phi: parameters of the sample.
            sample: the sample; its noise is constant.
            action: u, [S, B, nu].
            log_prob: v, of a shape that broadcasts to [S, B].
            out: where the gradient by phi goes.
        """
        a, v = sample.action, log_prob[..., None]
        raw = sample.tape.output[..., self._size :]
        by_z = (1 - a.square()).mul_(action).add_(2 * v * a)
        inside = (raw >= _LOG_STD[0]) & (raw <= _LOG_STD[1])
        by_log_std = (by_z * sample.scaled - v).mul_(inside)
        self.network.gradient(phi, sample.tape, torch.cat([by_z, by_log_std], -1), out)
