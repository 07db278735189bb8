"""Environments that do something to actions."""

import gymnasium
import numpy as np
import pytest
from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv


@pytest.fixture
def register():
    """Return a function that registers an entry point for the time of a test."""
    names = []

    def make(name, entry_point):
        gymnasium.register(name, entry_point=entry_point, max_episode_steps=100)
        names.append(name)
        return name

    yield make
    for name in names:
        del gymnasium.registry[name]


@pytest.fixture
def rescaled(register):
    """A pendulum whose actions lie in [-1, 1], by a wrapper."""
    return register(
        "Rescaled-v0",
        lambda **kwargs: gymnasium.wrappers.RescaleAction(
            InvertedPendulumEnv(**kwargs), np.float32(-1.0), np.float32(1.0)
        ),
    )


class Halved(InvertedPendulumEnv):
    def step(self, action):
        return super().step(0.5 * action)


@pytest.fixture
def own_controls(register):
    """A pendulum whose step makes another control of the action."""
    return register("Halved-v0", Halved)
