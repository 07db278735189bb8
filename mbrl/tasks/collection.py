"""Experience of the real environment, as data for models of its dynamics."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbrl.data import Episode
from mbrl.errors import ArgumentError, TaskError
from mbrl.physics import quiet
from mbrl.tasks.lockstep import Lockstep
from mbrl.tasks.task import Task
from mbrl.types import Array, Space

_WHAT = "a collection"

Act = Callable[[Tensor, int], Tensor]


class Collection:
    """Episodes in the Gymnasium environment, in lockstep, that can be put by and gone on with.

    A context that closes its environments. What has happened is kept as seeds and actions:
    environments that are put back to work go through it once more, whatever state of their own
    they have.

    Args:
        task: what to make environments of.
        seeds: episode i is reset with ``seeds[i]``.
        steps: where an episode is cut that neither ends nor meets the time limit before.
        space: what is observed of an environment: what it lets agents see, or its state.

    Attributes:
        contexts: of the episodes, [B, n].

    Raises:
        ArgumentError: on a number out of range.
        DivergenceError: if an observation is NaN or infinite.
        TaskError: if the environment raises, naming it and what it raised.
    """

    def __init__(
        self, task: Task, seeds: Sequence[int], *, steps: int, space: Space = "observations"
    ):
        _check_count("steps", steps)
        self._task, self._seeds, self._steps = task, tuple(seeds), steps
        self._space = space
        self._lengths = np.zeros(len(self._seeds), dtype=np.int64)
        with quiet():
            self._rows = Lockstep(task, self._seeds, _WHAT)
            try:
                first = self._observed()
                self.contexts = np.stack([task.context_of(env) for env in self._rows.envs])
            except BaseException:
                self.close()
                raise
        # Room for all steps at once: small arrays that stay, made between a planner's large ones
        # that go, would cut up the heap until no large one fits into what has become free.
        batch = len(self._seeds)
        self._seen = np.empty((steps + 1, batch, first.shape[1]))
        self._actions = np.empty((steps, batch, task.action_size))
        self._rewards = np.empty((steps, batch))
        self._seen[0], self._t = first, 0

    @property
    def seeds(self) -> tuple[int, ...]:
        """What the environments were reset with."""
        return self._seeds

    @property
    def t(self) -> int:
        """How many steps have been taken."""
        return self._t

    @property
    def is_over(self) -> bool:
        """Whether every episode has ended."""
        return self.t >= self._steps or not self._rows.running.any()

    @property
    def running(self) -> NDArray[np.bool_]:
        """Whose episodes have not ended, [B]."""
        running: NDArray[np.bool_] = self._rows.running.copy()
        return running

    @property
    def succeeded(self) -> NDArray[np.bool_] | None:
        """Which episodes meet the task's criterion as they stand, [B]; None: it has none."""
        return self._rows.succeeded

    @property
    def observations(self) -> Array:
        """The latest, [B, n_obs]; the last ones of episodes that have ended."""
        observations: Array = self._seen[self._t].copy()
        return observations

    def step(self, actions: Array) -> None:
        """Take a step of the episodes that run, by their rows of ``actions`` [B, nu].

        Raises:
            DivergenceError: if an observation, an action or a reward is NaN or infinite, or the
                physics diverged.
            TaskError: if the environment raises.
        """
        running, t = self.running, self._t
        self._actions[t] = actions
        with quiet():
            self._rewards[t] = self._rows.step(actions)
            self._rows.require_physics()
            self._seen[t + 1] = self._observed()
        self._lengths += running
        self._t += 1

    def episodes(self) -> list[Episode]:
        """Return what has happened, with the environment's own rewards."""
        if not self._t:
            return []
        parts = self._seen, self._actions, self._rewards
        return [
            Episode(
                *(
                    torch.from_numpy(part[:count, row].copy())
                    for part, count in zip(parts, (length + 1, length, length), strict=True)
                )
            )
            for row, length in enumerate(self._lengths)
        ]

    def state_dict(self) -> dict[str, Any]:
        """Return what :meth:`resumed` goes on from."""
        return {
            "seeds": list(self._seeds),
            "actions": torch.from_numpy(self._actions[: self._t].copy()),
            "rewards": torch.from_numpy(self._rewards[: self._t].copy()),
            "observations": torch.from_numpy(self.observations),
        }

    @classmethod
    def resumed(
        cls,
        task: Task,
        state: Mapping[str, Any],
        *,
        steps: int,
        space: Space = "observations",
    ) -> Collection:
        """Return the collection of a :meth:`state_dict`.

        Raises:
            TaskError: if the environment does not repeat what it did.
        """
        found = cls(task, state["seeds"], steps=steps, space=space)
        try:
            for actions in state["actions"]:
                found.step(actions.numpy())
            same = found.state_dict()
            if not all(torch.equal(same[key], state[key]) for key in ("observations", "rewards")):
                raise TaskError(
                    f"{task.name}: cannot go on in the middle of episodes: the environment does "
                    "not repeat them from the same seeds and actions"
                )
        except BaseException:
            found.close()
            raise
        return found

    def close(self) -> None:
        """Close the environments."""
        self._rows.close()

    def __enter__(self) -> Collection:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _observed(self) -> Array:
        # A copy: the next step writes into them.
        observations: Array = self._rows.observations.astype(np.float64)
        self._rows.require_finite("observation", observations)
        if self._space == "observations":
            return observations
        states = self._rows.states()
        self._rows.require_finite("state", states)
        return states


def collect(
    task: Task,
    act: Act,
    *,
    episodes: int,
    steps: int,
    generator: torch.Generator,
    space: Space = "observations",
) -> list[Episode]:
    """Run episodes in the Gymnasium environment, all of them in lockstep.

    Nothing is kept between calls: where ``generator`` stands, and what ``act`` remembers, is all
    that the next call depends on.

    Args:
        task: what to make environments of.
        act: observations [episodes, n_obs] float64, or states, and the index t of the step ->
            actions [episodes, nu]; called once per step while any episode runs. Rows of episodes
            that have ended keep their last observation, and what is returned for them does not
            count.
        episodes: how many.
        steps: where an episode is cut that neither ends nor meets the time limit before.
        generator: draws the seeds that the environments are reset with.
        space: whether episodes are of observations or of states; see :class:`Collection`.

    Returns:
        The episodes, with the environment's own rewards.

    Raises:
        ArgumentError: on a number out of range, or actions of the wrong shape.
        DivergenceError: if an observation, an action or a reward is NaN or infinite, or the physics
            diverged.
        TaskError: if the environment raises, naming it and what it raised.
    """
    seeds = drawn_seeds(episodes, generator)
    with Collection(task, seeds, steps=steps, space=space) as collection:
        while not collection.is_over:
            observations = torch.from_numpy(collection.observations)
            collection.step(_chosen(act(observations, collection.t), episodes, task.action_size))
        return collection.episodes()


def drawn_seeds(episodes: int, generator: torch.Generator) -> list[int]:
    """Return as many seeds for environments.

    Raises:
        ArgumentError: if there are none to draw.
    """
    _check_count("episodes", episodes)
    seeds: list[int] = torch.randint(2**31 - 1, (episodes,), generator=generator).tolist()
    return seeds


def random_actions(task: Task, generator: torch.Generator) -> Act:
    """Return what draws every action uniformly between its bounds, afresh at every step.

    Raises:
        TaskError: if an action of the task has no bounds.
    """
    low, high = _bounds(task)

    def act(observations: Tensor, t: int) -> Tensor:
        size = len(observations), task.action_size
        return low + (high - low) * torch.rand(size, generator=generator, dtype=torch.float64)

    return act


def random_walk(task: Task, generator: torch.Generator, sd: float) -> Act:
    r"""Return what moves every action a little at every step, and reflects it at its bounds.

    .. math:: u_0 \sim U(l, h), \qquad
              u_{t+1} = \mathrm{reflect}_{[l, h]} \big( u_t + \sigma \tfrac{h - l}{2} \xi_t \big),
              \qquad \xi_t \sim N(0, 1)

    By itself every u_t is uniform, as those of :func:`random_actions` are (a clipped walk would
    gather at the bounds); but it stays near where it was for some :math:`\sigma^{-2}` steps, and
    so pushes the system further.

    Args:
        task: whose actions.
        generator: draws them.
        sd: sigma, the deviation of a step relative to half the range.

    Raises:
        ArgumentError: if ``sd`` is not positive.
        TaskError: if an action of the task has no bounds.
    """
    if not 0 < sd < math.inf:
        raise ArgumentError(f"sd must be positive, got {sd}")
    low, high = _bounds(task)
    start, width = random_actions(task, generator), high - low
    actions = torch.zeros(0, task.action_size, dtype=torch.float64)

    def act(observations: Tensor, t: int) -> Tensor:
        nonlocal actions
        if t == 0:
            actions = start(observations, t)
        else:
            noise = torch.randn(actions.shape, generator=generator, dtype=torch.float64)
            moved = actions + sd * 0.5 * width * noise - low
            # A walk on the whole line, which is folded up at the bounds.
            folded = width - (moved % (2 * width) - width).abs()
            actions = (low + folded).clamp(low, high)  # the sum is rounded
        return actions

    return act


def _bounds(task: Task) -> tuple[Tensor, Tensor]:
    low, high = task.action_low, task.action_high
    if not bool((low.isfinite() & high.isfinite()).all()):
        raise TaskError(f"{task.name}: actions without bounds cannot be drawn uniformly")
    return low, high


def _chosen(actions: Tensor, episodes: int, size: int) -> Array:
    wanted = [episodes, size]
    if not isinstance(actions, Tensor) or list(actions.shape) != wanted:
        found = list(actions.shape) if isinstance(actions, Tensor) else type(actions).__name__
        raise ArgumentError(f"act must return actions of shape {wanted}, got {found}")
    chosen: Array = actions.detach().to("cpu", torch.float64, copy=True).numpy()
    return chosen


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ArgumentError(f"{name} must be a positive integer, got {value!r}")
