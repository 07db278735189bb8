"""Fitting models of dynamics to transitions, in minibatches, resumable between epochs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from mbrl.errors import ArgumentError, DivergenceError
from mbrl.nn.dynamics_model import DynamicsModel
from mbrl.types import Transitions

_IMPROVEMENT = 0.01  # relative decrease of a held-out loss that counts as one
_ROWS_AT_ONCE = 4096  # of held-out data


class FitReport(NamedTuple):
    """How a fit went; E members.

    ``losses`` are means of the training loss over each epoch, ``held_out`` mean squared errors of
    normalised targets after it, and ``judged`` those of the parameters that are in place.
    """

    losses: Tensor  # (epochs, E)
    held_out: Tensor | None  # (epochs, E)
    stopped_early: bool
    judged: Tensor | None  # (E,)


Progress = Callable[[int, Tensor, Tensor | None], None]


class Fitting:
    r"""Minibatch descent on the loss of a model, an epoch at a time.

    Every epoch visits every row once, in a new order. A model that bootstraps draws N of the N rows
    with replacement for each member when the fitting begins, and every member takes batches of its
    own in the same step. Network and optimiser go on from where they are. With ``patience``, the
    fitting is over when for more than that many epochs no member's held-out loss has fallen by 1 %
    below its best (Janner et al. 2019, the authors' code), and :meth:`finish` gives every member
    the parameters of its best epoch.

    To resume: keep the states of model, optimiser and generator, and :meth:`state_dict`.

    Args:
        model: what is fitted; its statistics are set.
        data: what it is fitted to.
        optimizer: of the model's parameters.
        generator: of bootstraps and orders.
        batch_size: rows of a batch; the last of an epoch may be smaller.
        held_out: what elites are chosen and fits are stopped by.
        patience: see above; None: never.

    Raises:
        ArgumentError: if there are no rows, shapes do not fit, or a number is out of its range.
    """

    def __init__(
        self,
        model: DynamicsModel,
        data: Transitions,
        *,
        optimizer: torch.optim.Optimizer,
        generator: torch.Generator,
        batch_size: int = 512,
        held_out: Transitions | None = None,
        patience: int | None = None,
    ):
        if batch_size < 1:
            raise ArgumentError(f"batch_size must be at least 1, got {batch_size}")
        if patience is not None and (held_out is None or patience < 0):
            raise ArgumentError(
                f"patience must not be negative and takes held-out data, got {patience}"
            )
        self._model, self._optimizer, self._generator = model, optimizer, generator
        self._batch_size, self._patience = batch_size, patience
        self._inputs, self._targets = _normalized(model, data, "data")
        self._held_out = None if held_out is None else _normalized(model, held_out, "held_out")
        self._rows = self._drawn_rows()
        self._losses: list[Tensor] = []
        self._held_out_losses: list[Tensor] = []
        self._best = torch.full((model.members,), torch.inf, dtype=self._inputs.dtype)
        kept = {} if patience is None else model.by_member()
        self._best_parameters = {name: parameter.clone() for name, parameter in kept.items()}
        self._stale = 0

    @property
    def is_over(self) -> bool:
        """Whether patience is spent."""
        return self._patience is not None and self._stale > self._patience

    @property
    def batches(self) -> int:
        """How many steps of the optimiser an epoch makes."""
        return -(-self._rows.shape[1] // self._batch_size)

    @property
    def epochs(self) -> int:
        """How many epochs there have been."""
        return len(self._losses)

    def epoch(self) -> tuple[Tensor, Tensor | None]:
        """Visit every row once.

        Returns:
            Mean training loss and, after the epoch, held-out loss, of every member, [E] each.

        Raises:
            DivergenceError: if a loss or a parameter is not finite; names the members.
        """
        rows = self._rows.gather(1, self._orders()).to(self._inputs.device)
        total = self._inputs.new_zeros(self._model.members)
        for batch in rows.split(self._batch_size, dim=1):
            losses = self._model.losses(self._inputs[batch], self._targets[batch])
            self._optimizer.zero_grad(set_to_none=True)
            losses.sum().backward()
            self._optimizer.step()
            total += losses.detach() * batch.shape[1]
        mean = (total / rows.shape[1]).cpu()
        self._check("the loss", mean.isfinite())
        self._check("a parameter", self._finite())  # the last step's, which no loss has seen
        self._losses.append(mean)
        held_out = self._judged()
        return mean, held_out

    def finish(self) -> FitReport:
        """Put the best parameters and the elites in place, and report."""
        held_out = torch.stack(self._held_out_losses) if self._held_out_losses else None
        judged = None if held_out is None else held_out[-1]
        if self._patience is not None and held_out is not None:
            for name, parameter in self._model.by_member().items():
                parameter.copy_(self._best_parameters[name])
            judged = self._best
        self._model.choose(judged)
        losses = (
            torch.stack(self._losses) if self._losses else self._best.new_zeros(0, len(self._best))
        )
        return FitReport(losses, held_out, self.is_over, judged)

    def state_dict(self) -> dict[str, Any]:
        """Return what is neither in the model, nor in the optimiser, nor in the generator."""
        return {
            "rows": self._rows,
            "losses": list(self._losses),
            "held_out_losses": list(self._held_out_losses),
            "best": self._best.clone(),
            "best_parameters": {name: p.clone() for name, p in self._best_parameters.items()},
            "stale": self._stale,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a :meth:`state_dict` of a fitting to the same data.

        Raises:
            ArgumentError: if it was of other data or of another number of members.
        """
        if state["rows"].shape != self._rows.shape:
            raise ArgumentError(
                f"state is of a fit of [members, rows] {list(state['rows'].shape)}, "
                f"this one is of {list(self._rows.shape)}"
            )
        self._rows = state["rows"]
        self._losses, self._held_out_losses = list(state["losses"]), list(state["held_out_losses"])
        self._best, self._stale = state["best"].clone(), state["stale"]
        kept, device = state["best_parameters"], self._inputs.device
        self._best_parameters = {name: p.to(device, copy=True) for name, p in kept.items()}

    def _drawn_rows(self) -> Tensor:
        """Return which rows each member is fitted to, [E, N]."""
        shape = (self._model.members, len(self._inputs))
        if self._model.bootstraps:
            return torch.randint(shape[1], shape, generator=self._generator)
        return torch.arange(shape[1]).expand(shape)

    def _orders(self) -> Tensor:
        members, n = self._rows.shape
        return torch.stack([torch.randperm(n, generator=self._generator) for _ in range(members)])

    def _check(self, what: str, finite: Tensor) -> None:
        lost = (~finite).nonzero()[:, 0].tolist()
        if lost:
            raise DivergenceError(
                f"{what} of members {lost} is not finite in epoch {self.epochs}; a smaller "
                "learning rate may help",
                lost,
            )

    @torch.no_grad()
    def _finite(self) -> Tensor:
        """Return whose parameters are, [E]."""
        parts = [p.isfinite().reshape(len(p), -1).all(1) for p in self._model.by_member().values()]
        return torch.stack(parts).all(0).cpu()

    @torch.no_grad()
    def _judged(self) -> Tensor | None:
        if self._held_out is None:
            return None
        parts = zip(*(part.split(_ROWS_AT_ONCE) for part in self._held_out), strict=True)
        errors = [self._model.squared_errors(inputs, targets).sum(1) for inputs, targets in parts]
        loss = torch.stack(errors).sum(0).cpu() / self._held_out[1].numel()
        self._held_out_losses.append(loss)
        improved = loss < (1 - _IMPROVEMENT) * self._best
        self._stale = 0 if bool(improved.any()) else self._stale + 1
        if self._patience is not None:
            self._best = torch.where(improved, loss, self._best)
            better = improved.nonzero()[:, 0].to(self._inputs.device)
            for name, parameter in self._model.by_member().items():
                self._best_parameters[name][better] = parameter[better]
        return loss


def fit(
    model: DynamicsModel,
    data: Transitions,
    *,
    epochs: int = 60,
    batch_size: int = 512,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
    held_out: Transitions | None = None,
    patience: int | None = None,
    progress: Progress | None = None,
) -> FitReport:
    """Fit a model for some epochs, or until patience is spent; see :class:`Fitting`.

    Args:
        model: see :class:`Fitting`, as for all that are not named here.
        data: see there.
        epochs: at most this many.
        batch_size: see there.
        optimizer: see there.
        generator: see there.
        held_out: see there.
        patience: see there.
        progress: called after each epoch with its index, losses [E] and held-out losses [E].

    Raises:
        ArgumentError: see :class:`Fitting`.
        DivergenceError: if a loss is not finite.
    """
    fitting = Fitting(
        model,
        data,
        optimizer=optimizer,
        generator=generator,
        batch_size=batch_size,
        held_out=held_out,
        patience=patience,
    )
    for index in range(epochs):
        losses, judged = fitting.epoch()
        if progress is not None:
            progress(index, losses, judged)
        if fitting.is_over:
            break
    return fitting.finish()


def _normalized(model: DynamicsModel, data: Transitions, name: str) -> tuple[Tensor, Tensor]:
    """Return z and y, [N, n + nu] and [N, k]."""
    widths = {
        "states": model.state_size,
        "actions": model.action_size,
        "next_states": model.state_size,
    }
    rows = len(data.states)
    for field, width in widths.items():
        shape = getattr(data, field).shape
        if rows == 0 or shape != (rows, width):
            raise ArgumentError(
                f"{name}: {field} must be [N, {width}] with N = {rows or 'at least 1'}, "
                f"got {list(shape)}"
            )
    if data.rewards is not None and data.rewards.shape != (rows,):
        raise ArgumentError(f"{name}: rewards must be [{rows}], got {list(data.rewards.shape)}")
    return model.normalized(data.states, data.actions), model.targets(data)
