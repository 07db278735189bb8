"""Environments of several seeds that advance as one batch, and actors made of several policies."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mbrl.algorithms.omd.seeds import normal, uniform
from mbrl.data import TransitionReplay
from mbrl.errors import ArgumentError
from mbrl.tasks import Task
from mbrl.types import Array, Transition

# Observations [S, B, n], numbers in [0, 1) [S, B] -> actions [S, B, nu], each seed by its policy.
Act = Callable[[Tensor, Tensor], Tensor]


class Members:
    """One environment per seed, which begins a new episode when one ends.

    Args:
        task: of the environments; what happens there does not depend on the time.
        generators: of the seeds; they draw starts and noise.

    Attributes:
        observation: what is seen now, [S, n].
    """

    def __init__(self, task: Task, generators: Sequence[torch.Generator]):
        self._task, self._generators = task, generators
        starts = [task.start(1, generator) for generator in generators]
        self._state, self._context = (torch.cat(parts) for parts in zip(*starts, strict=True))
        self._ages = torch.zeros(len(generators), dtype=torch.int64)
        self.observation = task.observe(self._state, context=self._context)

    def noise(self, steps: int) -> Tensor:
        """Draw what so many steps take, [steps, S, noise_size]."""
        return normal(self._generators, steps, self._task.noise_size)

    def step(
        self,
        action: Tensor,
        noise: Tensor,
        replay: TransitionReplay,
        remembered: Tensor | None = None,
    ) -> None:
        """Take a step and remember it.

        Args:
            action: what the task takes, [S, nu].
            noise: of the step, [S, noise_size].
            replay: where it is remembered.
            remembered: what is remembered as the action; None: the action itself.
        """
        found = _stepped(self._task, self._state, action, self._context, noise)
        kept = action if remembered is None else remembered
        replay.add(self.observation, kept, found.reward, found.observation, found.terminated)
        self._state, self.observation = found.next_state, found.observation
        self._ages += 1
        over = found.terminated
        if self._task.max_episode_steps is not None:
            over = over | (self._ages >= self._task.max_episode_steps)
        for seed in over.nonzero()[:, 0].tolist():
            self._begin_again(seed)

    def state_dict(self) -> dict[str, Any]:
        """Return where the environments are."""
        return {
            "state": self._state.clone(),
            "context": self._context.clone(),
            "observation": self.observation.clone(),
            "ages": self._ages.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._state, self._context = state["state"].clone(), state["context"].clone()
        self.observation, self._ages = state["observation"].clone(), state["ages"].clone()

    def _begin_again(self, seed: int) -> None:
        start = self._task.start(1, self._generators[seed])
        self._state[seed], self._context[seed] = start.state[0], start.context[0]
        self.observation[seed] = self._task.observe(start.state, context=start.context)[0]
        self._ages[seed] = 0


@torch.no_grad()
def returns_of(
    task: Task, act: Act, generators: Sequence[torch.Generator], episodes: int
) -> Tensor:
    """Run complete episodes of every seed, all of them at once.

    Args:
        task: of the environments; it must have a time limit.
        act: the seeds' policies.
        generators: of the seeds; they draw starts, actions and noise.
        episodes: of each seed.

    Returns:
        Undiscounted returns [S, episodes].
    """
    seeds, steps = len(generators), task.max_episode_steps or 0
    starts = [task.start(episodes, generator) for generator in generators]
    state, context = (torch.cat(parts) for parts in zip(*starts, strict=True))
    drawn = uniform(generators, steps, episodes)
    noise = normal(generators, steps, episodes, task.noise_size).flatten(1, 2)
    observation = task.observe(state, context=context)
    returns = torch.zeros(seeds * episodes, dtype=torch.float64)
    rows = torch.arange(seeds * episodes)  # of the episodes that have not ended
    for t in range(steps):
        action = act(observation.view(seeds, episodes, -1), drawn[t]).flatten(0, 1)
        found = _stepped(task, state[rows], action[rows], context[rows], noise[t, rows])
        returns[rows] += found.reward
        state[rows], observation[rows] = found.next_state, found.observation
        rows = rows[~found.terminated]
        if not len(rows):
            break
    return returns.view(seeds, episodes)


class SeedsActor:
    """The policies of S seeds as one: row i of a batch is played by the seed of index i mod S.

    Args:
        act: the seeds' policies.
        numbers: the seeds.
        diverged: how many of them stay as they were before they diverged.
    """

    def __init__(self, act: Act, numbers: Sequence[int], diverged: int = 0):
        self._act, self._numbers, self._diverged = act, numbers, diverged
        self._seeds = len(numbers)
        self._generator = torch.Generator()
        self.reset()

    def of(self, seed: int) -> SeedsActor:
        """Return the policy of one seed, which plays all rows.

        Raises:
            ArgumentError: if the run has no such seed.
        """
        if seed not in self._numbers:
            raise ArgumentError(
                f"seed must be one of the run's, {', '.join(map(str, self._numbers))}, got {seed!r}"
            )
        row = self._numbers.index(seed)

        def act(observation: Tensor, uniform: Tensor) -> Tensor:
            shape = self._seeds, *observation.shape[1:]
            return self._act(observation.expand(shape), uniform.expand(shape[:2]))[row, None]

        return SeedsActor(act, [seed])

    def reset(self) -> None:
        """Begin new episodes, whose actions are drawn from the same numbers each time."""
        self._generator.manual_seed(0)

    def measured(self) -> dict[str, float]:
        """Return what belongs to a summary."""
        return {"diverged_seeds": float(self._diverged)}

    @torch.no_grad()
    def act(self, observation: Array) -> Array:
        """[B, n] -> [B, nu] in float64."""
        rows = torch.as_tensor(observation, dtype=torch.float64)
        batch, each = len(rows), -(-len(rows) // self._seeds)
        padded = rows.new_zeros((each * self._seeds, rows.shape[1]))
        padded[:batch] = rows
        dealt = padded.unflatten(0, (each, self._seeds)).transpose(0, 1)
        size = each, self._seeds
        drawn = torch.rand(size, generator=self._generator, dtype=torch.float64).T
        action = self._act(dealt, drawn)
        found: Array = action.transpose(0, 1).flatten(0, 1)[:batch].numpy()
        return found


def _stepped(
    task: Task, state: Tensor, action: Tensor, context: Tensor, noise: Tensor
) -> Transition:
    """Take a step of every row, by the noise that the task takes."""
    random: dict[str, Any] = {"noise": noise} if task.noise_size else {}
    return task.step(state, action, context=context, **random)
