"""Learned dynamics as planners use them: many candidates at the speed of matrix products."""

from __future__ import annotations

import torch
from torch import Tensor

from mbrl.nn import DynamicsModel, FoldedMLP, MLPDynamics
from mbrl.physics import StateSpec
from mbrl.planning.model import Scene, TorchModel


class LearnedModel(TorchModel):
    r"""A perceptron x' = F(x, u) over states or observations.

    Open-loop rollouts, which sampling planners are made of, go through
    :class:`~mbrl.nn.FoldedMLP` in the network's precision. The weights are folded anew for each:
    that takes as long as some hundred rows, and what is fitted meanwhile is never missed. Feedback
    laws and derivatives are those of :class:`TorchModel`.

    Args:
        dynamics: the model.
        spec: the state space, if states are MuJoCo's; None: Euclidean.
    """

    def __init__(self, dynamics: MLPDynamics, spec: StateSpec | None = None):
        super().__init__(dynamics, dynamics.state_size, spec)
        self._learned = dynamics

    def rollout(self, state: Tensor, actions: Tensor, scene: Scene) -> Tensor:
        """See :class:`Model`."""
        self.control_steps += len(actions) * len(state)
        states = FoldedMLP(self._learned).rollout(state, actions).states.to(torch.float64)
        states[0] = state
        if states.isfinite().all():
            return states
        lost = (~states.isfinite().all(-1)).to(torch.uint8).cummax(0).values.bool()
        return torch.where(lost[:, :, None], torch.nan, states)


def learned_model(dynamics: DynamicsModel, spec: StateSpec | None = None) -> TorchModel:
    """Return what planners make of a model of dynamics, the fastest that there is for its kind.

    Args:
        dynamics: the model.
        spec: the state space, if states are MuJoCo's; None: Euclidean, as observations are.
    """
    if isinstance(dynamics, MLPDynamics):
        return LearnedModel(dynamics, spec)
    return TorchModel(dynamics, dynamics.state_size, spec)
