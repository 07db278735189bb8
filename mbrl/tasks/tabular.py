"""Markov decision processes of finitely many states and actions, given by tables."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray
from torch import Tensor, nn

from mbrl.errors import ArgumentError
from mbrl.options import completed
from mbrl.registry import TASKS
from mbrl.tasks.torch_task import TorchTask
from mbrl.types import Array, Start, Transition

_ROUNDING = 1e-9  # what probabilities may fail to add up to 1 by


@dataclass(frozen=True, eq=False)
class TabularMDP:
    r"""The tables of a decision process, and the temperature of its soft policies.

    .. math:: \max_\pi \; E_{s_0 \sim \mu} \sum_t \gamma^t r(s_t, a_t), \qquad
              s_{t+1} \sim P(\cdot \mid s_t, a_t), \qquad
              \pi(a \mid s) \propto e^{Q(s, a) / \tau}

    Attributes:
        transitions: P, [S, A, S], float64.
        rewards: r, [S, A].
        discount: gamma.
        initial: mu, [S].
        temperature: tau, in units of reward.

    Raises:
        ArgumentError: if shapes disagree, probabilities are none, or a number is out of range.
    """

    transitions: Tensor
    rewards: Tensor
    discount: float
    initial: Tensor
    temperature: float

    def __post_init__(self) -> None:
        states, actions = self.rewards.shape
        for name, shape in (("transitions", (states, actions, states)), ("initial", (states,))):
            table: Tensor = getattr(self, name)
            if table.shape != shape:
                raise ArgumentError(
                    f"{name} must have shape {list(shape)}, got {list(table.shape)}"
                )
            wrong = (table.sum(-1) - 1).abs().max() > _ROUNDING
            if wrong or table.min() < 0:
                raise ArgumentError(f"{name} must hold probabilities that add up to 1")
        if not 0 <= self.discount < 1:
            raise ArgumentError(f"discount must lie in [0, 1), got {self.discount}")
        if not 0 < self.temperature < math.inf:
            raise ArgumentError(f"temperature must be positive, got {self.temperature}")

    @property
    def states(self) -> int:
        """How many there are, S."""
        return self.rewards.shape[0]

    @property
    def actions(self) -> int:
        """How many there are, A."""
        return self.rewards.shape[1]


def two_state(*, discount: float = 0.9, temperature: float = 0.01) -> TabularMDP:
    """Return the process of Dadashi et al. 2019 (arXiv:1901.11524), appendix A, example (d).

    Args:
        discount: gamma.
        temperature: tau.
    """

    def table(rows: object) -> Tensor:
        return torch.tensor(rows, dtype=torch.float64)

    return TabularMDP(
        transitions=table([[[0.7, 0.3], [0.99, 0.01]], [[0.2, 0.8], [0.99, 0.01]]]),
        rewards=table([[-0.45, -0.1], [0.5, 0.5]]),
        discount=discount,
        initial=table([0.5, 0.5]),
        temperature=temperature,
    )


class TabularTask(TorchTask):
    r"""A :class:`TabularMDP` as a task: a state [B, 1] and an action [B, 1] are indices in float64.

    The next state is that at which the distribution function of :math:`P(\cdot \mid s, a)` first
    exceeds :math:`\Phi(\xi)`, with :math:`\xi` the noise of the step. The state is observed. No
    episode ends before its time, and returns of episodes are not discounted.

    Args:
        name: of the task.
        mdp: the tables.
        max_episode_steps: length at which an episode is cut.

    Attributes:
        mdp: the tables.

    Raises:
        ArgumentError: if the length is below 1.
    """

    state_size = observation_size = noise_size = 1
    max_episode_steps: int

    def __init__(self, name: str, mdp: TabularMDP, max_episode_steps: int):
        if max_episode_steps < 1:
            raise ArgumentError(
                f"task_args.max_episode_steps must be at least 1, got {max_episode_steps}"
            )
        self.name, self.mdp, self.max_episode_steps = name, mdp, max_episode_steps
        self.discrete_actions = mdp.actions
        self.action_low = torch.zeros(1, dtype=torch.float64)
        self.action_high = torch.full((1,), mdp.actions - 1.0, dtype=torch.float64)

    def start(self, batch: int, generator: torch.Generator) -> Start:
        """Draw initial states."""
        drawn = torch.randn((batch, 1), generator=generator, dtype=torch.float64)
        state = _drawn(self.mdp.initial.expand(batch, -1), drawn)
        return Start(state, state.new_empty((batch, 0)))

    def dynamics(self, **options: Any) -> nn.Module:
        """Refuse: nothing can be differentiated by an index.

        Raises:
            ArgumentError: always.
        """
        raise ArgumentError(f"{self.name}: its states are indices, which have no derivatives")

    def observe(self, state: Tensor, *, t: int = 0, context: Tensor | None = None) -> Tensor:
        """[B, 1] -> [B, 1], the state itself."""
        return state

    def reward(
        self,
        state: Tensor,
        action: Tensor,
        next_state: Tensor,
        *,
        t: int = 0,
        context: Tensor | None = None,
    ) -> Tensor:
        """r(s, a), [B]."""
        return self.mdp.rewards[self._rows(state, action)]

    def terminated(
        self, next_state: Tensor, *, t: int = 0, context: Tensor | None = None
    ) -> Tensor:
        """Nowhere, [B]."""
        return torch.zeros(len(next_state), dtype=torch.bool)

    def step(
        self,
        state: Tensor,
        action: Tensor,
        *,
        t: int = 0,
        context: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Transition:
        """What ``env.step`` returns from these states under this noise, [B, 1] each.

        Raises:
            ArgumentError: if there is no noise, or an index is none.
        """
        if noise is None or noise.shape != state.shape:
            found = None if noise is None else list(noise.shape)
            raise ArgumentError(f"noise must have shape {list(state.shape)}, got {found}")
        following = _drawn(self.mdp.transitions[self._rows(state, action)], noise)
        reward = self.reward(state, action, following)
        return Transition(following, reward, following, self.terminated(following))

    def advance(
        self,
        state: Tensor,
        action: Tensor,
        *,
        t: int = 0,
        context: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> Transition:
        """The same as :meth:`step`: there is nothing to differentiate."""
        return self.step(state, action, t=t, context=context, noise=noise)

    def make_env(self, render_mode: str | None = None) -> Any:
        """Return an environment of discrete actions; it draws nothing, whatever the mode."""
        return gymnasium.wrappers.TimeLimit(TabularEnv(self), self.max_episode_steps)

    def state_of(self, env: Any) -> Array:
        """Return the state [1] of an environment of :meth:`make_env`."""
        state: Array = env.unwrapped.state
        return state.copy()

    def _rows(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Return the indices of the tables' rows."""
        for name, value, count in (
            ("state", state, self.mdp.states),
            ("action", action, self.mdp.actions),
        ):
            wrong = (value != value.round()) | (value < 0) | (value >= count)
            if wrong.any():
                raise ArgumentError(
                    f"{self.name}: {name} must be an index from 0 to {count - 1}, "
                    f"got {float(value[wrong][0]):g}"
                )
        return state[:, 0].long(), action[:, 0].long()


class TabularEnv(gymnasium.Env):
    """The environment of a :class:`TabularTask`, by whose ``step`` it takes its own.

    Args:
        task: the task.

    Attributes:
        state: the index of the state, [1] float64.
    """

    def __init__(self, task: TabularTask):
        self._task = task
        self.action_space = Discrete(task.mdp.actions)
        self.observation_space = Box(0.0, task.mdp.states - 1.0, (1,), dtype=np.float64)
        self.state: Array = np.zeros(1)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        """Draw an initial state."""
        super().reset(seed=seed)
        self.state = _drawn(self._task.mdp.initial[None], self._noise())[0].numpy()
        return self.state.copy(), {}

    def step(self, action: int) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        """Take a step under the index of an action."""
        given = torch.tensor([[float(action)]], dtype=torch.float64)
        found = self._task.step(torch.from_numpy(self.state)[None], given, noise=self._noise())
        self.state = found.next_state[0].numpy()
        return self.state.copy(), float(found.reward[0]), False, False, {}

    def _noise(self) -> Tensor:
        return torch.from_numpy(self.np_random.standard_normal((1, 1)))


def _drawn(probabilities: Tensor, noise: Tensor) -> Tensor:
    """Return indices [B, 1] of the distributions [B, S], by inverting them at Phi(noise)."""
    sums = probabilities.cumsum(-1)
    # Phi may be rounded to 1, and the last sum to below: nothing of probability 0 is drawn.
    passed = (sums <= torch.special.ndtr(noise)) & (sums < sums[:, -1:])
    return passed.sum(-1, keepdim=True).to(torch.float64)


def register_tabular() -> None:
    """Register the two-state process as a task."""
    TASKS.register("mbrl/TwoState-v0")(_made)


def _made(**options: Any) -> TabularTask:
    return _two_state_task(**completed(_two_state_task, options, "task_args"))


def _two_state_task(
    *,
    discount: float = 0.9,
    temperature: float = 0.01,
    max_episode_steps: int = 100,
    threads: int | None = None,
) -> TabularTask:
    """``threads`` are of no use here, where there is no engine."""
    mdp = two_state(discount=discount, temperature=temperature)
    return TabularTask("mbrl/TwoState-v0", mdp, max_episode_steps)
