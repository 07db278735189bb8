"""The running normaliser against NumPy's statistics of everything it saw."""

import numpy as np
import torch

from mbrl.nn import DeterministicMLP, RunningNormalizer


def batches(*sizes, seed=0):
    rng = np.random.default_rng(seed)
    return [torch.from_numpy(rng.normal(3.0, 2.0, (n, 4))) for n in sizes]


def test_pooled_statistics_equal_those_of_all_samples():
    normalizer = RunningNormalizer(4)
    parts = batches(10, 1, 300, 45)
    for part in parts:
        normalizer.update(part)
    normalizer.refresh()
    everything = torch.cat(parts)
    np.testing.assert_allclose(normalizer.mean, everything.mean(0), rtol=1e-12)
    deviation = everything.std(0, unbiased=False)
    np.testing.assert_allclose(normalizer.scale, deviation + 1e-6, rtol=1e-12)
    normalised = normalizer(everything)
    np.testing.assert_allclose(normalised.mean(0), 0.0, atol=1e-12)
    np.testing.assert_allclose(normalised.std(0, unbiased=False), 1.0, rtol=1e-5)


def test_statistics_change_only_on_refresh():
    normalizer = RunningNormalizer(4)
    (seen,) = batches(20)
    before = normalizer(seen)
    normalizer.update(seen)
    assert torch.equal(normalizer(seen), before)
    assert torch.equal(before, seen), "observations pass unscaled until the first refresh"
    normalizer.refresh()
    assert not torch.allclose(normalizer(seen), before)


def test_the_past_weighs_at_most_five_thousand_samples():
    normalizer = RunningNormalizer(1)
    normalizer.update(torch.zeros(50_000, 1))
    normalizer.update(torch.ones(5_000, 1))
    normalizer.refresh()
    assert float(normalizer.mean) == 0.5


def test_a_coordinate_that_never_varied_is_not_blown_up():
    normalizer = RunningNormalizer(2)
    normalizer.update(torch.tensor([[1.0, 0.0], [1.0, 2.0]]))
    normalizer.refresh()
    assert float(normalizer(torch.tensor([[1.5, 1.0]]))[0, 0]) == 0.5


def test_no_gradient_flows_into_statistics_and_empty_batches_are_ignored():
    normalizer = RunningNormalizer(4)
    normalizer.update(torch.zeros(0, 4))
    assert float(normalizer.count) == 0
    seen = batches(5)[0].requires_grad_()
    normalizer.update(seen)
    assert not normalizer.next_mean.requires_grad


def test_a_policy_uses_its_normaliser():
    def policy(normalize):
        bound = torch.ones(1, dtype=torch.float64)
        generator = torch.Generator().manual_seed(0)
        return DeterministicMLP(4, -bound, bound, generator, normalize=normalize)

    plain, normalised = policy(False), policy(True)
    assert plain.normalizer is None
    (seen,) = batches(30)
    assert torch.equal(plain(seen), normalised(seen))
    normalised.normalizer.update(seen)
    normalised.normalizer.refresh()
    centred = (seen - seen.mean(0)) / (seen.std(0, unbiased=False) + 1e-6)
    assert torch.allclose(normalised(seen), plain(centred))
    assert any("normalizer" in name for name in normalised.state_dict())
