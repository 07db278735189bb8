"""Running normalisation of observations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_MEMORY = 5000  # samples that the statistics remember
_TINY_DEVIATION = 1e-6


class RunningNormalizer(nn.Module):
    r"""o -> (o - m) / (s + 1e-6) with running mean m and deviation s.

    :meth:`update` gathers statistics, :meth:`refresh` puts them to use: called at the start of an
    update of the policy, it makes m and s constants of that update, and a policy is evaluated with
    the very m and s that it was trained with. The past weighs as much as its samples, at most 5000,
    so that observations of an untrained policy are forgotten. Until the first refresh, and for
    coordinates that never varied, observations pass unscaled.

    Args:
        size: width of an observation.
    """

    mean: Tensor
    scale: Tensor
    next_mean: Tensor
    next_variance: Tensor
    count: Tensor

    def __init__(self, size: int):
        super().__init__()
        for name in ("mean", "next_mean", "next_variance"):
            self.register_buffer(name, torch.zeros(size, dtype=torch.float64))
        self.register_buffer("scale", torch.ones(size, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def forward(self, observation: Tensor) -> Tensor:
        """[..., size] -> [..., size] float64."""
        return (observation - self.mean) / self.scale

    @torch.no_grad()
    def update(self, observations: Tensor) -> None:
        """Pool the gathered statistics with those of [n, size]; an empty batch is ignored."""
        n = len(observations)
        if n == 0:
            return
        new = observations.to(torch.float64)
        mean, variance = new.mean(0), new.var(0, unbiased=False)
        share = n / (self.count.clamp(max=_MEMORY) + n)
        shift = mean - self.next_mean
        # Pooled second moment about the pooled mean; no difference of large squares.
        self.next_variance.copy_(
            (1 - share) * self.next_variance + share * variance + share * (1 - share) * shift**2
        )
        self.next_mean.add_(share * shift)
        self.count.add_(n)

    @torch.no_grad()
    def refresh(self) -> None:
        """Use the statistics gathered so far."""
        self.mean.copy_(self.next_mean)
        deviation = self.next_variance.sqrt()
        varied = deviation > _TINY_DEVIATION
        self.scale.copy_(torch.where(varied, deviation + _TINY_DEVIATION, 1.0))
