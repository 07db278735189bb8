"""Models learned for return, for tasks of discrete actions; several seeds at once."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mbrl.algorithms.algorithm import Setting
from mbrl.algorithms.omd.agents import AGENTS, Settings
from mbrl.algorithms.omd.idle import refuse_idle
from mbrl.algorithms.omd.seeds import Seeds, uniform
from mbrl.algorithms.omd.seedwise import Precision, Schedule, SeedwiseRun
from mbrl.data import distinct_indices
from mbrl.errors import ArgumentError
from mbrl.nn import threads_to_passes
from mbrl.planning.checks import check_counts, check_not_negative, check_positive, check_shares

_CHUNK = 1000  # steps; they take a fraction of a second


class DiscreteOMD(SeedwiseRun):
    r"""Q-learning in a learned model, and three ways to learn the model (Nikishin et al. 2022).

    .. math:: L(w) = E \big( Q_w(s, a) - r - \gamma m V_{\bar w}(s') \big)^2, \qquad
              V_w(s) = \alpha \log \sum_a \exp \tfrac1\alpha Q_w(s, a)

    Q-functions minimise L with s', r predicted by the model. ``omd`` learns the model so that the
    Q-functions that come of it have a small error under the real s', r, by implicit
    differentiation; ``mle`` learns to predict s' and r; ``vep`` to predict r, and s' as far as some
    random functions of it go. A model that is too small for the task, or is shown distractors, is
    where they differ.

    ``seeds`` runs are made together, of seeds ``seed``, ``seed + 1``, ..., each with environment,
    memory, networks and random numbers of its own: an update of run i alone (``seed=seed+i,
    seeds=1``) is the same to rounding, which in single precision grows to another run in a
    thousand updates or so. Every step of every environment after the first ``random_steps`` is
    followed by an update. Here an update of the run is ``steps`` of these, after which each seed's
    policy plays ``eval_episodes``: ``return_mean`` and ``return_std`` are of the seeds' mean
    returns, ``return_<seed>`` are these, and ``env_steps`` counts those of one seed. A seed whose
    parameters are no longer finite is put back and learns no more; ``diverged`` counts these. What
    else is measured is of a batch, and its mean over seeds: ``vals_Q``, ``loss_Q`` and
    ``grad_norm_Q`` of Q under real transitions, the policy's ``entropy``, ``next_obs_nll``,
    ``model_error`` (squared) and ``reward_error`` of the model, and ``adjoint_residual``, relative,
    where an adjoint system is solved. A seed that diverged may make up nearly all of a mean:
    ``model_error_median`` is the seeds' median.

    What is evaluated are all seeds' policies: episode i is played by the i-th, and so on in turn.
    ``mbrl.load_policy(run_dir).of(seed)`` is that of one alone.
    The memory lies in the run's folder, checkpoints/replay.bin, every transition once.

    Args:
        setting: task and generator.
        agent: omd, mle or vep.
        seeds: how many runs.
        updates: of the run; environments take ``updates`` times ``steps`` steps.
        steps: of each environment in an update; runs that differ in it draw other numbers.
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
        adjoint: omd: the rule for the inverse Hessian in the implicit gradient. Q's Hessian is
            indefinite: ``conjugate_gradient``, which the paper's authors offer, takes it for
            positive definite, and may be further from the solution than zero is; with
            ``normal_equations`` the residual falls, slowly. See
            :class:`~mbrl.ops.ConjugateGradient`.
        damping: added to the Hessian where a system is solved.
        adjoint_iterations: of conjugate gradients, at most.
        dtype: precision of networks.

    Raises:
        ArgumentError: if a number is out of its range, or the task's steps cannot be batched or its
            actions are not discrete, or an option is given that the agent does not have.
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
        adjoint: Literal["identity", "conjugate_gradient", "normal_equations"] = "identity",
        damping: float = 1e-5,
        adjoint_iterations: int = 100,
        dtype: Precision = "float64",
    ):
        check_counts(
            "algorithm",
            seeds=seeds,
            hidden_dim=hidden_dim,
            model_hidden_dim=model_hidden_dim,
            num_Q_steps=num_Q_steps,
            num_T_steps=num_T_steps,
            adjoint_iterations=adjoint_iterations,
        )
        check_positive("algorithm", alpha=alpha, lr=lr, model_lr=model_lr)
        check_not_negative("algorithm", damping=damping)
        check_shares("algorithm", discount=discount, tau=tau, epsilon=epsilon)
        unused: dict[str, object]
        if agent != "omd":
            unused = {"warm_opt": warm_opt, "warm_start": warm_start, "adjoint": adjoint}
            refuse_idle(
                DiscreteOMD, unused, f"algorithm.agent {agent} solves no inner problem", "agent=omd"
            )
        if adjoint == "identity":
            unused = {"damping": damping, "adjoint_iterations": adjoint_iterations}
            refuse_idle(
                DiscreteOMD,
                unused,
                "algorithm.adjoint identity solves no system",
                "another adjoint",
            )
        if not batch_size <= min(random_steps, buffer_size):
            raise ArgumentError(
                "algorithm.batch_size must be at most random_steps and buffer_size, "
                f"{min(random_steps, buffer_size)}, got {batch_size}"
            )
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
        if task.discrete_actions is None:
            raise ArgumentError(
                f"task {task.name} does not fit algorithm.kind omd, which takes discrete actions; "
                "legal: CartPole-v1, mbrl/TwoState-v0, a TorchTask of yours; of numbers: "
                "algorithm.kind omd_sac"
            )
        own = Seeds(setting.generator.initial_seed(), seeds)
        learner = AGENTS[agent](
            Settings(
                observation_size=task.observation_size,
                actions=task.discrete_actions,
                dtype=getattr(torch, dtype),
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
            own.learning,
        )
        super().__init__(setting, own, learner, schedule, action_size=1)
        self._learner, self._epsilon = learner, epsilon

    def update(self) -> dict[str, float]:
        """Let every environment take ``steps`` steps, learn after each, and evaluate.

        Raises:
            DivergenceError: if the parameters of all seeds are no longer finite.
        """
        small = self._learner.q.network.is_native and self._learner.model.is_native
        with threads_to_passes() if small else nullcontext():
            return super().update()

    def _drawn(self, steps: int) -> Tensor:
        return uniform(self._seeds.learning, steps)

    def _explored(self, observation: Tensor, drawn: Tensor, *, random: bool) -> Tensor:
        policy = self._policy(observation[:, None])
        even = torch.full_like(policy, 1 / policy.shape[-1])
        mixed = policy.lerp_(even, 1.0 if random else self._epsilon)
        return sampled(mixed, drawn[:, None])[:, 0]

    def _played(self, observation: Tensor, uniform: Tensor) -> Tensor:
        return sampled(self._policy(observation), uniform)

    def _indices(self, counts: NDArray[np.int64], batch: int, generator: torch.Generator) -> Tensor:
        return distinct_indices(counts, batch, generator)

    def _policy(self, observation: Tensor) -> Tensor:
        """[S, B, n] -> [S, B, A] in double precision."""
        learner = self._learner
        found = learner.q.policy(learner.w, observation.to(self._dtype))
        return found.to(torch.float64)


def sampled(probabilities: Tensor, uniform: Tensor) -> Tensor:
    """Return indices [S, B, 1] float64 by inverting distributions [S, B, A] at numbers [S, B]."""
    passed = probabilities.cumsum(-1)[..., :-1] < uniform[..., None]
    return passed.sum(-1, keepdim=True, dtype=torch.float64)
