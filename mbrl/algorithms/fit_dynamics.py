"""Learning a model of the dynamics, and nothing else."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Annotated, Any, Literal

import numpy as np
import torch
from torch import Tensor

from mbrl.algorithms.algorithm import Actor, Setting
from mbrl.algorithms.learner import described, whole_epoch
from mbrl.algorithms.model_errors import model_errors, open_loop
from mbrl.algorithms.optimizer import OptimizerOptions, make_optimizer, set_learning_rate
from mbrl.data import Trajectories
from mbrl.errors import ArgumentError
from mbrl.nn import Device, DynamicsModel, Fitting, find_device
from mbrl.options import Choice, at_key
from mbrl.planning.checks import check_counts, check_not_negative, check_positive
from mbrl.registry import DYNAMICS
from mbrl.tasks import Task, collect, random_actions, random_walk
from mbrl.types import Array, Exhibits, Space

_MLP: Mapping[str, Any] = MappingProxyType({"kind": "mlp"})


class FitDynamics:
    r"""A model of the dynamics, fitted to some episodes and judged by others.

    .. math:: \theta = \arg\min_\theta \sum_{(x, u, x') \in D}
              \Big| \frac{x' - x - \mu_d}{\sigma_d} - f_\theta(x, u) \Big|^2

    or what else the model minimises. D is a file of episodes, or episodes of random actions in the
    real environment: what Model-Based-RL calls its dynamics mode. Other runs use what is learned:
    as a node ``learned_dynamics`` of their graphs, or in ``algorithm.dynamics`` of planners;
    ``mbrl.load_dynamics`` returns it.

    An update is an epoch. The validation episodes, which no epoch sees, choose an ensemble's elites
    and with ``patience`` the best epoch. What a checkpoint hands out is the model so chosen, and
    ``validation_one_step_error`` and ``validation_open_loop_error`` are its: see
    :func:`~mbrl.algorithms.model_errors.model_errors`. ``fit_loss`` and ``validation_loss`` are
    those of the epoch.

    There is no policy: what is evaluated rests, with the actions nearest to zero.

    Args:
        setting: task and generator.
        model: ``{kind: ..., **options}``.
        updates: epochs, at most.
        space: what the model predicts. Graphs take a model of states.
        data: an .npz file that ``mbrl.data.Trajectories.save`` wrote, of that space; null: data are
            collected.
        actions: of collected episodes: uniform, drawn afresh at every step, or random_walk.
        walk_sd: deviation of a step of the walk relative to half the range; see
            :func:`~mbrl.tasks.random_walk`.
        episodes: that are collected to fit the model to.
        validation_episodes: that are collected besides, or drawn from ``data`` and held out; 0:
            none, and nothing is measured.
        steps: of a collected episode, at most; null: as many as the task has.
        batch_size: rows of a batch.
        optimizer: see :class:`OptimizerOptions`.
        patience: the fit ends after more than so many epochs in which no member's validation loss
            has fallen by 1 %, and hands out the best epoch; null: never early, and the last one.
        device: where the model is fitted: cpu, cuda, or auto, which is cuda where there is one.

    Raises:
        ArgumentError: if a number is out of its range.
        ConfigError: naming the key that is wrong.
    """

    def __init__(
        self,
        setting: Setting,
        *,
        model: Annotated[Mapping[str, Any], Choice(DYNAMICS)] = _MLP,
        updates: int = 100,
        space: Space = "states",
        data: str | None = None,
        actions: Literal["uniform", "random_walk"] = "uniform",
        walk_sd: float = 0.2,
        episodes: int = 20,
        validation_episodes: int = 5,
        steps: int | None = None,
        batch_size: int = 512,
        optimizer: OptimizerOptions = OptimizerOptions(),  # noqa: B008 (frozen)
        patience: int | None = None,
        device: Device = "auto",
    ):
        check_counts(
            "algorithm", updates=updates, episodes=episodes, steps=steps, batch_size=batch_size
        )
        check_not_negative("algorithm", validation_episodes=validation_episodes, patience=patience)
        check_positive("algorithm", walk_sd=walk_sd)
        if patience is not None and not validation_episodes:
            raise ArgumentError(
                f"algorithm.patience takes validation_episodes, got {patience}; legal: null"
            )
        self._updates, self._setting = updates, setting
        self._task, self._generator = setting.task, setting.generator
        task = setting.task
        self._space, self._file = space, data
        self._actions, self._walk_sd = actions, walk_sd
        self._counts = episodes, validation_episodes
        self._steps = steps or task.max_episode_steps or 1000
        self._batch_size, self._patience = batch_size, patience
        self._description = described(model, task, space)
        size = self._description.state_size
        place = find_device(device, "algorithm.device")
        self._model = self._description.build(self._generator, "algorithm.model").to(place)
        if not validation_episodes:
            with at_key("algorithm.model", DYNAMICS.get(self._description.kind)):
                self._model.choose(None)  # says if there is a choice to be made
        self._options = optimizer
        self._optimizer = make_optimizer(dict(self._model.named_parameters()), optimizer)
        self._data = Trajectories(size, task.action_size)
        self._validation = Trajectories(size, task.action_size)
        self._fitting: Fitting | None = None
        self._done = 0
        self._counted = False  # whether the steps of the data have been reported

    @property
    def updates(self) -> int:
        """Epochs there are to be: none after patience is spent."""
        over = self._fitting is not None and self._fitting.is_over
        return self._done if over else self._updates

    def update(self) -> dict[str, float]:
        """Make an epoch; the first finds data before."""
        if self._fitting is None:
            self._data, self._validation = self._found()
            self._model.standardize(self._data.transitions())
            self._fitting = self._begun()
            self._setting.pause("the fit begins")
        rate = set_learning_rate(self._optimizer, self._options, self._done / self._updates)
        losses, judged = whole_epoch(self._fitting, self._model, self._optimizer, self._generator)
        self._done += 1
        measured = {"fit_loss": float(losses.mean()), "learning_rate": rate}
        if judged is not None:
            measured["validation_loss"] = float(judged.mean())
            measured |= model_errors(self.model(), self._validation, "validation_")
        steps = 0 if self._counted else self._data.steps + self._validation.steps
        self._counted = True
        return {"env_steps": float(steps), **measured}

    def model(self) -> DynamicsModel:
        """Return a copy of the model as it is handed out: of its best epoch, with its elites."""
        training = copy.deepcopy(self._model.state_dict())
        if self._fitting is not None and self._fitting.epochs:
            self._fitting.finish()
        chosen = copy.deepcopy(self._model)
        self._model.load_state_dict(training)
        return chosen

    def actor(self) -> Actor:
        """Return what does nothing."""
        return Resting(self._task)

    def exhibits(self) -> Exhibits:
        """Return how the model foretells the beginning of the first validation episode."""
        if not len(self._validation):
            return Exhibits()
        return Exhibits(open_loop(self._task, self.model(), self._validation.episodes[0]))

    def state_dict(self) -> dict[str, Any]:
        """The model as it is handed out and in training, all data, and the random state."""
        return {
            "learner": {
                "description": self._description.as_dict(),
                "model": self.model().state_dict(),
            },
            "training": {
                "model": self._model.state_dict(),
                "optimizer": self._optimizer.state_dict(),
                "fitting": None if self._fitting is None else self._fitting.state_dict(),
            },
            "data": self._data.state_dict(),
            "validation": self._validation.state_dict(),
            "done": self._done,
            "counted": self._counted,
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        training = state["training"]
        self._data.load_state_dict(state["data"])
        self._validation.load_state_dict(state["validation"])
        self._model.load_state_dict(training["model"])
        self._optimizer.load_state_dict(training["optimizer"])
        self._fitting = None
        if training["fitting"] is not None:
            self._fitting = self._begun()
            self._fitting.load_state_dict(training["fitting"])
        self._done, self._counted = int(state["done"]), bool(state["counted"])
        self._generator.set_state(state["generator"])

    def _begun(self) -> Fitting:
        return Fitting(
            self._model,
            self._data.transitions(),
            optimizer=self._optimizer,
            generator=self._generator,
            batch_size=self._batch_size,
            held_out=self._validation.transitions() if len(self._validation) else None,
            patience=self._patience,
        )

    def _found(self) -> tuple[Trajectories, Trajectories]:
        """Return the episodes to fit to, and those to judge by."""
        if self._file is not None:
            return self._read(self._file)
        parts = Trajectories(*self._widths), Trajectories(*self._widths)
        for part, episodes in zip(parts, self._counts, strict=True):
            if episodes:
                part.append(
                    collect(
                        self._task,
                        self._random(),
                        episodes=episodes,
                        steps=self._steps,
                        generator=self._generator,
                        space=self._space,
                    )
                )
        return parts

    @property
    def _widths(self) -> tuple[int, int]:
        return self._description.state_size, self._description.action_size

    def _random(self) -> Callable[[Tensor, int], Tensor]:
        if self._actions == "uniform":
            return random_actions(self._task, self._generator)
        return random_walk(self._task, self._generator, self._walk_sd)

    def _read(self, file: str) -> tuple[Trajectories, Trajectories]:
        with at_key("algorithm.data", Trajectories.load):
            found = Trajectories.load(file)
        widths = found.observation_size, found.action_size
        if widths != self._widths:
            raise ArgumentError(
                f"algorithm.data: {file} holds {widths[0]} coordinates and {widths[1]} actions, "
                f"{self._task.name} has {self._widths[0]} ({self._space}) and {self._widths[1]}"
            )
        held_out = self._counts[1]
        if len(found) <= held_out:
            raise ArgumentError(
                f"algorithm.validation_episodes must leave episodes to fit to, got {held_out} of "
                f"the {len(found)} in {file}"
            )
        return found.split(held_out / len(found), self._generator)


class Resting:
    """An actor whose actions are zero, or the nearest to it that is allowed.

    Args:
        task: whose actions.
    """

    def __init__(self, task: Task):
        zero = torch.zeros(task.action_size, dtype=torch.float64)
        self._action: Tensor = torch.clamp(zero, task.action_low, task.action_high)

    def act(self, observation: Array) -> Array:
        """[B, n_obs] -> [B, nu]."""
        action: Array = self._action.numpy()
        return np.broadcast_to(action, (*np.shape(observation)[:-1], len(action))).copy()

    def reset(self) -> None:
        """There is nothing to forget."""
