"""Memories of what was experienced."""

from mbrl.data.state_replay import StateReplay
from mbrl.data.trajectories import Episode, Trajectories, Windows, split_transitions
from mbrl.data.transition_replay import Batch, TransitionReplay, distinct_indices

__all__ = [
    "Batch",
    "Episode",
    "StateReplay",
    "Trajectories",
    "TransitionReplay",
    "Windows",
    "distinct_indices",
    "split_transitions",
]
