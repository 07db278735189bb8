"""Models learned for return, for tasks whose actions are numbers; several seeds at once."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbrl.algorithms.algorithm import Setting
from mbrl.algorithms.omd.sac_agents import SAC_AGENTS, SACSettings
from mbrl.algorithms.omd.seeds import Seeds, normal
from mbrl.algorithms.omd.seedwise import Precision, Schedule, SeedwiseRun
from mbrl.data import any_indices
from mbrl.errors import ArgumentError
from mbrl.planning.checks import check_counts, check_positive, check_shares
from mbrl.tasks import Task

_CHUNK = 100  # steps; they take some seconds


class ContinuousOMD(SeedwiseRun):
    r"""Soft actor-critic in a learned model, and two ways to learn it (Nikishin et al. 2022).

    .. math:: \min_\theta C_{\text{real}}(w^*(\theta)), \quad
              \nabla_w C_{\text{model}}(w^*; \theta) = 0
              \qquad \text{or} \qquad
              \min_\theta E |s' - \hat s'_\theta|^2 + (r - \hat r_\theta)^2

    Critics minimise their temporal-difference error C with s', r predicted by the model; the actor
    learns from them at observations that were met (Haarnoja et al. 2018). ``omd`` learns the model
    so that the critics that come of it have a small error under the real s', r, by implicit
    differentiation; ``mle`` learns to predict s' and r. A model that is too small for the task, or
    is shown distractors, is where they differ.

    ``seeds`` runs are made together, of seeds ``seed``, ``seed + 1``, ..., each with environment,
    memory, networks and random numbers of its own: an update of run i alone (``seed=seed+i,
    seeds=1``) is the same to rounding, which in single precision grows to another run. Every step
    of every environment after the first ``random_steps`` is followed by an update; an episode that
    is cut by its time limit bootstraps, one that terminates does not. Here an update of the run is
    ``steps`` of these, after which each seed's mean action plays ``eval_episodes``: ``return_mean``
    and ``return_std`` are of the seeds' mean returns, ``return_<seed>`` are these, and
    ``env_steps`` counts those of one seed. A seed whose parameters are no longer finite is put back
    and learns no more; ``diverged`` counts these. What else is measured is of a batch, and its mean
    over seeds: ``critic_loss`` under real transitions, ``actor_loss``, ``values`` of the policy's
    actions, its ``temperature`` and ``entropy``, ``model_error`` (squared distance, of which
    ``model_error_median`` is the seeds' median) and ``reward_error`` of the model, and the norms of
    the gradients.

    What is evaluated are all seeds' policies: episode i is played by the i-th, and so on in turn.
    ``mbrl.load_policy(run_dir).of(seed)`` is that of one alone.
    The memory lies in the run's folder, checkpoints/replay.bin, every transition once.

    Args:
        setting: task and generator.
        agent: omd or mle.
        seeds: how many runs.
        updates: of the run; environments take ``updates`` times ``steps`` steps.
        steps: of each environment in an update; runs that differ in it draw other numbers.
        random_steps: first steps, whose actions are uniform.
        eval_episodes: of each seed, after every update.
        discount: gamma.
        tau: share of w in a step of the target networks.
        init_temperature: alpha at the beginning.
        target_entropy: what alpha is learned for; null: minus half the width of an action.
        batch_size: transitions of a batch, drawn with replacement.
        buffer_size: transitions that each seed remembers.
        hidden_dim: width of the two hidden layers of actor and critics.
        model_hidden_dim: that of the model's; small ones make a misspecified model.
        lr: learning rate of actor, critics and temperature, by Adam.
        model_lr: that of the model.
        inner_steps: steps K of critics and actor for each of the model.
        outer_steps: steps of the model for each of the environment.
        dtype: precision of networks.

    Raises:
        ArgumentError: if a number is out of its range, or the task does not fit.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        agent: Literal["omd", "mle"] = "omd",
        seeds: int = 1,
        updates: int = 200,
        steps: int = 5000,
        random_steps: int = 10_000,
        eval_episodes: int = 10,
        discount: float = 0.99,
        tau: float = 0.005,
        init_temperature: float = 1.0,
        target_entropy: float | None = None,
        batch_size: int = 256,
        buffer_size: int = 1_000_000,
        hidden_dim: int = 256,
        model_hidden_dim: int = 256,
        lr: float = 3e-4,
        model_lr: float = 3e-4,
        inner_steps: int = 1,
        outer_steps: int = 1,
        dtype: Precision = "float32",
    ):
        check_counts(
            "algorithm",
            seeds=seeds,
            hidden_dim=hidden_dim,
            model_hidden_dim=model_hidden_dim,
            inner_steps=inner_steps,
            outer_steps=outer_steps,
        )
        check_positive("algorithm", lr=lr, model_lr=model_lr, init_temperature=init_temperature)
        check_shares("algorithm", discount=discount, tau=tau)
        schedule = Schedule(
            updates=updates,
            steps=steps,
            random_steps=random_steps,
            eval_episodes=eval_episodes,
            batch_size=batch_size,
            buffer_size=buffer_size,
            dtype=dtype,
            chunk=_CHUNK,
        )
        task = setting.task
        _check_actions(task)
        own, width = Seeds(setting.generator.initial_seed(), seeds), task.action_size
        learner = SAC_AGENTS[agent](
            SACSettings(
                observation_size=task.observation_size,
                action_size=width,
                dtype=getattr(torch, dtype),
                discount=discount,
                tau=tau,
                init_temperature=init_temperature,
                target_entropy=-width / 2 if target_entropy is None else target_entropy,
                hidden_dim=hidden_dim,
                model_hidden_dim=model_hidden_dim,
                lr=lr,
                model_lr=model_lr,
                inner_steps=inner_steps,
                outer_steps=outer_steps,
            ),
            own.learning,
        )
        super().__init__(setting, own, learner, schedule, action_size=width)
        self._learner = learner

    def _drawn(self, steps: int) -> Tensor:
        return normal(self._seeds.learning, steps, self._task.action_size)

    def _explored(self, observation: Tensor, drawn: Tensor, *, random: bool) -> Tensor:
        if random:
            return 2 * torch.special.ndtr(drawn) - 1
        seen, noise = observation[:, None].to(self._dtype), drawn[:, None].to(self._dtype)
        sample = self._learner.actor.sample(self._learner.phi, seen, noise)
        return sample.action[:, 0].to(torch.float64)

    def _played(self, observation: Tensor, uniform: Tensor) -> Tensor:
        learner, seen = self._learner, observation.to(self._dtype)
        return self._controls(learner.actor.mean_action(learner.phi, seen).to(torch.float64))

    def _controls(self, action: Tensor) -> Tensor:
        """[-1, 1] -> the task's range."""
        low, high = self._task.action_low, self._task.action_high
        scaled = (low + high) / 2 + (high - low) / 2 * action
        return scaled.clamp(low, high)  # the sum is rounded

    def _indices(self, counts: NDArray[np.int64], batch: int, generator: torch.Generator) -> Tensor:
        return any_indices(counts, batch, generator)


def _check_actions(task: Task) -> None:
    if task.discrete_actions is not None:
        raise ArgumentError(
            f"task {task.name} does not fit algorithm.kind omd_sac, whose actions are numbers; "
            "of discrete actions: algorithm.kind omd"
        )
    if not bool((task.action_low.isfinite() & task.action_high.isfinite()).all()):
        raise ArgumentError(
            f"task {task.name} does not fit algorithm.kind omd_sac: actions without bounds cannot "
            "be scaled from [-1, 1]"
        )
