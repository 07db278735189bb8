"""Gaussian noise whose power falls with frequency."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def colored_noise(beta: float, shape: Sequence[int], generator: torch.Generator) -> Tensor:
    r"""Return noise of unit variance with power spectrum :math:`S(f) \propto f^{-\beta}` in time.

    Its Fourier coefficients are drawn, complex Gaussian (Timmer and König 1995, "On generating
    power law noise"): beta = 0 is white, 2 a random walk's spectrum. Frequency zero has the power
    of the lowest one, 1 / T. Every step has variance 1 exactly; steps far apart are correlated, as
    the sequence is a period of a periodic one.

    Args:
        beta: at least 0.
        shape: [T, ...]; time first, the other entries are independent.
        generator: where the coefficients come from.
    """
    steps = shape[0]
    index = torch.arange(steps // 2 + 1, dtype=torch.float64)
    amplitude = index.clamp(min=1) ** (-0.5 * beta)
    real = index % steps == 0  # a real sequence's coefficients without imaginary part
    real |= 2 * index == steps
    # Parseval: what is not real stands for two conjugate frequencies.
    variance = (amplitude**2 * torch.where(real, 1.0, 2.0)).sum()
    amplitude = (amplitude / variance.sqrt()).reshape(-1, *[1] * (len(shape) - 1))
    drawn = torch.randn((2, len(index), *shape[1:]), generator=generator, dtype=torch.float64)
    paired = torch.complex(drawn[0], drawn[1]) * 0.5**0.5
    real = real.reshape(amplitude.shape)
    spectrum = amplitude * torch.where(real, drawn[0].to(paired.dtype), paired)
    return torch.fft.irfft(spectrum, n=steps, dim=0, norm="forward")
