"""Gymnasium environments of one task that take their steps together."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from types import TracebackType
from typing import Any

import mujoco
import numpy as np
import torch
from numpy.typing import NDArray

from mbrl.errors import DivergenceError, users_code
from mbrl.tasks.task import Task
from mbrl.types import Array

_DIVERGED = [
    int(kind)
    for kind in (
        mujoco.mjtWarning.mjWARN_BADQPOS,
        mujoco.mjtWarning.mjWARN_BADQVEL,
        mujoco.mjtWarning.mjWARN_BADQACC,
    )
]


class Lockstep:
    """B environments, each of which runs until its episode ends; a context that closes them.

    Args:
        task: what to make environments of.
        seeds: environment i is reset with ``seeds[i]``.
        what: what they are for ("an evaluation"), for messages.

    Attributes:
        envs: the environments.
        observations: the latest of each, [B, n_obs].
        running: whose episodes have not ended, [B] bool.

    Raises:
        TaskError: if an environment raises, naming it and what it raised.
    """

    def __init__(self, task: Task, seeds: Sequence[int], what: str):
        self._task, self._what, self._t = task, what, 0
        self.envs: list[Any] = []
        try:
            for _ in seeds:
                self.envs.append(task.make_env())
            with users_code(f"{task.name}: reset"):
                seen = [env.reset(seed=s)[0] for env, s in zip(self.envs, seeds, strict=True)]
                self.observations: Array = np.stack(seen)
        except BaseException:
            self.close()
            raise
        self.running = np.ones(len(self.envs), dtype=bool)
        self._satisfied = np.zeros(len(self.envs), dtype=np.int64)  # steps in a row, to the latest

    @property
    def succeeded(self) -> NDArray[np.bool_] | None:
        """Which episodes meet the task's criterion as they stand; None where it has none."""
        success = self._task.success
        return None if success is None else self._satisfied >= success.steps

    def states(self, rows: Sequence[int] | NDArray[np.intp] | None = None) -> Array:
        """Return the states [n, nx] that these environments are in, by default all of them."""
        chosen = range(len(self.envs)) if rows is None else rows
        return np.stack([self._task.state_of(self.envs[row]) for row in chosen])

    def step(self, actions: Array) -> Array:
        """Take one step of those that are running, by their rows of ``actions`` [B, nu].

        Returns:
            Their rewards [B], 0 for the others.

        Raises:
            DivergenceError: if an action or a reward is NaN or infinite.
            TaskError: if an environment raises.
        """
        rewards = np.zeros(len(self.envs))
        self.require_finite("action", actions[self.running])
        stepped = np.flatnonzero(self.running)
        for i in stepped:
            action = self._task.env_action(actions[i])
            with users_code(f"{self._task.name}: step {self._t + 1} of {self._what}"):
                self.observations[i], reward, terminated, truncated, _ = self.envs[i].step(action)
                rewards[i] = float(reward)
            self.running[i] = not (terminated or truncated)
        self.require_finite("reward", rewards)
        if self._task.success is not None:
            states = torch.from_numpy(self.states(stepped))
            holds = self._task.success.satisfied(states, self._t).numpy()
            self._satisfied[stepped] = np.where(holds, self._satisfied[stepped] + 1, 0)
        self._t += 1
        return rewards

    def require_finite(self, name: str, values: Array) -> None:
        """Refuse values that are not.

        Raises:
            DivergenceError: naming them.
        """
        if not np.isfinite(values).all():
            raise DivergenceError(f"{self._task.name}: {self._what} met NaN or infinity in: {name}")

    def require_physics(self) -> None:
        """Refuse simulations that diverged, and which MuJoCo put back to their start in silence.

        Raises:
            DivergenceError: naming the rows.
        """
        rows = [i for i, env in enumerate(self.envs) if _diverged(env.unwrapped)]
        if rows:
            raise DivergenceError(
                f"{self._task.name}: the simulation of {self._what} diverged in rows {rows[:8]}",
                rows,
            )

    def close(self) -> None:
        """Close the environments."""
        for env in self.envs:
            with contextlib.suppress(Exception):  # no result depends on it, and it may hide why
                env.close()

    def __enter__(self) -> Lockstep:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def _diverged(env: Any) -> bool:
    data = getattr(env, "data", None)
    return isinstance(data, mujoco.MjData) and bool(data.warning.number[_DIVERGED].any())
