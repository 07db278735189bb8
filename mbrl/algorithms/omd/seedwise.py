"""Runs of several seeds that learn from a memory after every step: the loop around an agent."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbrl.algorithms.algorithm import Actor, Setting
from mbrl.algorithms.omd.agent import Agent
from mbrl.algorithms.omd.members import Members, SeedsActor, returns_of
from mbrl.algorithms.omd.seeds import Seeds
from mbrl.data import Batch, ReplayFile, TransitionReplay
from mbrl.errors import ArgumentError, DivergenceError, MbrlError, TaskError
from mbrl.planning.checks import check_counts, check_not_negative

Precision: TypeAlias = Literal["float32", "float64"]


@dataclass(frozen=True)
class Schedule:
    """When a run of several seeds does what.

    Attributes:
        updates: of the run.
        steps: of each environment in an update.
        random_steps: first steps, whose actions are random and which nothing is learned after.
        eval_episodes: of each seed, after every update.
        batch_size: transitions of a batch.
        buffer_size: transitions that each seed remembers.
        dtype: precision of networks.
        chunk: steps that are taken without a pause.

    Raises:
        ArgumentError: if a number is out of its range.
    """

    updates: int
    steps: int
    random_steps: int
    eval_episodes: int
    batch_size: int
    buffer_size: int
    dtype: Precision
    chunk: int

    def __post_init__(self) -> None:
        check_counts(
            "algorithm",
            updates=self.updates,
            steps=self.steps,
            eval_episodes=self.eval_episodes,
            batch_size=self.batch_size,
            buffer_size=self.buffer_size,
        )
        check_not_negative("algorithm", random_steps=self.random_steps)


class SeedwiseRun(ABC):
    """Agents of S seeds, each with an environment, a memory and random numbers of its own.

    Every step of every environment after the first random ones is followed by an update of the
    agent. An update of the run is many of these, after which each seed's policy plays some
    episodes.

    A seed whose parameters, or what its optimisers remember, or whose actions are no longer finite
    is put back to where it was at most ``chunk`` steps before, and learns no more; the others go on
    as if nothing had happened. Of how many this is so, ``diverged`` says. An environment that fails
    for any other reason ends the run.

    Args:
        setting: task, and what to call in the middle of updates.
        seeds: the random numbers.
        agent: what learns.
        schedule: when.
        action_size: width of the actions that are remembered.

    Raises:
        ArgumentError: if the task has no time limit, or depends on the time.
    """

    def __init__(
        self, setting: Setting, seeds: Seeds, agent: Agent, schedule: Schedule, *, action_size: int
    ):
        task = setting.task
        if task.max_episode_steps is None:
            raise ArgumentError(
                f"{task.name} has no max_episode_steps: its episodes might never end"
            )
        if task.uses_time:
            raise ArgumentError(
                f"task {task.name} does not fit the algorithm: it depends on the time, and "
                "environments that advance as one batch are at different times"
            )
        self.updates = schedule.updates
        self._task, self._pause = task, setting.pause
        self._seeds, self._agent, self._schedule = seeds, agent, schedule
        self._dtype: torch.dtype = getattr(torch, schedule.dtype)
        self._replay = TransitionReplay(
            len(seeds),
            schedule.buffer_size,
            observation_size=task.observation_size,
            action_size=action_size,
        )
        self._file = ReplayFile(self._replay, setting.folder)
        self._members = Members(task, seeds.learning)
        self._diverged = torch.zeros(len(seeds), dtype=torch.bool)
        self._taken = 0  # steps of the update in progress

    @torch.no_grad()
    def update(self) -> dict[str, float]:
        """Let every environment take ``steps`` steps, learn after each, and evaluate.

        Raises:
            DivergenceError: if the physics are no longer finite, or the parameters of all seeds.
        """
        self._file.require()
        steps, chunk = self._schedule.steps, self._schedule.chunk
        measured: dict[str, float] = {}
        while True:
            whole, forgotten = self._all_but_memory(), self._replay.ahead(chunk)
            try:
                self._advance(min(chunk, steps - self._taken), whole, forgotten)
                if self._taken == steps:
                    measured = self._measured()
            except MbrlError:
                self._restore_all_but_memory(whole)
                self._replay.put_back(forgotten)
                raise
            if measured:
                break
            self._pause(f"step {self._taken} of {steps}")
        self._taken = 0
        return measured

    def actor(self) -> Actor:
        """Return all seeds' policies: episode i is played by the i-th, and so on in turn."""
        return SeedsActor(self._played, self._seeds.numbers, diverged=int(self._diverged.sum()))

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimisers, environments, memory and random states."""
        return {**self._all_but_memory(), "replay": self._file.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._file.load_state_dict(state["replay"])
        self._restore_all_but_memory(state)

    @abstractmethod
    def _drawn(self, steps: int) -> Tensor:
        """Draw the numbers that the actions of so many steps take, [steps, S, ...]."""

    @abstractmethod
    def _explored(self, observation: Tensor, drawn: Tensor, *, random: bool) -> Tensor:
        """Return the actions that are taken while learning, as they are remembered, [S, nu].

        Args:
            observation: [S, n].
            drawn: of the step, [S, ...].
            random: whether they are to be random, whatever the policies are.
        """

    @abstractmethod
    def _played(self, observation: Tensor, uniform: Tensor) -> Tensor:
        """Return the actions that are evaluated; see :data:`~mbrl.algorithms.omd.members.Act`."""

    @abstractmethod
    def _indices(self, counts: NDArray[np.int64], batch: int, generator: torch.Generator) -> Tensor:
        """Draw the indices [T, batch] of batches, from memories of so many transitions [T]."""

    def _controls(self, action: Tensor) -> Tensor:
        """Return what the task takes for actions as they are remembered."""
        return action

    def _advance(self, steps: int, whole: Mapping[str, Any], forgotten: Tensor) -> None:
        """Take some steps, with as many updates of the agent.

        Args:
            steps: how many.
            whole: all but the memory as it is, and
            forgotten: what the steps will take the place of, so that they can be taken once more.

        Raises:
            DivergenceError: if the physics are no longer finite, or the parameters of all seeds.
        """
        while True:
            failure = None
            try:
                self._take(steps)
            except (DivergenceError, TaskError) as error:
                failure = error
            lost = self._agent.lost()
            if failure is not None:  # an environment may refuse actions that are not numbers
                lost |= ~self._act_by_numbers()
            lost &= ~self._diverged
            if not lost.any():
                break
            diverged = self._diverged | lost
            numbers = [self._seeds.numbers[i] for i in lost.nonzero()]
            said = f"parameters, optimisers or actions are no longer finite, of seeds {numbers}"
            if diverged.all():
                raise DivergenceError(said) from failure
            self._restore_all_but_memory(whole)
            self._replay.put_back(forgotten)
            self._diverged = diverged
            said = f"{said}, after {self._replay.added} steps: they learn no more"
            warnings.warn(said, RuntimeWarning, stacklevel=2)
        if failure is not None:
            raise failure
        self._taken += steps

    def _act_by_numbers(self) -> Tensor:
        """Return whose policies' actions are finite where what they see is, [S] bool.

        It draws random numbers; whoever asks puts the generators back.
        """
        seen = self._members.observation
        action = self._explored(seen, self._drawn(1)[0], random=False)
        return action.isfinite().flatten(1).all(1) | ~seen.isfinite().all(1)

    def _take(self, steps: int) -> None:
        begun, first = self._replay.added, self._schedule.random_steps
        indices = iter(self._drawn_indices(steps))
        drawn = self._drawn(steps)
        noise = self._members.noise(steps)
        still = self._diverged.nonzero().flatten().tolist()
        kept = self._agent.numbers(still)
        for t in range(steps):
            learning = begun + t >= first
            action = self._explored(self._members.observation, drawn[t], random=not learning)
            self._members.step(self._controls(action), noise[t], self._replay, action)
            if learning:
                self._agent.update(lambda: self._replay.batch(next(indices), self._dtype))
                if still:
                    self._agent.put_back(still, kept)

    def _measured(self) -> dict[str, float]:
        """Evaluate; return what describes the update."""
        episodes = self._schedule.eval_episodes
        returns = returns_of(self._task, self._played, self._seeds.looking, episodes)
        each = returns.mean(1)
        measured = self._agent.measured(self._batch_to_measure())
        return {
            "env_steps": float(self._schedule.steps),
            "return_mean": float(each.mean()),
            "return_std": float(each.std(unbiased=False)),
            "diverged": float(self._diverged.sum()),
            **{name: float(value.mean()) for name, value in measured.items()},
            "model_error_median": float(measured["model_error"].quantile(0.5)),
            **{f"return_{s}": float(r) for s, r in zip(self._seeds.numbers, each, strict=True)},
        }

    def _drawn_indices(self, steps: int) -> Tensor:
        """Return the indices of all batches of some steps, [batches, S, batch_size]."""
        first = max(0, self._schedule.random_steps - self._replay.added)
        counts = [self._replay.size_after(t + 1) for t in range(first, steps)]
        every = np.repeat(np.asarray(counts, dtype=np.int64), self._agent.batches)
        size = self._schedule.batch_size
        return torch.stack([self._indices(every, size, g) for g in self._seeds.learning], 1)

    def _batch_to_measure(self) -> Batch:
        size = min(self._schedule.batch_size, len(self._replay))
        counts = np.array([len(self._replay)])
        indices = [self._indices(counts, size, g)[0] for g in self._seeds.looking]
        return self._replay.batch(torch.stack(indices), self._dtype)

    def _all_but_memory(self) -> dict[str, Any]:
        return {
            "agent": self._agent.state_dict(),
            "members": self._members.state_dict(),
            **self._seeds.state_dict(),
            "diverged": self._diverged.clone(),
            "added": self._replay.added,
            "taken": self._taken,
        }

    def _restore_all_but_memory(self, state: Mapping[str, Any]) -> None:
        self._agent.load_state_dict(state["agent"])
        self._members.load_state_dict(state["members"])
        self._seeds.load_state_dict(state)
        self._diverged = state.get("diverged", torch.zeros_like(self._diverged)).clone()
        self._replay.added, self._taken = int(state["added"]), int(state["taken"])
