"""Models learned for return, for tasks of discrete actions; several seeds at once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from mbrl.algorithms.algorithm import Actor, Setting
from mbrl.algorithms.omd.agents import AGENTS, Settings
from mbrl.algorithms.omd.members import Members, SeedsActor, returns_of, sampled
from mbrl.data import Batch, TransitionReplay, distinct_indices
from mbrl.errors import ArgumentError, DivergenceError
from mbrl.planning.checks import check_counts, check_not_negative, check_positive
from mbrl.tasks import TorchTask

_DTYPES = {"float32": torch.float32, "float64": torch.float64}


class DiscreteOMD:
    r"""Q-learning in a learned model, and three ways to learn the model (Nikishin et al. 2022).

    .. math:: L(w) = E \big( Q_w(s, a) - r - \gamma m V_{\bar w}(s') \big)^2, \qquad
              V_w(s) = \alpha \log \sum_a \exp \tfrac1\alpha Q_w(s, a)

    Q-functions minimise L with s', r predicted by the model. ``omd`` learns the model so that the
    Q-functions that come of it have a small error under the real s', r, by implicit
    differentiation; ``mle`` learns to predict s' and r; ``vep`` to predict r, and s' as far as some
    random functions of it go. A model that is too small for the task, or is shown distractors, is
    where they differ.

    ``seeds`` runs are made together, of seeds ``seed``, ``seed + 1``, ..., each with environment,
    memory, networks and random numbers of its own: run i alone (``seed=seed+i, seeds=1``) gives,
    to rounding, the same. Every step of every environment after the first ``random_steps`` is
    followed by an update. Here an update of the run is ``steps`` of these, after which each seed's
    policy plays ``eval_episodes``: ``return_mean`` and ``return_std`` are of the seeds' mean
    returns, ``return_<seed>`` are these, and ``env_steps`` counts those of one seed. What else is
    measured is of a batch, and its mean over seeds: ``vals_Q``, ``loss_Q`` and
    ``grad_norm_Q`` of Q under real transitions, the policy's ``entropy``, and ``next_obs_nll``,
    ``model_error`` (squared) and ``reward_error`` of the model.

    What is evaluated are all seeds' policies: episode i is played by the i-th, and so on in turn.

    Args:
        setting: task and generator.
        agent: omd, mle or vep.
        seeds: how many runs.
        updates: of the run; environments take ``updates`` times ``steps`` steps.
        steps: of each environment in an update.
        random_steps: first steps, whose actions are uniform.
        eval_episodes: of each seed, after every update.
        discount: gamma.
        alpha: temperature of the softmax over actions, in policies and values.
        tau: share of w in a step of the target networks.
        epsilon: share of uniform actions while learning.
        batch_size: transitions of a batch, drawn without replacement.
        buffer_size: transitions that each seed remembers.
        hidden_dim: width of the two hidden layers of the Q-functions.
        model_hidden_dim: that of the model's; small ones make a misspecified model.
        lr: learning rate of the Q-functions, by Adam.
        model_lr: that of the model.
        num_Q_steps: steps K of Q in an update; for omd, of the inner problem.
        num_T_steps: steps of the model in an update; for omd, each with its K steps of Q.
        double: two Q-functions, of which targets take the smaller.
        hard: V is the maximum of Q instead, and policies are greedy.
        probabilistic: the model predicts a Gaussian, from which s' is sampled.
        learn_reward: whether r is predicted; otherwise Q is learned from the real one.
        warm_opt: omd: whether the inner optimiser remembers earlier updates, as it always does for
            mle and vep. Not to: with K = 1 its step is that of sign descent.
        warm_start: omd: whether the inner problem is solved from the last solution; otherwise from
            other random weights every time, as those of the target networks.
        adjoint: omd: the rule for the inverse Hessian in the implicit gradient; see
            :class:`~mbrl.ops.Identity`.
        damping: of the Hessian; for conjugate_gradient.
        adjoint_iterations: at most; for conjugate_gradient.
        dtype: precision of networks.

    Raises:
        ArgumentError: if a number is out of its range, or the task's steps cannot be batched or its
            actions are not discrete.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        agent: Literal["omd", "mle", "vep"] = "omd",
        seeds: int = 10,
        updates: int = 200,
        steps: int = 1000,
        random_steps: int = 1000,
        eval_episodes: int = 10,
        discount: float = 0.99,
        alpha: float = 0.01,
        tau: float = 0.01,
        epsilon: float = 0.1,
        batch_size: int = 256,
        buffer_size: int = 200_000,
        hidden_dim: int = 32,
        model_hidden_dim: int = 32,
        lr: float = 3e-4,
        model_lr: float = 1e-3,
        num_Q_steps: int = 1,
        num_T_steps: int = 1,
        double: bool = True,
        hard: bool = False,
        probabilistic: bool = False,
        learn_reward: bool = True,
        warm_opt: bool = False,
        warm_start: bool = True,
        adjoint: Literal["identity", "conjugate_gradient"] = "identity",
        damping: float = 1e-5,
        adjoint_iterations: int = 100,
        dtype: Literal["float32", "float64"] = "float64",
    ):
        check_counts(
            "algorithm",
            seeds=seeds,
            updates=updates,
            steps=steps,
            eval_episodes=eval_episodes,
            batch_size=batch_size,
            hidden_dim=hidden_dim,
            model_hidden_dim=model_hidden_dim,
            num_Q_steps=num_Q_steps,
            num_T_steps=num_T_steps,
            adjoint_iterations=adjoint_iterations,
        )
        check_positive("algorithm", alpha=alpha, lr=lr, model_lr=model_lr)
        check_not_negative("algorithm", damping=damping)
        for name, share in (("discount", discount), ("tau", tau), ("epsilon", epsilon)):
            if not 0 <= share <= 1:
                raise ArgumentError(f"algorithm.{name} must lie in [0, 1], got {share}")
        if not batch_size <= min(random_steps, buffer_size):
            raise ArgumentError(
                "algorithm.batch_size must be at most random_steps and buffer_size, "
                f"{min(random_steps, buffer_size)}, got {batch_size}"
            )
        self._task = _checked_task(setting)
        self.updates, self._steps, self._random_steps = updates, steps, random_steps
        self._episodes, self._epsilon, self._batch_size = eval_episodes, epsilon, batch_size
        self._dtype, actions = _DTYPES[dtype], self._task.discrete_actions or 0
        first = setting.generator.initial_seed()
        self._seeds = range(first, first + seeds)
        self._generators = [torch.Generator().manual_seed(seed) for seed in self._seeds]
        # Their own, so that learning does not depend on how often it is looked at.
        self._eval_generators = [
            torch.Generator().manual_seed(int(torch.randint(2**62, (1,), generator=generator)))
            for generator in self._generators
        ]
        self._agent = AGENTS[agent](
            Settings(
                observation_size=self._task.observation_size,
                actions=actions,
                dtype=self._dtype,
                discount=discount,
                alpha=alpha,
                tau=tau,
                hidden_dim=hidden_dim,
                model_hidden_dim=model_hidden_dim,
                lr=lr,
                model_lr=model_lr,
                num_Q_steps=num_Q_steps,
                num_T_steps=num_T_steps,
                double=double,
                hard=hard,
                probabilistic=probabilistic,
                learn_reward=learn_reward,
                warm_opt=warm_opt,
                warm_start=warm_start,
                adjoint=adjoint,
                damping=damping,
                adjoint_iterations=adjoint_iterations,
            ),
            self._generators,
        )
        self._replay = TransitionReplay(
            seeds, buffer_size, observation_size=self._task.observation_size, action_size=1
        )
        self._members = Members(self._task, self._generators)

    @torch.no_grad()
    def update(self) -> dict[str, float]:
        """Let every environment take ``steps`` steps, learn after each, and evaluate."""
        before, added = self._all_but_memory(), self._replay.added
        self._advance()
        flats = self._agent.w.flat, self._agent.theta.flat
        lost = ~torch.cat(flats, 1).isfinite().all(1)
        if bool(lost.any()):
            self._restore_all_but_memory(before)
            self._replay.added = added
            seeds = [
                seed for seed, is_lost in zip(self._seeds, lost.tolist(), strict=True) if is_lost
            ]
            raise DivergenceError(f"parameters are no longer finite, those of seeds {seeds}")
        returns = returns_of(self._task, self._policy, self._eval_generators, self._episodes)
        each = returns.mean(1)
        measured = self._agent.measured(self._batch_to_measure())
        return {
            "env_steps": float(self._steps),
            "return_mean": float(each.mean()),
            "return_std": float(each.std(unbiased=False)),
            **{name: float(value.mean()) for name, value in measured.items()},
            **{f"return_{s}": float(r) for s, r in zip(self._seeds, each, strict=True)},
        }

    def actor(self) -> Actor:
        """Return all seeds' policies; see the class."""
        return SeedsActor(self._policy, len(self._seeds))

    def state_dict(self) -> dict[str, Any]:
        """Networks, optimisers, environments, memory and random states."""
        return {**self._all_but_memory(), "replay": self._replay.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        self._replay.load_state_dict(state["replay"])
        self._restore_all_but_memory(state)

    def _advance(self) -> None:
        begun = self._replay.added
        indices = iter(self._drawn_indices())
        uniform = self._uniform()
        noise = self._members.noise(self._steps)
        observation = self._members.observation
        for t in range(self._steps):
            learning = begun + t >= self._random_steps
            action = self._action(observation, uniform[t], self._epsilon if learning else 1.0)
            observation = self._members.step(action, noise[t], self._replay)
            if learning:
                self._agent.update(lambda: self._replay.batch(next(indices), self._dtype))

    def _drawn_indices(self) -> Tensor:
        """Return the indices of all batches of an update, [batches, S, batch_size]."""
        begun = self._replay.added
        first = max(0, self._random_steps - begun)
        counts = [self._replay.size_after(t + 1) for t in range(first, self._steps)]
        every = np.repeat(np.asarray(counts, dtype=np.int64), self._agent.batches)
        return torch.stack(
            [distinct_indices(every, self._batch_size, g) for g in self._generators], 1
        )

    def _uniform(self) -> Tensor:
        """Return numbers that actions are drawn by, [steps, S]."""
        size = (self._steps,)
        return torch.stack(
            [torch.rand(size, generator=g, dtype=torch.float64) for g in self._generators], 1
        )

    def _action(self, observation: Tensor, uniform: Tensor, epsilon: float) -> Tensor:
        """Draw actions [S, 1] for observations [S, n]."""
        policy = self._policy(observation[:, None])
        mixed = policy.lerp_(torch.full_like(policy, 1 / policy.shape[-1]), epsilon)
        return sampled(mixed, uniform[:, None])[:, 0]

    def _policy(self, observation: Tensor) -> Tensor:
        """[S, B, n] -> [S, B, A] in double precision."""
        found = self._agent.q.policy(self._agent.w, observation.to(self._dtype))
        return found.to(torch.float64)

    def _batch_to_measure(self) -> Batch:
        counts = np.array([len(self._replay)])
        size = min(self._batch_size, len(self._replay))
        indices = [distinct_indices(counts, size, g)[0] for g in self._eval_generators]
        return self._replay.batch(torch.stack(indices), self._dtype)

    def _all_but_memory(self) -> dict[str, Any]:
        return {
            "agent": self._agent.state_dict(),
            "members": self._members.state_dict(),
            "generators": [g.get_state() for g in self._generators],
            "eval_generators": [g.get_state() for g in self._eval_generators],
        }

    def _restore_all_but_memory(self, state: Mapping[str, Any]) -> None:
        self._agent.load_state_dict(state["agent"])
        self._members.load_state_dict(state["members"])
        for name, generators in (
            ("generators", self._generators),
            ("eval_generators", self._eval_generators),
        ):
            for generator, stored in zip(generators, state[name], strict=True):
                generator.set_state(stored)


def _checked_task(setting: Setting) -> TorchTask:
    task = setting.task
    if not isinstance(task, TorchTask) or task.discrete_actions is None:
        raise ArgumentError(
            f"task {task.name} does not fit algorithm.kind omd, which takes discrete actions and "
            "steps in torch; legal: CartPole-v1"
        )
    if task.max_episode_steps is None:
        raise ArgumentError(f"{task.name} has no max_episode_steps: its episodes might never end")
    return task
