"""Coloured noise: its variance, its spectrum, its independence."""

import numpy as np
import pytest
import torch

from mbrl.planning.colored_noise import colored_noise


def draw(beta: float, *shape: int, seed: int = 0) -> np.ndarray:
    return colored_noise(beta, shape, torch.Generator().manual_seed(seed)).numpy()


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("steps", [1, 2, 3, 16, 25])
def test_every_step_has_unit_variance(beta, steps):
    n = 40_000
    noise = draw(beta, steps, n)
    error = 5 * np.sqrt(2 / n)  # five standard errors of a Gaussian's variance
    np.testing.assert_allclose((noise**2).mean(1), 1, atol=error)
    np.testing.assert_allclose(noise.mean(1), 0, atol=5 / np.sqrt(n))


@pytest.mark.parametrize("beta", [0.0, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("steps", [128, 129])
def test_the_spectrum_falls_with_the_power_beta(beta, steps):
    power = (np.abs(np.fft.rfft(draw(beta, steps, 2000), axis=0)) ** 2).mean(1)
    frequency = np.fft.rfftfreq(steps)
    slope, _ = np.polyfit(np.log(frequency[1:]), np.log(power[1:]), 1)
    assert slope == pytest.approx(-beta, abs=0.02)
    assert power[0] == pytest.approx(power[1], rel=0.2)  # the constant part


def test_the_autocorrelation_is_that_of_the_spectrum():
    # Wiener and Khinchin: correlations at lag d are the sum of S(f) cos(2 pi f d).
    steps, n, beta = 10, 100_000, 2.0
    noise = draw(beta, steps, n)
    frequency = np.abs(np.fft.fftfreq(steps) * steps)
    spectrum = np.maximum(frequency, 1) ** -beta
    spectrum /= spectrum.sum()
    lags = [sum(spectrum * np.cos(2 * np.pi * frequency * d / steps)) for d in range(steps)]
    expected = [[lags[abs(i - j)] for j in range(steps)] for i in range(steps)]
    np.testing.assert_allclose(noise @ noise.T / n, expected, atol=5 * np.sqrt(2 / n))


def test_other_entries_are_independent():
    n = 40_000
    a, b = np.moveaxis(draw(2.5, 8, n, 2), 2, 0)
    np.testing.assert_allclose((a * b).mean(1), 0, atol=5 / np.sqrt(n))


def test_shape_dtype_and_repeatability():
    noise = colored_noise(2.0, (5, 4, 3, 2), torch.Generator().manual_seed(7))
    assert noise.shape == (5, 4, 3, 2)
    assert noise.dtype == torch.float64
    np.testing.assert_array_equal(noise.numpy(), draw(2.0, 5, 4, 3, 2, seed=7))
    assert not np.array_equal(noise.numpy(), draw(2.0, 5, 4, 3, 2, seed=8))
