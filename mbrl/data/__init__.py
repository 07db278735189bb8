"""Memories of what was experienced."""

from mbrl.data.state_replay import StateReplay

__all__ = ["StateReplay"]
