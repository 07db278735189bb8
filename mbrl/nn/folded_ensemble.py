"""Rollouts of many candidates through the members of an ensemble."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import softplus

from mbrl.errors import ArgumentError, suggestion
from mbrl.nn.ensemble import PROPAGATIONS, EnsembleDynamics, Propagation
from mbrl.nn.folding import IN_PLACE, rows_at_once
from mbrl.nn.quaternions import unit_quaternions


class Futures(NamedTuple):
    """What may happen to N candidates in T steps, by P particles each."""

    states: Tensor  # (T+1, P, N, n)
    rewards: Tensor | None = None  # (T, P, N), of models that learn it


class FoldedEnsemble:
    r"""A snapshot of an ensemble that moves the particles of many candidates.

    .. math:: y^p_t = m_{e(p, t)}(z) + \sqrt{v_{e(p, t)}(z)} \, \epsilon^p_t

    as :meth:`EnsembleDynamics.propagate`, but with random numbers in common: the p-th particles of
    all candidates meet the same members and the same noise, so that candidates differ by their
    actions alone, and not by their luck. Make one after every fit: it does not follow the model.
    States are accumulated in the precision of the network, and on its device.

    Args:
        model: the model.
    """

    def __init__(self, model: EnsembleDynamics):
        elites, network = model.elites, model.network
        weights = [layer.get_parameter("weight")[elites].detach() for layer in network.layers]
        biases = [layer.get_parameter("bias")[elites].detach() for layer in network.layers]
        scale, mean = model.folded_inputs()
        first = scale[:, None] * weights[0].double()  # (E, features, width)
        shift = biases[0].double() - (mean @ first)[:, None]
        self._weights = [first.to(weights[0].dtype), *weights[1:]]
        self._biases = [shift.to(weights[0].dtype), *biases[1:]]
        self._bounds: tuple[Tensor, Tensor] | None = None  # of log variances
        if model.is_probabilistic:
            bounds = model.lowest_log_variance, model.highest_log_variance
            self._bounds = bounds[0][elites].detach(), bounds[1][elites].detach()
        self._activate = IN_PLACE[type(model.network.activation)]
        self._angles, self._quaternions = model.angles, model.quaternions
        self._like, self._state_size = model.input_mean.new_empty(0), model.state_size
        self._output_size, self._predicts_reward = model.output_size, model.predicts_reward
        self._mean, self._deviation = model.target_mean.clone(), model.target_deviation.clone()
        self._rows_at_once = rows_at_once(self._like.device)

    @torch.no_grad()
    def rollout(
        self,
        state: Tensor,
        actions: Tensor,
        *,
        particles: int,
        generator: torch.Generator,
        mode: Propagation = "ts1",
    ) -> Futures:
        """Apply actions [T, N, nu] from states [N, n]; results are in the network's dtype.

        Args:
            state: where every particle of a candidate begins.
            actions: of the candidates.
            particles: P; of ``expectation`` there is one.
            generator: of members and noise.
            mode: see :meth:`EnsembleDynamics.propagate`.

        Raises:
            ArgumentError: if there is no such mode, or P is no multiple of the number of elites.
        """
        if mode not in PROPAGATIONS:
            raise ArgumentError(f"mode: unknown value {mode!r}; {suggestion(mode, PROPAGATIONS)}")
        members, steps, rows = len(self._weights[0]), len(actions), len(state)
        particles = 1 if mode == "expectation" else particles
        if mode != "expectation" and particles % members:
            raise ArgumentError(
                f"particles must be a multiple of the {members} elites, got {particles}"
            )
        shape = steps, particles, rows
        states = self._like.new_empty(steps + 1, *shape[1:], self._state_size)
        rewards = self._like.new_empty(shape) if self._predicts_reward else None
        noise = torch.randn(
            steps, particles, 1, self._output_size, generator=generator, dtype=self._like.dtype
        ).to(self._like)
        order = torch.arange(particles).expand(steps, -1)
        if mode == "ts1":
            order = torch.rand(steps, particles, generator=generator).argsort(1)
        order = order.to(self._like.device)
        states[0], actions = state, actions.to(self._like)
        each = max(self._rows_at_once * members // max(particles, members), 1)
        for first in range(0, rows, each):
            part = slice(first, first + each)
            for t in range(steps):
                change = (
                    self._expected(states[t, :, part], actions[t, part])
                    if mode == "expectation"
                    else self._moved(states[t, :, part], actions[t, part], order[t], noise[t])
                )
                moved = states[t, :, part] + change[..., : self._state_size]
                states[t + 1, :, part] = unit_quaternions(moved, self._quaternions)
                if rewards is not None:
                    rewards[t, :, part] = change[..., -1]
        home = state.device
        return Futures(states.to(home), None if rewards is None else rewards.to(home))

    def _expected(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return the average of the members' mean changes, [1, c, k], of [1, c, n], [c, nu]."""
        inputs = self._features(states[0], actions)
        mean = self._outputs(inputs.expand(len(self._weights[0]), -1, -1))[..., : self._output_size]
        return (mean.mean(0) * self._deviation + self._mean)[None]

    def _moved(self, states: Tensor, actions: Tensor, order: Tensor, noise: Tensor) -> Tensor:
        """Return sampled changes [P, c, k]; every member moves the same number of particles."""
        particles, rows, _ = states.shape
        acted = actions.expand(particles, -1, -1)
        inputs = self._features(states[order], acted)  # dealt out to the members in order
        outputs = self._outputs(inputs.view(len(self._weights[0]), -1, inputs.shape[-1]))
        mean = outputs[..., : self._output_size]  # (E, P/E c, k)
        change = torch.addcmul(self._mean, mean, self._deviation)
        if self._bounds is not None:
            scaled = (noise[order] * self._deviation).expand(-1, rows, -1).reshape(mean.shape)
            change.addcmul_(_deviation(outputs[..., self._output_size :], *self._bounds), scaled)
        changes = self._like.new_empty(particles, rows, self._output_size)
        changes[order] = change.view(particles, rows, -1)
        return changes

    def _features(self, states: Tensor, actions: Tensor) -> Tensor:
        """Return [..., features] of [..., n] and [..., nu]."""
        if not self._angles:
            return torch.cat([states, actions], dim=-1)
        turned = states[..., self._angles]
        features = torch.cat([states, actions, turned.sin()], dim=-1)
        features[..., self._angles] = turned.cos()
        return features

    def _outputs(self, value: Tensor) -> Tensor:
        for layer, (weight, bias) in enumerate(zip(self._weights, self._biases, strict=True)):
            if layer:
                self._activate(value)
            value = torch.baddbmm(bias, value, weight)
        return value


def _deviation(raw: Tensor, lowest: Tensor, highest: Tensor) -> Tensor:
    """Return deviations of y from what networks say of log variances."""
    bounded = highest - softplus(highest - raw)
    return (0.5 * (lowest + softplus(bounded - lowest))).exp_()
