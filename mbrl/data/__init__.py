"""Memories of what was experienced."""

from mbrl.data.replay_file import ReplayFile
from mbrl.data.state_replay import StateReplay
from mbrl.data.trajectories import Episode, Trajectories, Windows, split_transitions
from mbrl.data.transition_replay import (
    Batch,
    TransitionReplay,
    any_indices,
    distinct_indices,
)

__all__ = [
    "Batch",
    "Episode",
    "ReplayFile",
    "StateReplay",
    "Trajectories",
    "TransitionReplay",
    "Windows",
    "any_indices",
    "distinct_indices",
    "split_transitions",
]
