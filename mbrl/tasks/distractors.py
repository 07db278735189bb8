"""Observations with numbers in them that mean nothing."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from mbrl.errors import ArgumentError


class Distractors(gymnasium.ObservationWrapper[Any, Any, Any]):
    r"""Append k numbers to every observation, drawn afresh at every step.

    .. math:: (o_t, \xi_t), \qquad \xi_t \sim N(0, I_k)

    A model that learns to predict them spends its capacity on nothing (Nikishin et al. 2022).
    They are drawn from the environment's own random generator, so that a seed repeats a run.

    Args:
        env: with observations in a Box [n].
        count: k.

    Attributes:
        latest: those of the latest observation, [k], in the precision of observations.

    Raises:
        ArgumentError: if ``count`` is negative.
    """

    def __init__(self, env: Any, count: int):
        super().__init__(env)
        if count < 0:
            raise ArgumentError(f"distractors must not be negative, got {count}")
        box = env.observation_space
        unbounded = np.full(count, np.inf, dtype=box.dtype)
        self.observation_space = gymnasium.spaces.Box(
            np.concatenate([box.low, -unbounded]),
            np.concatenate([box.high, unbounded]),
            dtype=box.dtype,
        )
        self.latest = np.zeros(count, dtype=box.dtype)

    def observation(self, observation: Any) -> Any:
        """[n] -> [n + k]."""
        drawn = self.unwrapped.np_random.standard_normal(len(self.latest))
        self.latest = drawn.astype(self.latest.dtype)
        return np.concatenate([observation, self.latest])
