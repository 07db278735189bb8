"""Probabilistic ensembles: what a model does not know, told from what cannot be known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from mbrl.errors import ArgumentError, suggestion
from mbrl.nn.dynamics_model import DynamicsModel, Prediction
from mbrl.nn.mlp import DTYPES, Activation, DType
from mbrl.nn.stacked import StackedMLP

Propagation = Literal["ts1", "tsinf", "expectation"]
PROPAGATIONS: tuple[Propagation, ...] = ("ts1", "tsinf", "expectation")

# Log variances of y between which the learned bounds start, and the weight of their width.
_LOWEST, _HIGHEST, _BOUND_WEIGHT = -10.0, 0.5, 0.01


class EnsembleDynamics(DynamicsModel):
    r"""E networks, each a Gaussian :math:`y \sim N(m_e(z), \operatorname{diag} v_e(z))`.

    The probabilistic ensemble of PETS (Chua et al. 2018, arXiv:1805.12114, section 4). Each member
    minimises, over its own bootstrap of the data,

    .. math:: \operatorname{mean} \left[ \frac{(y - m)^2}{v} + \log v \right]
              + 0.01 \sum_j (h_j - l_j) + \sum_i \frac{w_i}{2} |W_i|^2

    where log v is bounded softly by the learned h and l (appendix A.1). Members share nothing, the
    bounds included. With ``variance: none`` v is zero and the loss the mean squared error: the
    paper's deterministic ensemble. Elites are the members of least held-out squared error (Janner
    et al. 2019); predictions are theirs.

    Args:
        state_size: n.
        action_size: nu.
        generator: where initial weights are drawn from.
        members: E.
        elites: how many members predict; null: all.
        variance: learned, or none.
        bootstrap: whether each member is trained on a resampling of the data, with replacement.
        hidden: widths of the hidden layers.
        activation: the nonlinearity; silu is the swish of the paper.
        weight_decay: w, of every layer or of each (hidden ones, then the last).
        reward: whether the reward is predicted, too.
        ignored: entries of the state that the network does not see.
        angles: entries of the state of which it sees cosine and sine.
        dtype: precision of the networks.

    Attributes:
        elites: indices of the members that predict, ascending.
        is_probabilistic: whether variances are learned.

    Raises:
        ArgumentError: if a number is out of its range.
    """

    elites: Tensor

    def __init__(
        self,
        state_size: int,
        action_size: int,
        generator: torch.Generator,
        *,
        members: int = 5,
        elites: int | None = None,
        variance: Literal["learned", "none"] = "learned",
        bootstrap: bool = True,
        hidden: Sequence[int] = (200, 200, 200, 200),
        activation: Activation = "silu",
        weight_decay: float | Sequence[float] = 0.0,
        reward: bool = False,
        ignored: Sequence[int] = (),
        angles: Sequence[int] = (),
        dtype: DType = "float32",
    ):
        super().__init__(
            state_size, action_size, reward=reward, ignored=ignored, angles=angles, dtype=dtype
        )
        if elites is not None and not 1 <= elites <= members:
            raise ArgumentError(f"elites must be from 1 to members ({members}), got {elites}")
        self.members, self.bootstraps = members, bootstrap
        self.is_probabilistic = variance == "learned"
        self.network = StackedMLP(
            members,
            self.feature_size,
            (1 + self.is_probabilistic) * self.output_size,
            generator,
            hidden=hidden,
            activation=activation,
            dtype=dtype,
        )
        self._decays = _by_layer(weight_decay, len(hidden) + 1)
        if self.is_probabilistic:
            bound = torch.ones(members, 1, self.output_size, dtype=DTYPES[dtype])
            self.highest_log_variance = nn.Parameter(_HIGHEST * bound)
            self.lowest_log_variance = nn.Parameter(_LOWEST * bound)
        self.register_buffer("elites", torch.arange(elites or members))

    def moments(self, inputs: Tensor, members: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return mean and log variance of y, [m, B, k] each, of normalised inputs [m, B, n + nu].

        Args:
            inputs: one batch for each member.
            members: their indices [m]; None: all.
        """
        outputs: Tensor = self.network(inputs, members)
        if not self.is_probabilistic:
            return outputs, torch.full_like(outputs, -torch.inf)
        mean, raw = outputs.chunk(2, dim=-1)
        highest: Tensor = self.highest_log_variance
        lowest: Tensor = self.lowest_log_variance
        if members is not None:
            highest, lowest = highest[members], lowest[members]
        raw = highest - softplus(highest - raw)
        return mean, lowest + softplus(raw - lowest)

    def mean(self, inputs: Tensor) -> Tensor:
        """See :class:`DynamicsModel`; the average of the elites."""
        shared = inputs.expand(len(self.elites), -1, -1)
        return self.moments(shared, self._predicting())[0].mean(0)

    def losses(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """See :class:`DynamicsModel`."""
        mean, log_variance = self.moments(inputs)
        errors = (mean - targets).square()
        loss = errors.mean((1, 2))
        if self.is_probabilistic:
            likelihood = (errors * (-log_variance).exp() + log_variance).mean((1, 2))
            width = (self.highest_log_variance - self.lowest_log_variance).sum((1, 2))
            loss = likelihood + _BOUND_WEIGHT * width
        for decay, weight in zip(self._decays, self.network.weights(), strict=True):
            if decay:
                loss = loss + 0.5 * decay * weight.square().sum((1, 2))
        return loss

    def squared_errors(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """See :class:`DynamicsModel`."""
        mean, _ = self.moments(inputs.expand(self.members, -1, -1))
        return (mean - targets).square().sum(-1)

    def by_member(self) -> Mapping[str, Tensor]:
        """See :class:`DynamicsModel`."""
        return {name: part.detach() for name, part in self.named_parameters()}

    def choose(self, held_out: Tensor | None) -> None:
        """See :class:`DynamicsModel`; the elites."""
        if len(self.elites) == self.members:
            return
        if held_out is None:
            raise ArgumentError(
                f"elites: choosing {len(self.elites)} of {self.members} members takes held-out data"
            )
        best = held_out.argsort(stable=True)[: len(self.elites)]
        self.elites.copy_(best.sort().values)

    def propagate(
        self,
        states: Tensor,
        actions: Tensor,
        generator: torch.Generator,
        mode: Propagation = "ts1",
    ) -> Prediction:
        r"""Move P particles of each of N candidates one step (Chua et al. 2018, section 5.1).

        * ``ts1``: a particle moves by a member drawn anew, :math:`x' \sim N_e(x, u)`.
        * ``tsinf``: it moves by its own member for good: the first P/E' particles by the first of
          the E' elites, and so on.
        * ``expectation``: all move to the average of the elites' means.

        As in the authors' code every member moves equally many of a candidate's particles.

        Args:
            states: [P, N, n].
            actions: [N, nu].
            generator: of members and noise.
            mode: see above.

        Returns:
            Next states [P, N, n] and rewards [P, N].

        Raises:
            ArgumentError: if there is no such mode, or P is no multiple of the number of elites.
        """
        if mode not in PROPAGATIONS:
            raise ArgumentError(f"mode: unknown value {mode!r}; {suggestion(mode, PROPAGATIONS)}")
        inputs = self.normalized(states, actions.expand(len(states), -1, -1))  # (P, N, n + nu)
        if mode == "expectation":
            mean = self.mean(inputs.flatten(0, 1))
            return self.prediction(states, mean.unflatten(0, inputs.shape[:2]))
        elites = len(self.elites)
        if len(states) % elites:
            raise ArgumentError(
                f"states: the number of particles must be a multiple of the {elites} elites, "
                f"got {len(states)}"
            )
        if mode == "tsinf":
            return self.prediction(states, self._sampled(inputs, generator))
        order = torch.rand(inputs.shape[:2], generator=generator).argsort(0).to(inputs.device)
        outputs = self._sampled(_taken(inputs, order), generator)
        return self.prediction(states, _taken(outputs, order.argsort(0)))

    def _sampled(self, inputs: Tensor, generator: torch.Generator) -> Tensor:
        """Draw y [P, N, k] at [P, N, n + nu], the particles dealt out to the elites in order."""
        dealt = inputs.reshape(len(self.elites), -1, self.feature_size)
        mean, log_variance = self.moments(dealt, self._predicting())
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype).to(mean.device)
        sample = mean + (0.5 * log_variance).exp() * noise
        return sample.reshape(*inputs.shape[:2], self.output_size)

    def _predicting(self) -> Tensor | None:
        return None if len(self.elites) == self.members else self.elites


def _taken(values: Tensor, order: Tensor) -> Tensor:
    """Reorder [P, N, k] along the particles by [P, N]."""
    return values.gather(0, order[..., None].expand_as(values))


def _by_layer(decay: float | Sequence[float], layers: int) -> tuple[float, ...]:
    decays = tuple(decay) if isinstance(decay, Sequence) else (decay,) * layers
    if len(decays) != layers:
        raise ArgumentError(
            f"weight_decay must be a number or one for each of {layers} layers, got {list(decays)}"
        )
    if any(not weight >= 0 for weight in decays):
        raise ArgumentError(f"weight_decay must not be negative, got {list(decays)}")
    return decays
