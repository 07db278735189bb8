"""Environments of several seeds that advance as one batch, and how actions are drawn there."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mbrl.data import TransitionReplay
from mbrl.tasks import TorchTask
from mbrl.types import Array

Policy = Callable[[Tensor], Tensor]  # [S, B, n] -> probabilities of the actions [S, B, A]


def sampled(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Return indices [S, B, 1] float64 by inverting distributions [S, B, A] at numbers [S, B]."""
    passed = probabilities.cumsum(-1)[..., :-1] < uniform[..., None]
    return passed.sum(-1, keepdim=True, dtype=torch.float64)


class Members:
    """One environment per seed, which begins a new episode when one ends.

    Args:
        task: of the environments.
        generators: of the seeds; they draw starts and noise.
    """

    def __init__(self, task: TorchTask, generators: Sequence[torch.Generator]):
        self._task, self._generators = task, generators
        self._state = torch.cat([task.reset(1, generator) for generator in generators])
        self._ages = torch.zeros(len(generators), dtype=torch.int64)

    @property
    def observation(self) -> Tensor:
        """What is seen now, [S, n]."""
        return self._task.observe(self._state)

    def noise(self, steps: int) -> Tensor:
        """Draw what so many steps take, [steps, S, noise_size]."""
        return _noise(self._task, self._generators, steps, 1)[:, :, 0]

    def step(self, action: Tensor, noise: Tensor, replay: TransitionReplay) -> Tensor:
        """Take a step by actions [S, 1], remember it, and return what is seen then, [S, n]."""
        seen = self.observation
        found = self._task.step(self._state, action, noise=noise)
        replay.add(seen, action, found.reward, found.observation, found.terminated)
        self._state = found.next_state
        self._ages += 1
        over = found.terminated
        if self._task.max_episode_steps is not None:
            over = over | (self._ages >= self._task.max_episode_steps)
        for seed in over.nonzero()[:, 0].tolist():
            self._state[seed] = self._task.reset(1, self._generators[seed])[0]
            self._ages[seed] = 0
        return self.observation

    def state_dict(self) -> dict[str, Any]:
        """Return where the environments are."""
        return {"state": self._state.clone(), "ages": self._ages.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._state, self._ages = state["state"].clone(), state["ages"].clone()


@torch.no_grad()
def returns_of(
    task: TorchTask,
    policy: Policy,
    generators: Sequence[torch.Generator],
    episodes: int,
) -> Tensor:
    """Run complete episodes of every seed, all of them at once.

    Args:
        task: of the environments; it must have a time limit.
        policy: of the seeds.
        generators: of the seeds; they draw starts, actions and noise.
        episodes: of each seed.

    Returns:
        Undiscounted returns [S, episodes].
    """
    seeds, steps = len(generators), task.max_episode_steps or 0
    state = torch.cat([task.reset(episodes, generator) for generator in generators])
    size = steps, episodes
    uniform = torch.stack(
        [torch.rand(size, generator=g, dtype=torch.float64) for g in generators], 1
    )
    noise = _noise(task, generators, steps, episodes).flatten(1, 2)
    observation = task.observe(state)
    returns = torch.zeros(seeds * episodes, dtype=torch.float64)
    running = torch.ones(seeds * episodes, dtype=torch.bool)
    for t in range(steps):
        probabilities = policy(observation.view(seeds, episodes, -1))
        action = sampled(probabilities, uniform[t]).view(-1, 1)
        found = task.step(state, action, noise=noise[t])
        returns += found.reward * running
        running &= ~found.terminated
        if not bool(running.any()):
            break
        state, observation = found.next_state, found.observation
    return returns.view(seeds, episodes)


class SeedsActor:
    """The policies of S seeds as one: row i of a batch is played by seed i mod S.

    Args:
        policy: of the seeds.
        seeds: S.
    """

    def __init__(self, policy: Policy, seeds: int):
        self._policy, self._seeds = policy, seeds
        self._generator = torch.Generator()
        self.reset()

    def reset(self) -> None:
        """Begin new episodes, whose actions are drawn from the same numbers each time."""
        self._generator.manual_seed(0)

    @torch.no_grad()
    def act(self, observation: Array) -> Array:
        """[B, n] -> indices [B, 1] in float64, drawn from the softmax policies."""
        rows = torch.as_tensor(observation, dtype=torch.float64)
        batch, each = len(rows), -(-len(rows) // self._seeds)
        padded = rows.new_zeros((each * self._seeds, rows.shape[1]))
        padded[:batch] = rows
        dealt = padded.unflatten(0, (each, self._seeds)).transpose(0, 1)
        size = each, self._seeds
        uniform = torch.rand(size, generator=self._generator, dtype=torch.float64).T
        action = sampled(self._policy(dealt), uniform)
        found: Array = action.transpose(0, 1).flatten(0, 1)[:batch].numpy()
        return found


def _noise(task: TorchTask, generators: Sequence[torch.Generator], steps: int, rows: int) -> Tensor:
    """Draw standard normal numbers [steps, S, rows, noise_size]."""
    size = steps, rows, task.noise_size
    return torch.stack([torch.randn(size, generator=g, dtype=torch.float64) for g in generators], 1)
