"""Models of dynamics that runs have learned: described in their checkpoints, and read again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from mbrl import checkpoint
from mbrl.errors import ArgumentError, CheckpointError, MbrlError, one_line, suggestion
from mbrl.nn.dynamics_model import DynamicsModel
from mbrl.options import at_key, chosen
from mbrl.registry import DYNAMICS
from mbrl.types import Space

_UNFIT = (AttributeError, KeyError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class ModelDescription:
    """What a model is built from, weights apart: plain data.

    Attributes:
        kind: its name in the registry.
        options: all of its kind.
        state_size: n, of states or of observations.
        action_size: nu.
        space: which of the two it predicts.
        quaternions: which entries of the state are quaternions, four each.
    """

    kind: str
    options: Mapping[str, Any]
    state_size: int
    action_size: int
    space: Space
    quaternions: Sequence[Sequence[int]] = ()

    @classmethod
    def of(cls, choice: Mapping[str, Any], *sizes: Any, where: str) -> ModelDescription:
        """Return the description of ``{kind: name, **options}``.

        Args:
            choice: the same.
            *sizes: the other fields, in their order.
            where: the configuration key of the choice, for messages.

        Raises:
            ConfigError: naming the key below ``where``, its value and what is legal.
        """
        options = chosen(DYNAMICS, choice, where)
        return cls(options.pop("kind"), options, *sizes)

    def build(self, generator: torch.Generator, where: str = "model") -> DynamicsModel:
        """Return a new model.

        Args:
            generator: draws its initial weights.
            where: the configuration key of its options, for messages.

        Raises:
            MbrlError: if there is no such kind, or its options do not fit.
        """
        entry = DYNAMICS.get(self.kind, f"{where}.kind")
        with at_key(where, entry):
            model: DynamicsModel = entry(
                self.state_size, self.action_size, generator, **self.options
            )
        model.set_quaternions(self.quaternions)
        return model

    def as_dict(self) -> dict[str, Any]:
        """Return plain data that :class:`ModelDescription` takes by name."""
        return asdict(self)


def load_dynamics(run: str | Path, *, where: str = "run") -> DynamicsModel:
    """Return the model of the dynamics that a run has learned, as of its latest checkpoint.

    Nothing in a checkpoint is executed. A kind of model of one's own must be registered.

    Args:
        run: the folder of a run of ``fit_dynamics`` or ``learned_mpc``, or one of its checkpoints.
        where: the configuration key that it came from, for messages.

    Raises:
        ArgumentError: if there is no such run, or it has learned no model.
        CheckpointError: if it has no undamaged checkpoint, or one that does not fit.
    """
    return _loaded(run, where)[0]


def load_state_dynamics(
    run: str | Path, state_size: int, action_size: int, *, where: str = "run"
) -> DynamicsModel:
    """Return a run's model, which must be of states and of these sizes; see :func:`load_dynamics`.

    Args:
        run: see there.
        state_size: nx.
        action_size: nu.
        where: see there.

    Raises:
        ArgumentError: see there; or if the model is of something else.
        CheckpointError: see there.
    """
    model, description = _loaded(run, where)
    if description.space != "states":
        raise ArgumentError(
            f"{where}: the model of {run} predicts {description.space}; legal: one of states, "
            "learned with algorithm.space: states"
        )
    if (model.state_size, model.action_size) != (state_size, action_size):
        raise ArgumentError(
            f"{where}: the model of {run} is of {model.state_size} coordinates and "
            f"{model.action_size} actions, the task has {state_size} and {action_size}"
        )
    return model


def _loaded(run: str | Path, where: str) -> tuple[DynamicsModel, ModelDescription]:
    learner = _learner(run, where)
    try:
        description = ModelDescription(**learner["description"])
        model = description.build(torch.Generator().manual_seed(0), where)
        model.load_state_dict(learner["model"])
    except _UNFIT as error:
        if isinstance(error, MbrlError):
            raise
        raise CheckpointError(
            f"{run}: the checkpoint holds no model that can be built here: {one_line(error)}"
        ) from error
    return model, description


def _learner(run: str | Path, where: str) -> Mapping[str, Any]:
    """Return what a run keeps of its model."""
    path = Path(run)
    found: Any = checkpoint.load(path if path.is_file() else _latest(path, where))
    for key in ("algorithm", "learner"):
        found = found.get(key) if isinstance(found, Mapping) else None
    if not isinstance(found, Mapping) or "description" not in found:
        raise ArgumentError(
            f"{where}: {run} has learned no model of the dynamics; legal: runs of algorithms "
            "fit_dynamics and learned_mpc"
        )
    return found


def _latest(folder: Path, where: str) -> Path:
    if not (folder / "checkpoints").is_dir():
        beside = folder.parent.iterdir() if folder.parent.is_dir() else ()
        runs = [path.name for path in beside if (path / "checkpoints").is_dir()]
        raise ArgumentError(
            f"{where}: {folder} is not the folder of a run; in {folder.parent}, "
            f"{suggestion(folder.name, runs)}"
        )
    return folder / "checkpoints" / "latest.pt"
