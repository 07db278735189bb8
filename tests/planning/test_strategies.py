"""The estimators against autograd through their literal definitions, and against expectations."""

import math

import pytest
import torch

from mbrl.planning.strategies import (
    Gradients,
    combined,
    pathwise,
    score_function,
    score_share,
)
from mbrl.planning.weighting import weights_of

T, N, B, NU = 4, 5, 2, 3
EPS = float(torch.finfo(torch.float32).eps)


def draw(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def log_prob(u, mean, sd):
    """Of a Gaussian, summed over the actuators."""
    z = (u - mean[:, None]) / sd[:, None]
    return (-0.5 * z.square() - sd[:, None].log() - 0.5 * math.log(2 * math.pi)).sum(-1)


def leaves():
    mean = draw(T, B, NU, seed=1).requires_grad_()
    sd = (0.2 + draw(T, B, NU, seed=2).square()).requires_grad_()
    return mean, sd


def test_pathwise_is_autograds_through_the_reparameterisation():
    mean, sd = leaves()
    noise, weight = draw(T, N, B, NU), draw(T, B, NU, seed=3)
    u = mean[:, None] + sd[:, None] * noise
    (u.pow(3) * weight[:, None]).sum((0, 3)).mean(0).sum().backward()
    gradient = (3 * u.square() * weight[:, None]).detach()
    found = pathwise(gradient, torch.ones(N, B, dtype=torch.bool), noise)
    torch.testing.assert_close(found.mean, mean.grad)
    torch.testing.assert_close(found.sd, sd.grad)
    assert found.rows.all()


@pytest.mark.parametrize("discarded", [False, True])
@pytest.mark.parametrize("standardize", [True, False])
def test_score_function_is_autograds_through_the_density(standardize, discarded):
    """J_S = mean_n sum_t A log p, A = (G - mean_n G) / (std_n G + eps) or of the others' mean."""
    mean, sd = leaves()
    noise, costs = draw(T, N, B, NU), draw(T, N, B, seed=4)
    good = torch.ones(N, B, dtype=torch.bool)
    if discarded:
        good[1, 0] = good[4, 0] = good[0, 1] = False
    u = (mean[:, None] + sd[:, None] * noise).detach()
    density = log_prob(u, mean, sd)  # (T, N, B)
    total = torch.zeros((), dtype=torch.float64)
    for b in range(B):
        kept = good[:, b].nonzero()[:, 0].tolist()
        for t in range(T):
            to_go = torch.stack([costs[t:, n, b].sum() for n in kept])
            for i, n in enumerate(kept):
                others = torch.cat([to_go[:i], to_go[i + 1 :]])
                advantage = to_go[i] - others.mean()
                if standardize:
                    advantage = (to_go[i] - to_go.mean()) / (to_go.std(correction=0) + EPS)
                total = total + advantage * density[t, n, b] / len(kept)
    total.backward()
    found = score_function(
        torch.where(good, costs, torch.inf),
        good,
        noise,
        sd.detach(),
        weights_of("sum", T),
        standardize,
    )
    torch.testing.assert_close(found.mean, mean.grad)
    torch.testing.assert_close(found.sd, sd.grad)
    assert found.rows.all()


@pytest.mark.parametrize("weighting", ["average", "prioritise"])
def test_weights_act_on_costs_and_gains_on_the_density(weighting):
    mean, sd = leaves()
    noise, costs = draw(T, N, B, NU), draw(T, N, B, seed=4)
    u = (mean[:, None] + sd[:, None] * noise).detach()
    density = log_prob(u, mean, sd)
    total = torch.zeros((), dtype=torch.float64)
    for t in range(T):
        share = torch.tensor(
            [1.0 if weighting == "average" else T - k for k in range(t, T)], dtype=torch.float64
        )
        averaged = (share[:, None, None] * costs[t:]).sum(0) / share.sum()  # (N, B)
        advantage = (averaged - averaged.mean(0)) * N / (N - 1)
        total = total + (advantage * density[t]).mean(0).sum()
    total.backward()
    good = torch.ones(N, B, dtype=torch.bool)
    weights = weights_of(weighting, T)
    found = score_function(costs, good, noise, sd.detach(), weights, False)
    torch.testing.assert_close(found.mean, mean.grad)
    torch.testing.assert_close(found.sd, sd.grad)


def quadratic(seed=9):
    root = draw(T, T, seed=seed)
    return root @ root.T + torch.eye(T, dtype=torch.float64), draw(T, seed=seed + 1)


@pytest.mark.parametrize("kind", ["pathwise", "score_function"])
def test_both_estimate_the_gradient_of_the_expected_cost(kind):
    """Of a quadratic, E J = J(M) + 1/2 sum_i H_ii sd_i^2; within 5 standard errors."""
    h, slope = quadratic()
    mean, sd = draw(T, seed=20), 0.3 + draw(T, seed=21).square()
    by_mean, by_sd = h @ mean + slope, h.diagonal() * sd
    batch, samples = 4000, 8
    noise = draw(T, samples, batch, 1, seed=22)
    u = mean[:, None, None] + sd[:, None, None] * noise[..., 0]  # (T, N, B)
    good = torch.ones(samples, batch, dtype=torch.bool)
    if kind == "pathwise":
        gradient = torch.einsum("ij,jnb->inb", h, u) + slope[:, None, None]
        found = pathwise(gradient[..., None], good, noise)
    else:
        # Only the last step costs anything: the return to go of every step is the cost itself.
        costs = torch.zeros_like(u)
        costs[-1] = 0.5 * torch.einsum("inb,ij,jnb->nb", u, h, u)
        costs[-1] += torch.einsum("i,inb->nb", slope, u)
        deviations = sd[:, None, None].expand(T, batch, 1)
        found = score_function(costs, good, noise, deviations, weights_of("sum", T), False)
    for estimate, expected in ((found.mean, by_mean), (found.sd, by_sd)):
        values = estimate[..., 0]
        error = values.std(1) / math.sqrt(batch)
        assert ((values.mean(1) - expected).abs() < 5 * error).all()
        assert (error < 0.1 * expected.abs().max()).all()  # it would tell something else apart


def test_advantages_do_not_depend_on_the_scale_of_costs():
    noise, costs = draw(T, N, B, NU), draw(T, N, B, seed=4)
    good, sd = torch.ones(N, B, dtype=torch.bool), torch.ones(T, B, NU, dtype=torch.float64)
    weights = weights_of("sum", T)
    once = score_function(costs, good, noise, sd, weights, True)
    more = score_function(1000 * costs + 7, good, noise, sd, weights, True)
    torch.testing.assert_close(once.mean, more.mean, rtol=1e-5, atol=1e-6)


def test_samples_that_do_not_count_leave_no_nan():
    noise, sd = draw(T, N, B, NU), torch.ones(T, B, NU, dtype=torch.float64)
    costs = torch.full((T, N, B), math.inf, dtype=torch.float64)
    costs[:, :1, 1] = 1.0
    good = costs.isfinite().all(0)
    found = score_function(costs, good, noise, sd, weights_of("sum", T), True)
    assert not found.rows.any()  # one sample cannot be compared
    assert (found.mean == 0).all()
    assert (found.sd == 0).all()
    gradient = torch.where(good[..., None], 1.0, torch.nan).expand(T, N, B, NU).double()
    path = pathwise(gradient, good, noise)
    assert path.rows.tolist() == [False, True]
    torch.testing.assert_close(path.mean[:, 1], torch.ones(T, NU, dtype=torch.float64))
    assert (path.mean[:, 0] == 0).all()


def parts(path_rows=(True, True), score_rows=(True, True)):
    return {
        "pathwise": Gradients(draw(T, B, NU), draw(T, B, NU, seed=1), torch.tensor(path_rows)),
        "score_function": Gradients(
            draw(T, B, NU, seed=2), draw(T, B, NU, seed=3), torch.tensor(score_rows)
        ),
    }


def test_strategies_combine_their_parts():
    both = parts()
    r, s = both["pathwise"], both["score_function"]
    share = torch.rand(T, B, NU, generator=torch.Generator().manual_seed(5)).double()
    assert combined("pathwise", both, share, 2.0) is r
    assert combined("score_function", both, share, 2.0) is s
    torch.testing.assert_close(combined("sum", both, share, 2.0).sd, r.sd + 2 * s.sd)
    for strategy in ("interpolated", "interpolated_elementwise"):
        found = combined(strategy, both, share, 2.0)
        torch.testing.assert_close(found.mean, (1 - share) * r.mean + share * s.mean)
    hybrid = combined("hybrid", both, share, 2.0)
    assert torch.equal(hybrid.mean, r.mean)
    assert torch.equal(hybrid.sd, s.sd)


def test_a_row_that_lacks_a_part_has_the_other():
    both = parts((True, False), (False, True))
    half = torch.full((), 0.5, dtype=torch.float64)
    found = combined("sum", both, half, 1.0)
    assert found.rows.all()
    assert torch.equal(found.mean[:, 0], both["pathwise"].mean[:, 0])
    assert torch.equal(found.mean[:, 1], both["score_function"].mean[:, 1])


@pytest.mark.parametrize(
    ("sd", "expected"), [(0.3, 0.2 + 0.8 * 0.5), (1e-4, 0.2), (0.15005, 0.2 + 0.8 * 0.25), (9, 1)]
)
def test_the_share_follows_the_deviation(sd, expected):
    found = score_share(torch.tensor([sd], dtype=torch.float64), 0.3, 1e-4, 0.2)
    torch.testing.assert_close(found, torch.tensor([expected], dtype=torch.float64))
