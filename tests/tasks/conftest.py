"""Environments that a test registers for itself."""

import gymnasium
import pytest


@pytest.fixture
def registered():
    """Return a function that registers a class and returns its id."""
    names = []

    def register(entry, **options):
        name = f"test/{entry.__name__}-v0"
        gymnasium.register(name, **{"entry_point": entry, "max_episode_steps": 50, **options})
        names.append(name)
        return name

    yield register
    for name in names:
        del gymnasium.registry[name]
