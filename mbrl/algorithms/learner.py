"""A model of dynamics while it is learned: fitted again whenever there are more data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from mbrl.data import Trajectories, split_transitions
from mbrl.errors import ArgumentError, MbrlError
from mbrl.nn import DynamicsModel, Fitting, ModelDescription
from mbrl.planning.checks import check_counts, check_not_negative, check_positive
from mbrl.tasks import Task
from mbrl.types import Space


@dataclass(frozen=True)
class FitOptions:
    """How a model of dynamics is fitted to all data there are.

    Attributes:
        epochs: so many visits of every transition, at most.
        min_steps: but so many steps of the optimiser at least, by more epochs where data are few.
        batch_size: rows of a batch.
        learning_rate: of Adam, whose moments are kept from one fit to the next.
        statistics: what normalises inputs and targets: ``frozen``, the moments of the first data
            (Nagabandi et al. 2018), so that they mean the same to the network for good;
            ``updated``, those of all data.
        held_out: share of the transitions that a fit does not see.
        patience: a fit ends after more than so many epochs in which no member's held-out loss has
            fallen by 1 %; null: never early.
    """

    epochs: int = 60
    min_steps: int = 0
    batch_size: int = 512
    learning_rate: float = 1e-3
    statistics: Literal["frozen", "updated"] = "frozen"
    held_out: float = 0.0
    patience: int | None = None

    def __post_init__(self) -> None:
        check_counts(epochs=self.epochs, batch_size=self.batch_size)
        check_not_negative(min_steps=self.min_steps)
        check_positive(learning_rate=self.learning_rate)
        if not 0 <= self.held_out < 1:
            raise ArgumentError(f"held_out must lie in [0, 1), got {self.held_out}")
        if self.patience is not None and (self.patience < 0 or self.held_out == 0):
            raise ArgumentError(
                f"patience must not be negative and takes held_out data, got {self.patience}"
            )


def described(choice: Mapping[str, Any], task: Task, space: Space) -> ModelDescription:
    """Return the description of a model of a task's states or observations.

    Args:
        choice: ``{kind: ..., **options}``, of algorithm.model.
        task: the task.
        space: which of the two.

    Raises:
        ConfigError: naming the key that is wrong.
    """
    size, quaternions = task.observation_size, []
    if space == "states":
        size = task.state_size
        if task.simulator is not None:
            quaternions = task.simulator.spec.quaternion_x.tolist()
    sizes = size, task.action_size, space, quaternions
    return ModelDescription.of(choice, *sizes, where="algorithm.model")


class Learner:
    """A model, its optimiser, and the fit in progress.

    Args:
        model: the model.
        options: see :class:`FitOptions`.
        generator: of what is held out, of bootstraps and orders.
        description: what the model can be built from again; a part of checkpoints. None: nothing
            says that.

    Raises:
        ArgumentError: if the model has elites, and nothing is held out to choose them by.
    """

    def __init__(
        self,
        model: DynamicsModel,
        options: FitOptions,
        generator: torch.Generator,
        description: ModelDescription | None = None,
    ):
        if not options.held_out:
            model.choose(None)  # as at the end of a fit, an hour earlier
        self.model, self._options, self._generator = model, options, generator
        self._description = description
        self._optimizer = torch.optim.Adam(model.parameters(), lr=options.learning_rate)
        self._fitting: Fitting | None = None
        self._split_seed = 0
        self._fits = 0

    def fit(self, data: Trajectories, pause: Callable[[str], None]) -> None:
        """Make all epochs of a fit to data, or those left where one to the same data was put by.

        Args:
            data: all there are.
            pause: called when the fit has begun and after every epoch, with a word on which it was;
                may raise, and then the fit goes on from there.

        Raises:
            ArgumentError: if nothing of so few data can be held out.
            DivergenceError: if a loss is not finite; the model is then that before the epoch.
        """
        if self._fitting is None:
            if self._fits == 0 or self._options.statistics == "updated":
                self.model.standardize(data.transitions())
            self._split_seed = int(torch.randint(2**31 - 1, (), generator=self._generator))
            self._fitting = self._begun(data)
            pause("the fit begins")
        fitting = self._fitting
        epochs = max(self._options.epochs, -(-self._options.min_steps // fitting.batches))
        while fitting.epochs < epochs and not fitting.is_over:
            whole_epoch(fitting, self.model, self._optimizer, self._generator)
            pause(f"epoch {fitting.epochs} of at most {epochs}")

    def finish(self) -> dict[str, float]:
        """End the fit: put its best parameters and the elites in place.

        Returns:
            What was measured.

        Raises:
            ArgumentError: if none has begun.
        """
        if self._fitting is None:
            raise ArgumentError("finish: no fit has begun")
        report = self._fitting.finish()
        self._fitting, self._fits = None, self._fits + 1
        judged = report.judged
        held_out = {} if judged is None else {"held_out_loss": float(judged.mean())}
        return {
            "fit_loss": float(report.losses[-1].mean()),
            **held_out,
            "fit_epochs": float(len(report.losses)),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return everything the fit depends on, but data and generator."""
        fitting = self._fitting
        return {
            "description": None if self._description is None else self._description.as_dict(),
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "fitting": None if fitting is None else fitting.state_dict(),
            "split_seed": self._split_seed,
            "fits": self._fits,
        }

    def load_state_dict(self, state: Mapping[str, Any], data: Trajectories) -> None:
        """Restore what :meth:`state_dict` returned; draws from the generator.

        Args:
            state: what it returned.
            data: those of then.
        """
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self._split_seed, self._fits = int(state["split_seed"]), int(state["fits"])
        self._fitting = None
        if state["fitting"] is not None:
            self._fitting = self._begun(data)
            self._fitting.load_state_dict(state["fitting"])

    def _begun(self, data: Trajectories) -> Fitting:
        options = self._options
        splitting = torch.Generator().manual_seed(self._split_seed)
        training, rest = split_transitions(data.transitions(), options.held_out, splitting)
        if options.held_out and not len(rest.states):
            raise ArgumentError(
                f"fit.held_out: {options.held_out} of {len(training.states)} transitions are none; "
                f"legal: at least {1 / len(training.states):.2g}, or more data"
            )
        return Fitting(
            self.model,
            training,
            optimizer=self._optimizer,
            generator=self._generator,
            batch_size=options.batch_size,
            held_out=rest if len(rest.states) else None,
            patience=options.patience,
        )


def whole_epoch(
    fitting: Fitting,
    model: DynamicsModel,
    optimizer: torch.optim.Optimizer,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor | None]:
    """Make an epoch of a fit; if it fails, model, optimiser and generator are as before.

    Returns:
        See :meth:`~mbrl.nn.Fitting.epoch`.

    Raises:
        DivergenceError: see there.
    """
    before = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    drawn = generator.get_state()
    try:
        return fitting.epoch()
    except MbrlError:
        model.load_state_dict(before[0])
        optimizer.load_state_dict(before[1])
        generator.set_state(drawn)
        raise
