"""What every learned model of dynamics is: a network between normalised inputs and changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mbrl.errors import ArgumentError
from mbrl.nn.mlp import DTYPES, DType
from mbrl.nn.quaternions import unit_quaternions
from mbrl.types import Transitions

_TINY = 1e-7  # added to deviations; what deviates less has never varied


class Prediction(NamedTuple):
    """What a model says of one step."""

    next_state: Tensor  # (..., n)
    reward: Tensor | None = None  # (...,), of models that learn it


class Rollout(NamedTuple):
    """What a model says of T steps."""

    states: Tensor  # (T+1, N, n)
    rewards: Tensor | None = None  # (T, N), of models that learn it


class DynamicsModel(nn.Module):
    r"""A learned map x' = F(x, u) over any space of states or observations, batch first.

    .. math:: F(x, u) = x + \sigma_d f(z) + \mu_d, \qquad
              z = \left( \frac{x - \mu_x}{\sigma_x + \epsilon},
                         \frac{u - \mu_u}{\sigma_u + \epsilon} \right)

    f is the network, trained towards :math:`y = (x' - x - \mu_d) / (\sigma_d + \epsilon)` with
    :math:`\epsilon = 10^{-7}` (Nagabandi et al. 2018, section IV-A). With ``reward``, r is one more
    entry of y, normalised by its own moments. Moments are buffers: constants of the fit until
    :meth:`set_statistics` is called again. The network works in its own precision and on its own
    device; what it predicts is added to the state in the state's precision, where the state is, and
    quaternions are scaled to unit length.

    Kinds are built from sizes alone; their keyword-only parameters are their configuration.

    Args:
        state_size: n.
        action_size: nu.
        reward: whether the reward is predicted, too.
        ignored: entries of the state that the network does not see, though it predicts them. The
            dynamics of a runner do not depend on how far it has come; a network that sees it knows
            nothing where the data end.
        angles: entries of the state that are angles [rad]; the network sees the cosine in place of
            each, and all the sines after the action (obs_preproc in the code of Chua et al. 2018).
        dtype: precision of the network.

    Attributes:
        state_size: n.
        action_size: nu.
        angles: as given.
        feature_size: width of z: n + nu, and one for every angle.
        seen: 1 or 0 for every input, [n + nu].
        quaternions: which entries of the state are quaternions, [k, 4]: none until
            :meth:`set_quaternions` says so.
        output_size: width k of y: n, and one with a reward.
        predicts_reward: whether the reward is predicted, too.
        members: E, how many networks are trained side by side.
        bootstraps: whether each is trained on a resampling of the data of its own.
    """

    members: int = 1
    bootstraps: bool = False
    seen: Tensor
    quaternions: Tensor
    input_mean: Tensor
    input_scale: Tensor
    target_mean: Tensor
    target_deviation: Tensor

    def __init__(
        self,
        state_size: int,
        action_size: int,
        *,
        reward: bool,
        ignored: Sequence[int] = (),
        angles: Sequence[int] = (),
        dtype: DType,
    ):
        super().__init__()
        _check_entries("ignored", ignored, state_size)
        _check_entries("angles", angles, state_size)
        self.angles = sorted(set(angles) - set(ignored))
        self.state_size, self.action_size = state_size, action_size
        self.predicts_reward = reward
        self.output_size = state_size + reward
        self.input_size = state_size + action_size
        self.feature_size = self.input_size + len(self.angles)
        precision = DTYPES[dtype]
        for name, size in (("input", self.input_size), ("target", self.output_size)):
            self.register_buffer(f"{name}_mean", torch.zeros(size, dtype=precision))
        self.register_buffer("input_scale", torch.ones(self.input_size, dtype=precision))
        self.register_buffer("target_deviation", torch.ones(self.output_size, dtype=precision))
        seen = torch.ones(self.input_size, dtype=precision)
        seen[list(ignored)] = 0.0
        self.register_buffer("seen", seen, persistent=False)
        self.set_quaternions(())

    def set_quaternions(self, entries: Sequence[Sequence[int]]) -> None:
        """Say which entries of the state are quaternions, four each."""
        places = torch.tensor([list(four) for four in entries], dtype=torch.long)
        self.register_buffer("quaternions", places.reshape(-1, 4), persistent=False)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the expected next state [N, n] in the state's dtype, of [N, n] and [N, nu]."""
        return self.predict(state, action).next_state

    def predict(self, state: Tensor, action: Tensor) -> Prediction:
        """Return the expected next state and reward of [N, n] and [N, nu]."""
        return self.prediction(state, self.mean(self.normalized(state, action)))

    def mean(self, inputs: Tensor) -> Tensor:
        """Return f: z [N, feature_size] -> expected y, [N, k]."""
        raise NotImplementedError

    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return what training minimises, by member, [E].

        Args:
            inputs: z, [E, B, feature_size]: every member has a batch of its own.
            targets: y, [E, B, k].
        """
        raise NotImplementedError

    def squared_errors(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Return the squared error of each member's mean prediction, summed over k, [E, B].

        Args:
            inputs: z, [B, feature_size].
            targets: y, [B, k].
        """
        raise NotImplementedError

    def by_member(self) -> Mapping[str, Tensor]:
        """Return the parameters without autograd, sharing memory, members along dimension 0."""
        raise NotImplementedError

    def choose(self, held_out: Tensor | None) -> None:
        """Say which members predict, by their held-out losses [E]; None: there are none.

        Raises:
            ArgumentError: if a choice is to be made and there is nothing to make it by.
        """

    @torch.no_grad()
    def set_statistics(
        self,
        *,
        inputs: tuple[Tensor, Tensor],
        differences: tuple[Tensor, Tensor],
        rewards: tuple[Tensor, Tensor] | None = None,
    ) -> None:
        """Set means and standard deviations; what never varied is centred and not scaled.

        Args:
            inputs: of states, then actions: mean and deviation, [n + nu] each.
            differences: of x' - x, [n] each.
            rewards: of rewards, numbers; with a reward only.

        Raises:
            ArgumentError: if shapes do not fit, or a number is negative or not finite.
        """
        if (rewards is not None) != self.predicts_reward:
            verb = "must be" if self.predicts_reward else "can only be"
            raise ArgumentError(f"rewards {verb} given where the model predicts the reward")
        given = {"inputs": (inputs, self.input_size), "differences": (differences, self.state_size)}
        for name, (moments, size) in given.items():
            _check_moments(name, moments, size)
        targets = differences
        if rewards is not None:
            rewards = (rewards[0].reshape(-1), rewards[1].reshape(-1))
            _check_moments("rewards", rewards, 1)
            targets = (
                torch.cat([differences[0], rewards[0]]),
                torch.cat([differences[1], rewards[1]]),
            )
        deviation = torch.where(inputs[1] < _TINY, 1.0, inputs[1] + _TINY)
        self.input_mean.copy_(inputs[0])
        self.input_scale.copy_(deviation)
        self.target_mean.copy_(targets[0])
        self.target_deviation.copy_(torch.where(targets[1] < _TINY, 1.0, targets[1]))

    def standardize(self, data: Transitions) -> None:
        """Set the statistics to those of data, deviations with the divisor N.

        Raises:
            ArgumentError: if there are no rows, or rewards are missing.
        """
        if not len(data.states):
            raise ArgumentError("data: statistics need at least one row")
        inputs = torch.cat([data.states, data.actions], dim=-1).double()
        rewards = self._required_rewards(data)
        self.set_statistics(
            inputs=_moments(inputs),
            differences=_moments((data.next_states - data.states).double()),
            rewards=None if rewards is None else _moments(rewards.double()),
        )

    def normalized(self, state: Tensor, action: Tensor) -> Tensor:
        """Return z, [..., k] in the network's dtype and on its device, k = feature_size."""
        joint = torch.cat([state.to(self.input_mean), action.to(self.input_mean)], dim=-1)
        normal = (joint - self.input_mean) / self.input_scale * self.seen
        if not self.angles:
            return normal
        normal[..., self.angles] = joint[..., self.angles].cos()
        return torch.cat([normal, joint[..., self.angles].sin()], dim=-1)

    def folded_inputs(self) -> tuple[Tensor, Tensor]:
        """Return s and m of z = s (f - m), [feature_size] each, in double precision.

        f are the state and the action, the cosine in place of every angle, and the sines.
        """
        scale = self.input_scale.new_ones(self.feature_size, dtype=torch.float64)
        mean = torch.zeros_like(scale)
        scale[: self.input_size] = (self.seen / self.input_scale).double()
        mean[: self.input_size] = self.input_mean.double()
        scale[self.angles], mean[self.angles] = 1.0, 0.0
        return scale, mean

    def targets(self, transitions: Transitions) -> Tensor:
        """Return y, [N, k] as the network takes it; differences are taken in the data's precision.

        Raises:
            ArgumentError: if rewards are missing.
        """
        change = transitions.next_states - transitions.states
        rewards = self._required_rewards(transitions)
        if rewards is not None:
            change = torch.cat([change, rewards[:, None].to(change.dtype)], dim=-1)
        scale = self.target_deviation.to(change) + _TINY
        return ((change - self.target_mean.to(change)) / scale).to(self.target_mean)

    def prediction(self, state: Tensor, outputs: Tensor) -> Prediction:
        """Return what outputs y [..., k] mean at states [..., n]."""
        change = (outputs * self.target_deviation + self.target_mean).to(state)
        following = unit_quaternions(state + change[..., : self.state_size], self.quaternions)
        return Prediction(following, change[..., -1] if self.predicts_reward else None)

    @torch.no_grad()
    def rollout(self, state: Tensor, actions: Tensor) -> Rollout:
        """Apply actions [T, N, nu] from states [N, n], by expectations, without autograd."""
        states, rewards = [state], []
        for action in actions:
            following, reward = self.predict(states[-1], action)
            states.append(following)
            if reward is not None:
                rewards.append(reward)
        return Rollout(torch.stack(states), torch.stack(rewards) if rewards else None)

    def _required_rewards(self, data: Transitions) -> Tensor | None:
        """Return the rewards of data, for a model that learns them."""
        if self.predicts_reward and data.rewards is None:
            raise ArgumentError("rewards are missing: the model predicts the reward")
        return data.rewards if self.predicts_reward else None


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    return values.mean(0), values.std(0, correction=0)


def _check_entries(name: str, entries: Sequence[int], size: int) -> None:
    if not all(0 <= entry < size for entry in entries):
        raise ArgumentError(
            f"{name} must hold entries of the state, 0 to {size - 1}, got {list(entries)}"
        )


def _check_moments(name: str, moments: tuple[Tensor, Tensor], size: int) -> None:
    for what, value in zip(("means", "deviations"), moments, strict=True):
        if value.shape != (size,):
            raise ArgumentError(f"{name}: {what} must be [{size}], got {list(value.shape)}")
        if not bool(value.isfinite().all()):
            raise ArgumentError(f"{name}: {what} must be finite, got {value.tolist()}")
    if bool((moments[1] < 0).any()):
        raise ArgumentError(f"{name}: deviations must not be negative, got {moments[1].tolist()}")
