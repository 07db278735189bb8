"""Memories of what was experienced."""

from mbrl.data.state_replay import StateReplay
from mbrl.data.statistics import Statistics, revised
from mbrl.data.trajectories import Episode, Trajectories, Transitions, Windows

__all__ = [
    "Episode",
    "StateReplay",
    "Statistics",
    "Trajectories",
    "Transitions",
    "Windows",
    "revised",
]
