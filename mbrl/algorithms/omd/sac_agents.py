"""Soft actor-critics that learn from what a model predicts: OMD and maximum likelihood.

Both keep S seeds side by side, and differ in how the model is learned.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mbrl.algorithms.omd.agent import Agent, Draw, Parts
from mbrl.algorithms.omd.joint_model import JointModel, JointPrediction
from mbrl.algorithms.omd.tanh_gaussian import TanhGaussian
from mbrl.algorithms.omd.twin_critic import CriticProblem, TwinCritic
from mbrl.data import Batch
from mbrl.nn import FlatAdam, Tape
from mbrl.ops import Identity, implicit_gradient

_GAIN = 2**0.5  # of every layer, the last one, too


@dataclass(frozen=True)
class SACSettings:
    """What agents are made of; see :class:`~mbrl.algorithms.omd.continuous.ContinuousOMD`."""

    observation_size: int
    action_size: int
    dtype: torch.dtype
    discount: float
    tau: float
    init_temperature: float
    target_entropy: float
    hidden_dim: int
    model_hidden_dim: int
    lr: float
    model_lr: float
    inner_steps: int
    outer_steps: int


class SACAgent(Agent):
    r"""An actor, critics and a model, with an Adam for each.

    .. math:: \min_\phi E \big( \alpha \log \pi_\phi(a | s) - \min_i Q_i(s, a) \big), \qquad
              \min_\alpha \alpha \, (H - \bar H), \quad H = -E \log \pi_\phi(a | s)

    over observations s that were met, while the critics learn from predicted s' and r; see
    :class:`~mbrl.algorithms.omd.twin_critic.TwinCritic`.

    Args:
        settings: what they are made of.
        generators: of the seeds; they draw the initial weights, and the noise of actions.

    Attributes:
        actor: the policies.
        phi: their parameters.
        critic: the Q-functions.
        w: their parameters.
        model: the model.
        theta: its parameters.
    """

    def __init__(self, settings: SACSettings, generators: Sequence[torch.Generator]):
        s = self._settings = settings
        self._generators = generators
        n, nu, hidden = s.observation_size, s.action_size, (s.hidden_dim, s.hidden_dim)
        self.actor = TanhGaussian(n, nu, hidden=hidden)
        self.critic = TwinCritic(n, nu, hidden=hidden, discount=s.discount)
        self.model = JointModel(n, nu, hidden_dim=s.model_hidden_dim)
        self.phi, self.w, self.theta = (
            network.initial(generators, s.dtype, last_gain=_GAIN)
            for network in (self.actor.network, self.critic.network, self.model.network)
        )
        self._w_ = self.critic.network.parameters(self.w.flat.clone())
        initial = torch.full((len(generators), 1), s.init_temperature, dtype=s.dtype)
        self._log_temperature = initial.log()
        self._phi_adam, self._w_adam, self._theta_adam = (
            FlatAdam(parameters.flat, lr=lr, native=network.is_native)
            for parameters, lr, network in (
                (self.phi, s.lr, self.actor.network),
                (self.w, s.lr, self.critic.network),
                (self.theta, s.model_lr, self.model.network),
            )
        )
        self._temperature_adam = FlatAdam(self._log_temperature, lr=s.lr)
        self._phi_gradient = self.actor.network.zeros(len(generators), s.dtype)
        self._w_gradient = self.critic.network.zeros(len(generators), s.dtype)
        self._theta_gradient = self.model.network.zeros(len(generators), s.dtype)

    @property
    def batches(self) -> int:
        """One for every step of the model, which the actor and the critics use, too."""
        return self._settings.outer_steps

    @abstractmethod
    def write_model_gradient(
        self, batch: Batch, prediction: JointPrediction, noise: Tensor
    ) -> None:
        """Write the gradient by theta of what the model is to minimise, as all else is now.

        Args:
            batch: of real transitions.
            prediction: what the model makes of it.
            noise: of the actions at next observations, [S, B, nu].
        """

    def parts(self) -> Parts:
        """Return parameters and their optimisers."""
        return {
            "phi": self.phi.flat,
            "w": self.w.flat,
            "w_": self._w_.flat,
            "theta": self.theta.flat,
            "log_temperature": self._log_temperature,
            "phi_adam": self._phi_adam,
            "w_adam": self._w_adam,
            "theta_adam": self._theta_adam,
            "temperature_adam": self._temperature_adam,
        }

    @torch.no_grad()
    def measured(self, batch: Batch) -> dict[str, Tensor]:
        """Return what describes the seeds' state on a batch, [S] each.

        ``critic_loss`` and ``grad_norm_critic`` are of the critics' error under real transitions;
        ``model_error`` is a mean squared distance. Actions are drawn by the same numbers each time.
        """
        size = 2, *batch.action.shape[1:]  # the seeds share them, alone as together
        drawn = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        noise, next_noise = (
            drawn.to(batch.action.dtype).unsqueeze(1).expand(-1, len(batch.action), -1, -1)
        )
        prediction = self.model.predict(self.theta, _inputs(batch))
        sample = self.actor.sample(self.phi, batch.observation, noise)
        least = self.critic.least(self.w, batch.observation, sample.action)
        self._write_actor_gradient(batch, noise)
        self.write_model_gradient(batch, prediction, next_noise)
        loss = self._write_critic_gradient(batch, batch.following, batch.reward, next_noise)[0]
        temperature = self._temperature()
        return {
            "critic_loss": loss,
            "actor_loss": (temperature * sample.log_prob - least.value).mean(1),
            "values": least.value.mean(1),
            "temperature": temperature[:, 0],
            "entropy": -sample.log_prob.mean(1),
            "model_error": (prediction.following - batch.following).square().sum(-1).mean(-1),
            "reward_error": (prediction.reward - batch.reward).square().mean(-1),
            "grad_norm_critic": self._w_gradient.flat.norm(dim=1),
            "grad_norm_actor": self._phi_gradient.flat.norm(dim=1),
            "grad_norm_model": self._theta_gradient.flat.norm(dim=1),
        }

    def _learn(self, batch: Batch, prediction: JointPrediction) -> None:
        """Take K steps of critics, targets, actor and temperature, critics by the prediction."""
        s = self._settings
        for _ in range(s.inner_steps):
            self._write_critic_gradient(
                batch, prediction.following, prediction.reward, self._noise(batch)
            )
            self._w_adam.step(self._w_gradient.flat)
            self._w_.flat.lerp_(self.w.flat, s.tau)
            entropy = self._write_actor_gradient(batch, self._noise(batch))
            self._phi_adam.step(self._phi_gradient.flat)
            self._temperature_adam.step(self._temperature() * (entropy - s.target_entropy))

    def _write_critic_gradient(
        self, batch: Batch, following: Tensor, reward: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tape]:
        """Write the gradient of the critics' error under given s' and r.

        Returns:
            The error [S], and the critics' tape.
        """
        action, entropy = self._next(following, noise)
        value = self.critic.least(self._w_, following, action).value + entropy
        y = self.critic.target(reward, batch.mask, value)
        tape = self.critic.network.forward(self.w, _inputs(batch))
        errors = self.critic.errors(tape, None, y)
        self.critic.loss_gradient(self.w, tape, errors, self._w_gradient)
        return self.critic.loss(errors), tape

    def _write_actor_gradient(self, batch: Batch, noise: Tensor) -> Tensor:
        """Write the gradient of the actor's loss; return the entropies of the policies, [S, 1]."""
        sample = self.actor.sample(self.phi, batch.observation, noise)
        least = self.critic.least(self.w, batch.observation, sample.action)
        each = torch.full_like(least.value, -1 / least.value.shape[1])
        by_action = self.critic.least_gradient(self.w, least, each)[1]
        self.actor.gradient(
            self.phi, sample, by_action, -each * self._temperature(), self._phi_gradient
        )
        return -sample.log_prob.mean(1, keepdim=True)

    def _next(self, following: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return actions at next observations, and -alpha log pi of them, as constants."""
        sample = self.actor.sample(self.phi, following, noise)
        return sample.action, -self._temperature() * sample.log_prob

    def _temperature(self) -> Tensor:
        """Return alpha, [S, 1]."""
        return self._log_temperature.exp()

    def _noise(self, batch: Batch) -> Tensor:
        """Draw the noise of actions for a batch, [S, B, nu]."""
        noise = torch.empty_like(batch.action)
        for seed, generator in enumerate(self._generators):
            noise[seed].normal_(generator=generator)
        return noise


class OMDActorCritic(SACAgent):
    r"""Optimal model design (Nikishin et al. 2022): the model whose critics are right in truth.

    .. math:: \min_\theta C_{\text{real}}(w^*(\theta)), \qquad
              \nabla_w C_{\text{model}}(w^*; \theta) = 0

    An update takes K steps of critics and actor from where they stand, and then a step of the
    model by the implicit gradient, the inverse Hessian in it replaced by the identity. What is
    differentiated there is C alone, at the new actor, targets and temperature; both levels are of
    the same batch, and their actions are drawn by the same noise.
    """

    @torch.no_grad()
    def update(self, draw: Draw) -> None:
        """Solve the inner problem approximately, and step the model by the implicit gradient."""
        for _ in range(self._settings.outer_steps):
            batch = draw()
            prediction = self.model.predict(self.theta, _inputs(batch))
            self._learn(batch, prediction)
            self.write_model_gradient(batch, prediction, self._noise(batch))
            self._theta_adam.step(self._theta_gradient.flat)

    def write_model_gradient(
        self, batch: Batch, prediction: JointPrediction, noise: Tensor
    ) -> None:
        """Write the implicit gradient of the critics' error under real transitions."""
        _, tape = self._write_critic_gradient(batch, batch.following, batch.reward, noise)
        action, entropy = self._next(prediction.following, noise)
        inner = CriticProblem(
            self.critic, self.w, self._w_, _inputs(batch), tape, action, entropy, batch.mask
        )
        found = implicit_gradient(
            inner.condition,
            self.w.flat,
            {"following": prediction.following, "reward": prediction.reward},
            self._w_gradient.flat,
            adjoint=Identity(),
            pull=inner.pull,
        )
        self.model.gradient(
            self.theta, prediction, found["following"], found["reward"], self._theta_gradient
        )


class MLEActorCritic(SACAgent):
    r"""A model of maximum likelihood, and critics learned from its predictions.

    .. math:: \min_\theta \frac1B \sum_b |s'_b - \hat s'_b|^2 + (r_b - \hat r_b)^2

    Model, critics and actor learn from the same batch, in this order.
    """

    @torch.no_grad()
    def update(self, draw: Draw) -> None:
        """Fit the model a little, and critics and actor to what it then predicts."""
        for _ in range(self._settings.outer_steps):
            batch = draw()
            inputs = _inputs(batch)
            self._fit(batch, self.model.predict(self.theta, inputs))
            self._theta_adam.step(self._theta_gradient.flat)
            self._learn(batch, self.model.predict(self.theta, inputs))

    def write_model_gradient(
        self, batch: Batch, prediction: JointPrediction, noise: Tensor
    ) -> None:
        """Write the gradient of the loss of maximum likelihood, which takes no actions."""
        self._fit(batch, prediction)

    def _fit(self, batch: Batch, prediction: JointPrediction) -> None:
        each = 2 / batch.reward.shape[1]
        self.model.gradient(
            self.theta,
            prediction,
            (prediction.following - batch.following) * each,
            (prediction.reward - batch.reward) * each,
            self._theta_gradient,
        )


def _inputs(batch: Batch) -> Tensor:
    """Return observations and actions, [S, B, n + nu]."""
    return torch.cat([batch.observation, batch.action], -1)


SAC_AGENTS: dict[str, type[SACAgent]] = {"omd": OMDActorCritic, "mle": MLEActorCritic}
