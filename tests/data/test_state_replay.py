"""The memory of states against a deque."""

import collections

import pytest
import torch

from mbrl.data import StateReplay
from mbrl.errors import ArgumentError


def numbered(first, count):
    """States whose first entry is their number, and contexts that are minus that."""
    states = torch.zeros(count, 3, dtype=torch.float64)
    states[:, 0] = torch.arange(first, first + count)
    return states, -states[:, :1]


def held(memory, draws=4000):
    """What can be drawn, in order."""
    start = memory.sample(draws, torch.Generator().manual_seed(0))
    assert torch.equal(start.context[:, 0], -start.state[:, 0])
    return sorted(set(start.state[:, 0].tolist()))


@pytest.mark.parametrize("sizes", [[3, 3, 3, 3], [1] * 12, [20], [5, 9], [7, 0, 1, 6, 15, 2]])
def test_the_newest_are_kept(sizes):
    memory, reference, number = StateReplay(7, 3, 1), collections.deque(maxlen=7), 0
    for size in sizes:
        memory.add(*numbered(number, size))
        reference.extend(range(number, number + size))
        number += size
        assert len(memory) == len(reference)
        if reference:
            assert held(memory) == sorted(reference)


def test_draws_are_uniform_and_repeat():
    memory = StateReplay(10, 3, 1)
    memory.add(*numbered(0, 14))
    draws = memory.sample(20_000, torch.Generator().manual_seed(1)).state[:, 0]
    counts = torch.bincount(draws.long(), minlength=14).double()
    assert counts[:4].sum() == 0
    # A count of a binomial variable: 4 deviations.
    assert float((counts[4:] - 2000).abs().max()) < 4 * (20_000 * 0.1 * 0.9) ** 0.5
    again = memory.sample(20_000, torch.Generator().manual_seed(1)).state[:, 0]
    assert torch.equal(draws, again)


def test_what_is_drawn_is_a_copy_and_carries_no_gradient():
    memory = StateReplay(4, 3, 1)
    states, contexts = numbered(0, 4)
    memory.add(states.requires_grad_(), contexts.detach())
    drawn = memory.sample(9, torch.Generator()).state
    assert not drawn.requires_grad
    drawn.fill_(99)
    assert held(memory) == [0, 1, 2, 3]


def test_a_restored_memory_forgets_and_draws_as_the_first():
    one, other = StateReplay(5, 3, 1), StateReplay(5, 3, 1)
    one.add(*numbered(0, 8))
    state = one.state_dict()
    other.load_state_dict(state)
    for memory in (one, other):
        memory.add(*numbered(8, 2))
    assert held(one) == held(other) == [5, 6, 7, 8, 9]
    draws = [m.sample(50, torch.Generator().manual_seed(2)).state for m in (one, other)]
    assert torch.equal(*draws)
    again = StateReplay(5, 3, 1)
    again.load_state_dict(state)
    assert held(again) == [3, 4, 5, 6, 7], "a saved state does not change with its memory"


def test_mistakes_are_named():
    with pytest.raises(ArgumentError, match="size must be at least 1, got 0"):
        StateReplay(0, 3)
    with pytest.raises(ArgumentError, match="nothing was put in"):
        StateReplay(2, 3).sample(1, torch.Generator())
