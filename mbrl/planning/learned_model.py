"""Learned dynamics as planners use them: many candidates at the speed of matrix products."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mbrl.errors import ArgumentError
from mbrl.nn import (
    DynamicsModel,
    EnsembleDynamics,
    FoldedEnsemble,
    FoldedMLP,
    MLPDynamics,
    Propagation,
    QuantizedMLP,
    Rollout,
    is_quantizable,
)
from mbrl.physics import StateSpec
from mbrl.planning.checks import check_counts
from mbrl.planning.model import Scene, TorchModel, all_finite

_CALIBRATION = 64  # rollouts of a sketch's candidates that its ranges are taken from
_STRIDE = 7919  # between them: a prime, so that all rows of a batch have their share
_SEEDS = 1_000_003  # distance of the seeds of two steps' noise for models of neighbouring seeds


@dataclass(frozen=True)
class PropagationOptions:
    """How an ensemble is uncertain about the future; see ``EnsembleDynamics.propagate``.

    Attributes:
        mode: ts1, tsinf or expectation.
        particles: of every candidate, a multiple of the elites; of ``expectation`` there is one.
    """

    mode: Propagation = "expectation"
    particles: int = 20

    def __post_init__(self) -> None:
        check_counts(particles=self.particles)


EXPECTATION = PropagationOptions()


class LearnedModel(TorchModel):
    r"""A learned map x' = F(x, u) over states or observations.

    A model that predicts its reward has it as one more coordinate of x, the last: that of the step
    before. Feedback laws and derivatives are those of :class:`TorchModel`.

    Args:
        dynamics: the model.
        spec: the state space, if states are MuJoCo's; None: Euclidean.

    Attributes:
        predicts_reward: whether there is that coordinate.
    """

    def __init__(self, dynamics: DynamicsModel, spec: StateSpec | None = None):
        module = _WithReward(dynamics) if dynamics.predicts_reward else dynamics
        super().__init__(module, dynamics.state_size + dynamics.predicts_reward, spec)
        self.predicts_reward = dynamics.predicts_reward


class LearnedMLP(LearnedModel):
    """One perceptron.

    Open-loop rollouts, which sampling planners are made of, go through
    :class:`~mbrl.nn.FoldedMLP` in the network's precision. The weights are folded anew for each:
    that takes as long as some hundred rows, and what is fitted meanwhile is never missed.

    Args:
        dynamics: the model.
        spec: see :class:`LearnedModel`.
    """

    def __init__(self, dynamics: MLPDynamics, spec: StateSpec | None = None):
        super().__init__(dynamics, spec)
        self._mlp = dynamics

    def rollout(self, state: Tensor, actions: Tensor, scene: Scene) -> Tensor:
        """See :class:`Model`."""
        self.control_steps += len(actions) * len(state)
        before = state[:, : self._mlp.state_size]
        return _marked(state, FoldedMLP(self._mlp).rollout(before, actions))

    def sketch(self, state: Tensor, actions: Tensor, scene: Scene) -> Tensor | None:
        """See :class:`Model`: a rollout in eight bits, of networks that can have them."""
        if not is_quantizable(self._mlp):
            return None
        self.control_steps += len(actions) * len(state)
        before = state[:, : self._mlp.state_size]
        some = torch.arange(min(len(state), _CALIBRATION)) * _STRIDE % len(state)
        rough = QuantizedMLP(self._mlp, before[some], actions[:, some])
        return _marked(state, rough.rollout(before, actions))


class LearnedEnsemble(LearnedModel):
    """Several perceptrons, whose futures are as uncertain as they are.

    Rollouts go through :class:`~mbrl.nn.FoldedEnsemble`; a single one is that of the elites'
    average.

    Args:
        dynamics: the model.
        spec: see :class:`LearnedModel`.
        propagation: see :class:`PropagationOptions`.
        seed: of the particles' noise, which is the same in every plan made at one step of an
            episode.

    Raises:
        ArgumentError: if the particles cannot be dealt out to the elites evenly.
    """

    def __init__(
        self,
        dynamics: EnsembleDynamics,
        spec: StateSpec | None = None,
        *,
        propagation: PropagationOptions = EXPECTATION,
        seed: int = 0,
    ):
        super().__init__(dynamics, spec)
        self._ensemble, self._propagation, self._seed = dynamics, propagation, seed
        if propagation.mode != "expectation":
            self.particles = propagation.particles
            if self.particles % len(dynamics.elites):
                raise ArgumentError(
                    f"particles must be a multiple of the {len(dynamics.elites)} elites, "
                    f"got {self.particles}"
                )

    def rollout(self, state: Tensor, actions: Tensor, scene: Scene) -> Tensor:
        """See :class:`Model`."""
        return self._futures(state, actions, scene, EXPECTATION)[0]

    def futures(self, state: Tensor, actions: Tensor, scene: Scene) -> Tensor:
        """See :class:`Model`."""
        return self._futures(state, actions, scene, self._propagation)

    def _futures(
        self, state: Tensor, actions: Tensor, scene: Scene, how: PropagationOptions
    ) -> Tensor:
        generator = torch.Generator().manual_seed(_SEEDS * self._seed + scene.start)
        found = FoldedEnsemble(self._ensemble).rollout(
            state[:, : self._ensemble.state_size],
            actions,
            particles=how.particles,
            generator=generator,
            mode=how.mode,
        )
        particles = found.states.shape[1]
        self.control_steps += len(actions) * len(state) * particles
        every = [
            _marked(
                state,
                Rollout(found.states[:, p], None if found.rewards is None else found.rewards[:, p]),
            )
            for p in range(particles)
        ]
        return torch.stack(every)


class _WithReward(nn.Module):
    """A model as a map of (x, last reward)."""

    def __init__(self, dynamics: DynamicsModel):
        super().__init__()
        self._dynamics = dynamics

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """[N, n + 1], [N, nu] -> [N, n + 1]."""
        following, reward = self._dynamics.predict(state[:, :-1], action)
        if reward is None:
            raise ArgumentError("the model predicts no reward")
        return torch.cat([following, reward[:, None]], dim=1)


def learned_model(
    dynamics: DynamicsModel,
    spec: StateSpec | None = None,
    *,
    propagation: PropagationOptions = EXPECTATION,
    seed: int = 0,
) -> LearnedModel:
    """Return what planners make of a model of dynamics, the fastest that there is for its kind.

    Args:
        dynamics: the model.
        spec: see :class:`LearnedModel`.
        propagation: see :class:`LearnedEnsemble`.
        seed: see there.

    Raises:
        ArgumentError: if the model has no particles to propagate.
    """
    if isinstance(dynamics, EnsembleDynamics):
        return LearnedEnsemble(dynamics, spec, propagation=propagation, seed=seed)
    if propagation.mode != "expectation":
        raise ArgumentError(
            f"mode {propagation.mode!r} takes an ensemble, got a {type(dynamics).__name__}; "
            "legal: expectation"
        )
    if isinstance(dynamics, MLPDynamics):
        return LearnedMLP(dynamics, spec)
    return LearnedModel(dynamics, spec)


def _marked(state: Tensor, found: Rollout) -> Tensor:
    """Return a rollout as [T+1, N, nx] from states [N, nx]; what diverges is NaN from there on."""
    states = found.states.to(torch.float64)
    if found.rewards is not None:
        rewards = torch.cat([state[None, :, -1], found.rewards.to(torch.float64)])
        states = torch.cat([states, rewards[..., None]], dim=-1)
    states[0] = state
    if all_finite(states):
        return states
    lost = (~states.isfinite().all(-1)).to(torch.uint8).cummax(0).values.bool()
    return torch.where(lost[:, :, None], torch.nan, states)
