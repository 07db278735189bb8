"""Memories of what was experienced."""

from mbrl.data.state_replay import StateReplay
from mbrl.data.trajectories import Episode, Trajectories, Windows, split_transitions

__all__ = [
    "Episode",
    "StateReplay",
    "Trajectories",
    "Windows",
    "split_transitions",
]
