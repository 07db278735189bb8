"""Random walks of actions: in their bounds, of the stated increments, uniform at every step."""

import math

import pytest
import torch

from mbrl.errors import ArgumentError, TaskError
from mbrl.tasks import random_actions, random_walk


class Bounds:
    """All that a walk looks at of a task: two actions of different, lopsided bounds."""

    name, action_size = "bounds", 2

    def __init__(self, low=(-1.0, 2.0), high=(3.0, 2.5)):
        self.action_low = torch.tensor(low, dtype=torch.float64)
        self.action_high = torch.tensor(high, dtype=torch.float64)


TASK = Bounds()
HALF = torch.tensor([2.0, 0.25], dtype=torch.float64)


def walk(sd, rows, steps, seed=0, task=TASK):
    """Actions [steps, rows, 2] of rows episodes in lockstep."""
    act = random_walk(task, torch.Generator().manual_seed(seed), sd)
    return torch.stack([act(torch.zeros(rows, 5), t) for t in range(steps)])


@pytest.mark.parametrize("sd", [0.05, 0.5, 7.0])
def test_it_stays_in_its_bounds(sd):
    actions = walk(sd, 200, 100)
    assert actions.dtype == torch.float64
    assert bool((actions >= TASK.action_low).all())
    assert bool((actions <= TASK.action_high).all())


def test_increments_have_the_stated_deviation():
    sd = 0.03
    actions = walk(sd, 400, 60)
    inside = ((actions[:-1] - TASK.action_low - HALF).abs() < (1 - 6 * sd) * HALF).all(-1)
    steps = ((actions[1:] - actions[:-1])[inside]) / HALF
    n = len(steps)
    assert n > 10_000
    # Of n normal numbers, mean and variance scatter with these deviations.
    assert float(steps.mean(0).abs().max()) < 4 * sd / math.sqrt(n)
    assert float((steps.var(0) / sd**2 - 1).abs().max()) < 4 * math.sqrt(2 / n)
    correlation = float(torch.corrcoef(steps.T)[0, 1])
    assert abs(correlation) < 4 / math.sqrt(n)


def test_a_step_over_a_bound_is_reflected():
    """The generator's own numbers, folded by hand."""
    sd, generator = 0.8, torch.Generator().manual_seed(4)
    actions = walk(sd, 300, 2, seed=4)
    first = random_actions(TASK, generator)(torch.zeros(300, 5), 0)
    assert torch.equal(actions[0], first)
    moved = first + sd * HALF * torch.randn(300, 2, generator=generator, dtype=torch.float64)
    over = 0
    for row in range(300):
        for i in range(2):
            low, high = float(TASK.action_low[i]), float(TASK.action_high[i])
            value = float(moved[row, i])
            over += not low <= value <= high
            while not low <= value <= high:
                value = 2 * low - value if value < low else 2 * high - value
            assert float(actions[1, row, i]) == pytest.approx(value, abs=1e-12)
    assert over > 100


def test_at_every_step_actions_are_uniform():
    actions = walk(0.4, 10_000, 12)
    shares = (actions - TASK.action_low) / (2 * HALF)
    for t in (0, 1, 11):
        for i in range(2):
            counts = torch.histc(shares[t, :, i], 10, min=0, max=1)
            # Binomial counts, 4.5 deviations.
            assert float((counts - 1000).abs().max()) < 4.5 * 900**0.5


def test_every_episode_begins_anew():
    act = random_walk(TASK, torch.Generator().manual_seed(1), 0.01)
    for rows in (3, 50):
        first = act(torch.zeros(rows, 5), 0)
        assert first.shape == (rows, 2)
        assert float((act(torch.zeros(rows, 5), 1) - first).abs().max()) < 0.2


@pytest.mark.parametrize("sd", [0.0, -1.0, math.inf, math.nan])
def test_steps_have_a_size(sd):
    with pytest.raises(ArgumentError, match="sd must be positive"):
        walk(sd, 1, 1)


def test_actions_without_bounds_cannot_walk():
    with pytest.raises(TaskError, match="actions without bounds"):
        walk(0.1, 1, 1, task=Bounds(high=(math.inf, 2.5)))
