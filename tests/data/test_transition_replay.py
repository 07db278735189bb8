"""Batches without replacement, of a memory of several seeds."""

import collections
import itertools

import numpy as np
import pytest
import torch

from mbrl.data import TransitionReplay, distinct_indices
from mbrl.errors import ArgumentError


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize(("count", "batch"), [(8, 2), (4, 3)], ids=["redrawn", "permuted"])
def test_all_subsets_are_equally_likely(count, batch):
    draws = 28_000
    found = distinct_indices(np.full(draws, count), batch, generator())
    tally = collections.Counter(map(tuple, found.tolist()))
    subsets = list(itertools.combinations(range(count), batch))
    assert set(tally) == set(subsets)
    expected = draws / len(subsets)
    chi_square = sum((n - expected) ** 2 / expected for n in tally.values())
    freedom = len(subsets) - 1
    assert chi_square < freedom + 4 * (2 * freedom) ** 0.5


def test_every_row_has_its_own_count_and_no_index_twice():
    counts = np.arange(256, 3256)
    found = distinct_indices(counts, 256, generator()).numpy()
    assert (np.diff(found, axis=1) > 0).all()
    assert (found[:, 0] >= 0).all()
    assert (found[:, -1] < counts).all()
    assert (found[-500:, -1] > 0.97 * counts[-500:]).all()


def test_a_batch_must_be_there():
    with pytest.raises(ArgumentError, match="at most the transitions there are, 9, got 10"):
        distinct_indices(np.array([12, 9]), 10, generator())


def filled(capacity, steps, seeds=3):
    """A memory of transitions whose numbers say which they are."""
    replay = TransitionReplay(seeds, capacity, observation_size=2, action_size=1)
    for t in range(steps):
        name = t + torch.arange(seeds, dtype=torch.float64) / 4
        ends = torch.tensor([(t + seed) % 3 == 0 for seed in range(seeds)])
        replay.add(
            torch.stack([name, -name], 1),
            name[:, None] % 2,
            name + 0.5,
            torch.stack([name + 1, name + 2], 1),
            ends,
        )
    return replay


@pytest.mark.parametrize("steps", [5, 8, 11])
def test_a_batch_holds_the_transitions_of_its_indices(steps):
    replay = filled(8, steps)
    assert len(replay) == min(steps, 8)
    assert [replay.size_after(n) for n in (1, 9)] == [min(steps + 1, 8), 8]
    indices = torch.tensor([[0, 3, 1], [4, 2, 0], [1, 0, 2]])
    found = replay.batch(indices, torch.float64)
    times = indices + 8 * (indices < steps - 8)  # what was overwritten
    name = times + torch.arange(3, dtype=torch.float64)[:, None] / 4
    assert torch.equal(found.observation, torch.stack([name, -name], -1))
    assert torch.equal(found.action, name[..., None] % 2)
    assert torch.equal(found.reward, name + 0.5)
    assert torch.equal(found.following, torch.stack([name + 1, name + 2], -1))
    assert torch.equal(found.mask, ((times + torch.arange(3)[:, None]) % 3 != 0).double())


@pytest.mark.parametrize("steps", [5, 11])
def test_a_memory_goes_on_from_what_was_saved(steps):
    replay, again = filled(8, steps), filled(8, 2)
    state = replay.state_dict()
    assert state["rows"].untyped_storage().nbytes() == min(steps, 8) * 3 * 7 * 4
    again.load_state_dict(state)
    extra = [torch.ones(3, 2), torch.ones(3, 1), torch.ones(3), torch.ones(3, 2)]
    for memory in (replay, again):
        memory.add(*extra, torch.zeros(3, dtype=torch.bool))
    for a, b in zip(
        *(m.batch(torch.arange(len(m)).expand(3, -1), torch.float32) for m in (replay, again)),
        strict=True,
    ):
        assert torch.equal(a, b)


def test_there_must_be_room():
    with pytest.raises(ArgumentError, match="capacity must be at least 1, got 0"):
        TransitionReplay(1, 0, observation_size=1, action_size=1)
