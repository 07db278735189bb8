"""Errors of a model on episodes, by hand in NumPy."""

import math

import numpy as np
import pytest
import torch

from mbrl.algorithms.model_errors import model_errors
from mbrl.data import Episode, Trajectories
from tests.learned_runs import random_model


def episodes(*lengths):
    generator = torch.Generator().manual_seed(0)
    found = Trajectories(3, 2)
    for length in lengths:
        states = torch.randn(length + 1, 3, generator=generator, dtype=torch.float64)
        actions = torch.randn(length, 2, generator=generator, dtype=torch.float64)
        found.append([Episode(states, actions, torch.zeros(length).double())])
    return found


def test_errors_by_hand():
    """Windows of 15 steps: two of the first episode, none of the second, one of the third."""
    model, data = random_model(3, 2), episodes(34, 14, 15)
    one, many = [], []
    for episode in data.episodes:
        states, actions = episode.observations, episode.actions
        one += list((model(states[:-1], actions) - states[1:]).detach().numpy())
        for first in range(0, len(actions) - 14, 15):
            here = states[first : first + 1]
            for action in actions[first : first + 15]:
                here = model(here, action[None]).detach()
            many.append((here[0] - states[first + 15]).numpy())
    assert len(many) == 3
    change, spread = model.target_deviation.numpy(), model.input_scale.numpy()[:3]
    found = model_errors(model, data, "validation_")
    assert found == {
        "validation_one_step_error": pytest.approx(np.sqrt(np.mean((one / change) ** 2))),
        "validation_open_loop_error": pytest.approx(np.sqrt(np.mean((many / spread) ** 2))),
    }


def test_short_episodes_say_nothing_of_many_steps():
    found = model_errors(random_model(3, 2), episodes(14, 3))
    assert math.isfinite(found["one_step_error"])
    assert math.isnan(found["open_loop_error"])
