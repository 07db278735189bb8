"""Gradients of a Gaussian over open-loop plans, from samples of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from mbrl.planning.weighting import Weights

Strategy = Literal[
    "pathwise", "score_function", "sum", "interpolated", "interpolated_elementwise", "hybrid"
]

_TINY_DEVIATION = float(torch.finfo(torch.float32).eps)


class Gradients(NamedTuple):
    """Estimates of the gradient by mean and deviations, and the rows that have them."""

    mean: Tensor  # (T, B, nu)
    sd: Tensor  # (T, B, nu)
    rows: Tensor  # (B)

    def plus(self, other: Gradients, mine: Tensor | float, its: Tensor | float) -> Gradients:
        """Return both, weighed by what broadcasts to [T, B, nu]; one alone where it is alone."""

        def mixed(a: Tensor, b: Tensor) -> Tensor:
            return torch.where(self.rows[:, None], mine * a, 0.0) + torch.where(
                other.rows[:, None], its * b, 0.0
            )

        rows = self.rows | other.rows
        return Gradients(mixed(self.mean, other.mean), mixed(self.sd, other.sd), rows)


def pathwise(gradient: Tensor, good: Tensor, noise: Tensor) -> Gradients:
    r"""Return the reparameterised gradient (strategy R of Model-Based-RL).

    .. math:: \hat g_M = \frac{1}{N} \sum_n g^n, \qquad
              \hat g_\Sigma = \frac{1}{N} \sum_n g^n \xi^n, \qquad u^n = M + \Sigma \xi^n

    Args:
        gradient: g by the actions, [T, N, B, nu].
        good: which samples count, [N, B].
        noise: xi, [T, N, B, nu].
    """
    share = _share(good)
    weighed = torch.where(good[..., None], gradient, 0.0) * share[..., None]
    return Gradients(weighed.sum(1), (weighed * noise).sum(1), good.any(0))


def score_function(
    costs: Tensor,
    good: Tensor,
    noise: Tensor,
    sd: Tensor,
    weights: Weights,
    standardize: bool,
) -> Gradients:
    r"""Return REINFORCE's gradient (Williams 1992; J_S of Model-Based-RL).

    .. math:: \hat g = \frac{1}{N} \sum_n \sum_t c_t A_t^n \nabla \log N(u_t^n; M_t, \Sigma_t),
              \qquad \nabla_M = \xi / \Sigma, \quad \nabla_\Sigma = (\xi^2 - 1) / \Sigma

    A is the cost to go, :math:`\sum_{k \ge t} w_k \ell_k`, less its mean over the samples. With
    ``standardize`` it is divided by its deviation over them, so that its scale does not depend on
    the cost's; else by 1 - 1/N, which makes the baseline the mean of the other samples and the
    estimate unbiased.

    Args:
        costs: by step, [T, N, B]; not finite in samples that diverged.
        good: which samples count, [N, B].
        noise: xi, [T, N, B, nu].
        sd: Sigma, [T, B, nu], positive.
        weights: w and c.
        standardize: see above.
    """
    count, share = good.to(noise.dtype).sum(0), _share(good)
    kept = torch.where(good, weights.costs[:, None, None] * costs, 0.0)
    to_go = kept.flip(0).cumsum(0).flip(0)
    advantage = torch.where(good, to_go - (share * to_go).sum(1, keepdim=True), 0.0)
    if standardize:
        deviation = (share * advantage.square()).sum(1, keepdim=True).sqrt()
        advantage = advantage / (deviation + _TINY_DEVIATION)
    else:
        advantage = advantage * count / (count - 1).clamp(min=1)
    factor = (weights.gains[:, None, None] * share * advantage)[..., None]
    by_mean, by_sd = (factor * noise).sum(1) / sd, (factor * (noise.square() - 1)).sum(1) / sd
    return Gradients(by_mean, by_sd, count > 1)


def _share(good: Tensor) -> Tensor:
    """Return the weight of every sample [N, B] in the mean over those that count."""
    mask = good.to(torch.float64)
    return mask / mask.sum(0).clamp(min=1)


def score_share(sd: Tensor, initial_sd: float, min_sd: float, min_share: float) -> Tensor:
    r"""Return the share of the score function in an interpolation, [T, B, nu].

    .. math:: m = \mathrm{clip}\left(m_{min} + (1 - m_{min}) \tfrac{1}{2}
              \frac{\Sigma - \sigma_{min}}{\Sigma_0 - \sigma_{min}}, 0, 1\right)

    Half and half at first, more pathwise as the deviations shrink.

    Args:
        sd: Sigma, [T, B, nu], or its mean.
        initial_sd: Sigma_0.
        min_sd: sigma_min.
        min_share: m_min.
    """
    left = (sd - min_sd) / (initial_sd - min_sd)
    return (min_share + (1 - min_share) * 0.5 * left).clamp(0, 1)


def combined(
    strategy: Strategy, parts: Mapping[str, Gradients], share: Tensor, score_weight: float
) -> Gradients:
    """Return the gradient of a strategy; ``hybrid`` follows each part with its own parameter.

    Args:
        strategy: which.
        parts: "pathwise" and "score_function", as far as it needs them.
        share: m.
        score_weight: lambda.
    """
    if strategy in parts:
        return parts[strategy]
    path, score = parts["pathwise"], parts["score_function"]
    if strategy == "sum":
        return path.plus(score, 1.0, score_weight)
    if strategy == "hybrid":
        sd = torch.where(score.rows[:, None], score.sd, 0.0)
        return Gradients(path.mean, sd, path.rows | score.rows)
    return path.plus(score, 1 - share, share)
