"""How a model and Q-functions are learned from batches: OMD, maximum likelihood, value equivalence.

All three keep S seeds side by side, and learn Q-functions from what their model predicts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from mbrl.algorithms.omd.agent import Agent, Draw, Parts
from mbrl.algorithms.omd.inner import SoftQProblem
from mbrl.algorithms.omd.model import Model, Prediction
from mbrl.algorithms.omd.soft_q import SoftQ
from mbrl.data import Batch
from mbrl.nn import FlatAdam, FlatMLP
from mbrl.ops import Adjoint, AdjointSystem, ConjugateGradient, Identity, implicit_gradient

_LAST_GAIN = 0.01
_VALUES = 5  # functions that value equivalence is asked of


@dataclass(frozen=True)
class Settings:
    """What agents are made of; see :class:`~mbrl.algorithms.omd.discrete.DiscreteOMD`."""

    observation_size: int
    actions: int
    dtype: torch.dtype
    discount: float
    alpha: float
    tau: float
    hidden_dim: int
    model_hidden_dim: int
    lr: float
    model_lr: float
    num_Q_steps: int
    num_T_steps: int
    double: bool
    hard: bool
    probabilistic: bool
    learn_reward: bool
    warm_opt: bool
    warm_start: bool
    adjoint: Literal["identity", "conjugate_gradient", "normal_equations"]
    damping: float
    adjoint_iterations: int


class DiscreteAgent(Agent):
    """Q-functions, their targets and a model, with an Adam for each that learns.

    Args:
        settings: what they are made of.
        generators: of the seeds; they draw the initial weights, and the noise of predictions.

    Attributes:
        q: the Q-functions.
        w: their parameters.
        model: the model.
        theta: its parameters.
    """

    def __init__(self, settings: Settings, generators: Sequence[torch.Generator]):
        s = self._settings = settings
        self._generators = generators
        self.q = SoftQ(
            s.observation_size,
            s.actions,
            hidden=(s.hidden_dim, s.hidden_dim),
            discount=s.discount,
            alpha=s.alpha,
            double=s.double,
            hard=s.hard,
        )
        self.model = Model(
            s.observation_size,
            s.actions,
            hidden=(s.model_hidden_dim, s.model_hidden_dim),
            probabilistic=s.probabilistic,
        )
        self.w = self.q.network.initial(generators, s.dtype, last_gain=_LAST_GAIN)
        self._w_ = self.q.network.parameters(self.w.flat.clone())
        self.theta = self.model.initial(generators, s.dtype, last_gain=_LAST_GAIN)
        self._w_adam = FlatAdam(self.w.flat, lr=s.lr, native=self.q.network.is_native)
        self._theta_adam = FlatAdam(self.theta.flat, lr=s.model_lr, native=self.model.is_native)
        self._w_gradient = self.q.network.zeros(len(generators), s.dtype)
        self._theta_gradient = self.model.parameters(torch.zeros_like(self.theta.flat))

    @torch.no_grad()
    def measured(self, batch: Batch) -> dict[str, Tensor]:
        """Return what describes the seeds' state on a batch, [S] each.

        ``loss_Q`` is the temporal-difference error under real transitions; ``next_obs_nll`` and
        ``model_error`` are of the next observation, the latter a mean squared distance.
        """
        taken = self._one_hot(batch.action)
        prediction = self._predicted(batch, taken, noisy=False)
        tape = self.q.network.forward(self.w, batch.observation)
        target = self.q.target(self._w_, batch.following, batch.reward, batch.mask)
        errors = self.q.errors(tape, taken, target)
        gradient = self.q.network.zeros(len(self._generators), self._settings.dtype)
        self.q.loss_gradient(self.w, tape, errors, gradient)
        policy = self.q.policy(self.w, batch.observation)
        values = self.q.errors(tape, taken, torch.zeros_like(target))
        copies, size = values.shape[1], values.shape[2]
        return {
            "vals_Q": values.sum((1, 2, 3)) / (copies * size),
            "loss_Q": self.q.loss(errors),
            "grad_norm_Q": gradient.flat.norm(dim=1),
            "entropy": torch.special.entr(policy).sum(-1).mean(-1),
            "next_obs_nll": self.model.nll(prediction, batch.following),
            "model_error": self.model.squared_error(prediction, batch.following),
            "reward_error": (prediction.reward - batch.reward).square().mean(-1),
        }

    def parts(self) -> Parts:
        """Return parameters and their optimisers."""
        return {
            "w": self.w.flat,
            "w_": self._w_.flat,
            "theta": self.theta.flat,
            "w_adam": self._w_adam,
            "theta_adam": self._theta_adam,
        }

    def _predicted(self, batch: Batch, taken: Tensor, *, noisy: bool = True) -> Prediction:
        noise = None
        if noisy and self._settings.probabilistic:
            noise = torch.empty_like(batch.observation)
            for seed, generator in enumerate(self._generators):
                noise[seed].normal_(generator=generator)
        inputs = torch.cat([batch.observation, taken], -1)
        return self.model.predict(self.theta, inputs, noise)

    def _reward(self, batch: Batch, prediction: Prediction) -> Tensor:
        """Return the rewards [S, B] that Q-functions are learned from."""
        return prediction.reward if self._settings.learn_reward else batch.reward

    def _one_hot(self, action: Tensor) -> Tensor:
        """Return indices [S, B, 1] as [S, B, A]."""
        choices = torch.arange(self._settings.actions, dtype=action.dtype)
        return (action == choices).to(action.dtype)

    def _learn_q(self, batch: Batch, taken: Tensor, prediction: Prediction) -> None:
        """Take a step of Q by the temporal-difference error under the model; move the targets."""
        reward = self._reward(batch, prediction)
        y = self.q.target(self._w_, prediction.following, reward, batch.mask)
        tape = self.q.network.forward(self.w, batch.observation)
        self.q.loss_gradient(self.w, tape, self.q.errors(tape, taken, y), self._w_gradient)
        self._w_adam.step(self._w_gradient.flat)
        self._w_.flat.lerp_(self.w.flat, self._settings.tau)


class OMD(DiscreteAgent):
    r"""Optimal model design (Nikishin et al. 2022): the model whose Q-functions are right in truth.

    .. math:: \min_\theta L_{\text{real}}(w^*(\theta)), \qquad
              \nabla_w L_{\text{model}}(w^*; \theta) = 0

    An update of the model takes K steps of the inner problem from where w stands, their targets'
    moving included, and then the implicit gradient. Unless ``warm_opt``, the inner optimiser
    begins anew, so that with K = 1 its step is lr in size for every parameter.
    """

    def __init__(self, settings: Settings, generators: Sequence[torch.Generator]):
        super().__init__(settings, generators)
        self._adjoint: Adjoint = Identity()
        if settings.adjoint != "identity":
            self._adjoint = ConjugateGradient(
                settings.adjoint_iterations,
                normal=settings.adjoint == "normal_equations",
                blocks=len(generators),
            )

    @property
    def batches(self) -> int:
        """One for every step of the model: both levels use the same."""
        return self._settings.num_T_steps

    @torch.no_grad()
    def update(self, draw: Draw) -> None:
        """Solve the inner problem approximately, and step the model by the implicit gradient."""
        for _ in range(self._settings.num_T_steps):
            batch = draw()
            taken = self._one_hot(batch.action)
            prediction = self._predicted(batch, taken)
            if not self._settings.warm_start:
                self._begin_anew()
            if not self._settings.warm_opt:
                self._w_adam.reset()
            for _ in range(self._settings.num_Q_steps):
                self._learn_q(batch, taken, prediction)
            found = self._implicit_gradient(batch, taken, prediction)
            self.model.gradient(
                self.theta,
                prediction,
                found["following"],
                found.get("reward"),
                self._theta_gradient,
            )
            self._theta_adam.step(self._theta_gradient.flat)

    def _begin_anew(self) -> None:
        """Draw other weights, for Q and its targets."""
        drawn = self.q.network.initial(self._generators, self._settings.dtype, last_gain=_LAST_GAIN)
        self.w.flat.copy_(drawn.flat)
        self._w_.flat.copy_(drawn.flat)

    @torch.no_grad()
    def measured(self, batch: Batch) -> dict[str, Tensor]:
        """Return what describes the seeds' state on a batch, [S] each.

        Where an adjoint system is solved, its relative residual is added, ``adjoint_residual``.
        """
        found = super().measured(batch)
        if not isinstance(self._adjoint, Identity):
            taken = self._one_hot(batch.action)
            inner, prediction = self._inner(
                batch, taken, self._predicted(batch, taken, noisy=False)
            )
            system = AdjointSystem(
                inner.condition, self.w.flat, prediction, (), self._settings.damping
            )
            wanted = self._w_gradient.flat
            residual = system.residual(system.solution_of(self._adjoint, wanted), wanted)
            found["adjoint_residual"] = residual.view_as(wanted).norm(dim=1) / wanted.norm(dim=1)
        return found

    def _implicit_gradient(
        self, batch: Batch, taken: Tensor, prediction: Prediction
    ) -> dict[str, Tensor]:
        """Return the gradient of the real error by what the model predicts, as w is now."""
        inner, predicted = self._inner(batch, taken, prediction)
        found = implicit_gradient(
            inner.condition,
            self.w.flat,
            predicted,
            self._w_gradient.flat,
            adjoint=self._adjoint,
            damping=self._settings.damping,
            pull=inner.pull,
        )
        if not self._settings.learn_reward:
            del found["reward"]
        return found

    def _inner(
        self, batch: Batch, taken: Tensor, prediction: Prediction
    ) -> tuple[SoftQProblem, dict[str, Tensor]]:
        """Return the inner problem and its parameters; write the gradient of the real error."""
        y = self.q.target(self._w_, batch.following, batch.reward, batch.mask)
        tape = self.q.network.forward(self.w, batch.observation)
        self.q.loss_gradient(self.w, tape, self.q.errors(tape, taken, y), self._w_gradient)
        return (
            SoftQProblem(self.q, self.w, self._w_, batch.observation, taken, batch.mask, tape),
            {"following": prediction.following, "reward": self._reward(batch, prediction)},
        )


class MLE(DiscreteAgent):
    r"""A model of maximum likelihood, and Q-functions learned from its predictions.

    .. math:: \min_\theta \frac1B \sum_b |s'_b - \hat s'_b|^2 + (r_b - \hat r_b)^2

    with the likelihood of s' in place of the first term if the model is probabilistic.
    """

    _samples = False  # whether fitting samples next observations

    @property
    def batches(self) -> int:
        """A fresh one for every step of the model and of Q."""
        return self._settings.num_T_steps + self._settings.num_Q_steps

    @torch.no_grad()
    def update(self, draw: Draw) -> None:
        """Fit the model a little, and Q to what it then predicts."""
        for _ in range(self._settings.num_T_steps):
            batch = draw()
            prediction = self._predicted(batch, self._one_hot(batch.action), noisy=self._samples)
            self._fit_states(batch, prediction)
            error = prediction.reward - batch.reward
            self.model.reward_gradient(
                self.theta, prediction, error * (2 / error.shape[1]), self._theta_gradient
            )
            self._theta_adam.step(self._theta_gradient.flat)
        for _ in range(self._settings.num_Q_steps):
            batch = draw()
            taken = self._one_hot(batch.action)
            self._learn_q(batch, taken, self._predicted(batch, taken))

    def _fit_states(self, batch: Batch, prediction: Prediction) -> None:
        """Write the gradient of the loss of next observations."""
        self.model.likelihood_gradient(
            self.theta, prediction, batch.following, self._theta_gradient
        )


class VEP(MLE):
    r"""A value-equivalent model (Grimm et al. 2020), for five random functions.

    .. math:: \min_\theta \frac1B \sum_b \Big( \sum_{i=1}^5 (V_i(s'_b) - V_i(\hat s'_b))^2
              + (r_b - \hat r_b)^2 \Big)
    """

    _samples = True

    def __init__(self, settings: Settings, generators: Sequence[torch.Generator]):
        super().__init__(settings, generators)
        width = settings.hidden_dim
        self._values = FlatMLP(settings.observation_size, 1, hidden=(width, width), copies=_VALUES)
        self._v = self._values.initial(generators, settings.dtype, last_gain=_LAST_GAIN)

    def parts(self) -> Parts:
        """Return parameters, the fixed ones too, and their optimisers."""
        return {**super().parts(), "v": self._v.flat}

    def _fit_states(self, batch: Batch, prediction: Prediction) -> None:
        wanted = self._values.output(self._v, batch.following)
        tape = self._values.forward(self._v, prediction.following)
        error = (tape.output - wanted) * (2 / wanted.shape[1])
        following = self._values.input_gradient(self._v, tape, error)
        self.model.gradient(self.theta, prediction, following, None, self._theta_gradient)


AGENTS: dict[str, type[DiscreteAgent]] = {"omd": OMD, "mle": MLE, "vep": VEP}
