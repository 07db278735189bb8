"""Rollouts of many candidates through perceptrons, near the speed of their matrix products."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from mbrl.nn.dynamics_model import Rollout
from mbrl.nn.mlp_dynamics import MLPDynamics
from mbrl.nn.quaternions import unit_quaternions

# The activations of so many rows stay in a core's cache from one layer to the next; a graphics
# processor would rather have them all.
ROWS_PER_CORE, ROWS_ELSEWHERE = 256, 65536

IN_PLACE: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {
    nn.Tanh: torch.tanh_,
    nn.ReLU: torch.relu_,
    nn.LeakyReLU: lambda value: functional.leaky_relu(value, inplace=True),
    nn.SiLU: lambda value: functional.silu(value, inplace=True),
    nn.ELU: lambda value: functional.elu(value, inplace=True),
}


def rows_at_once(device: torch.device) -> int:
    """Return how many rows go through a network together."""
    return ROWS_PER_CORE * torch.get_num_threads() if device.type == "cpu" else ROWS_ELSEWHERE


class FoldedMLP:
    r"""A snapshot of a model whose normalisation is part of its weights.

    .. math:: W_1' = W_1 \operatorname{diag}(\sigma + \epsilon)^{-1}, \quad
              b_1' = b_1 - W_1' \mu, \quad
              W_L' = \operatorname{diag}(\sigma_d) W_L, \quad
              b_L' = \operatorname{diag}(\sigma_d) b_L + \mu_d

    so that :math:`F(x, u) = x + f'(x, u)`. Make one after every fit: it does not follow the model.
    States are accumulated in the precision of the network, and on its device.

    Args:
        model: the model.
    """

    def __init__(self, model: MLPDynamics):
        linear = [layer for layer in model.network if isinstance(layer, nn.Linear)]
        weights = [layer.weight.detach().double() for layer in linear]
        biases = [layer.bias.detach().double() for layer in linear]
        scale, mean = model.folded_inputs()
        weights[0] = weights[0] * scale
        biases[0] = biases[0] - weights[0] @ mean
        weights[-1] = model.target_deviation[:, None] * weights[-1]
        biases[-1] = model.target_deviation * biases[-1] + model.target_mean
        self._like, self._state_size = model.input_mean.new_empty(0), model.state_size
        # [inputs, outputs], so that both factors of a product lie as it reads them.
        self._weights = [weight.T.to(self._like, copy=True).contiguous() for weight in weights]
        self._biases = [bias.to(self._like, copy=True) for bias in biases]
        self._angles, self._input_size = model.angles, model.input_size
        self._quaternions = model.quaternions
        self._activate = IN_PLACE[type(model.network[1])] if len(linear) > 1 else None
        self._predicts_reward = model.predicts_reward
        self._rows_at_once = rows_at_once(self._like.device)
        self._widths = [model.feature_size, *(weight.shape[1] for weight in self._weights)]

    @torch.no_grad()
    def rollout(self, state: Tensor, actions: Tensor) -> Rollout:
        """Apply actions [T, N, nu] from states [N, n]; results are in the network's dtype."""
        steps, rows = len(actions), len(state)
        states = self._like.new_empty(steps + 1, rows, self._state_size)
        rewards = self._like.new_empty(steps, rows) if self._predicts_reward else None
        states[0], actions = state, actions.to(self._like)
        # Written over at every step: what is not allocated anew stays in the cache.
        reserved = min(rows, self._rows_at_once)
        buffers = [self._like.new_empty(reserved, width) for width in self._widths]
        for first in range(0, rows, self._rows_at_once):
            part = slice(first, first + self._rows_at_once)
            for t in range(steps):
                change = self._change(states[t, part], actions[t, part], buffers)
                moved = states[t, part] + change[:, : self._state_size]
                states[t + 1, part] = unit_quaternions(moved, self._quaternions)
                if rewards is not None:
                    rewards[t, part] = change[:, -1]
        home = state.device
        return Rollout(states.to(home), None if rewards is None else rewards.to(home))

    def _change(self, state: Tensor, action: Tensor, buffers: list[Tensor]) -> Tensor:
        """Return f' of [B, n] and [B, nu], in the last of the buffers."""
        rows = len(state)
        value = self._features(state, action, buffers[0][:rows])
        for layer, buffer in enumerate(buffers[1:]):
            if layer > 0 and self._activate is not None:
                self._activate(value)
            torch.addmm(self._biases[layer], value, self._weights[layer], out=buffer[:rows])
            value = buffer[:rows]
        return value

    def _features(self, state: Tensor, action: Tensor, out: Tensor) -> Tensor:
        """Write what the network sees of [B, n] and [B, nu] into ``out``, and return it."""
        out[:, : self._state_size] = state
        out[:, self._state_size : self._input_size] = action
        if self._angles:
            turned = state[:, self._angles]
            out[:, self._angles] = turned.cos()
            out[:, self._input_size :] = turned.sin()
        return out
