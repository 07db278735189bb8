"""Running normalisation of observations."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_MEMORY = 5000  # samples that the statistics remember
_TINY_DEVIATION = 1e-6


class RunningNormalizer(nn.Module):
    r"""o -> (o - m) / (s + 1e-6) with running mean m and deviation s.

    Statistics change only in :meth:`update`, between updates of the policy, and are constants to
    autograd. The past weighs as much as its samples, at most 5000, so that observations of an
    untrained policy are forgotten. Until the first update, and for coordinates that never varied,
    observations pass unscaled.

    Args:
        size: width of an observation.
    """

    mean: Tensor
    variance: Tensor
    count: Tensor

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("mean", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("variance", torch.zeros(size, dtype=torch.float64))
        self.register_buffer("count", torch.zeros((), dtype=torch.float64))

    def forward(self, observation: Tensor) -> Tensor:
        """[..., size] -> [..., size] float64."""
        deviation = self.variance.sqrt()
        scale = torch.where(deviation > _TINY_DEVIATION, deviation + _TINY_DEVIATION, 1.0)
        return (observation - self.mean) / scale

    @torch.no_grad()
    def update(self, observations: Tensor) -> None:
        """Pool the statistics with those of new observations [n, size]; ignores an empty batch."""
        n = len(observations)
        if n == 0:
            return
        new = observations.to(torch.float64)
        new_mean, new_variance = new.mean(0), new.var(0, unbiased=False)
        old = self.count.clamp(max=_MEMORY)
        share = n / (old + n)
        shift = new_mean - self.mean
        # Pooled second moment about the pooled mean; no difference of large squares.
        self.variance.copy_(
            (1 - share) * self.variance + share * new_variance + share * (1 - share) * shift**2
        )
        self.mean.add_(share * shift)
        self.count.add_(n)
