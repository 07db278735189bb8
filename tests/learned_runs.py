"""Runs that hold a model of the dynamics, written by hand."""

from pathlib import Path

import torch

from mbrl import checkpoint
from mbrl.nn import DynamicsModel, MLPDynamics, ModelDescription
from mbrl.types import Transitions


def affine_model(data: Transitions) -> MLPDynamics:
    """The affine dynamics of least squares, in double precision."""
    nx, nu = data.states.shape[1], data.actions.shape[1]
    model = MLPDynamics(nx, nu, torch.Generator(), hidden=(), dtype="float64")
    model.standardize(data)
    inputs = model.normalized(data.states, data.actions)
    joint = torch.cat([inputs, torch.ones(len(inputs), 1, dtype=torch.float64)], dim=1)
    # Not model.targets: those are divided by a deviation that is 1e-7 larger.
    targets = (data.next_states - data.states - model.target_mean) / model.target_deviation
    solution = torch.linalg.lstsq(joint, targets).solution
    with torch.no_grad():
        model.network[0].weight.copy_(solution[:-1].T)
        model.network[0].bias.copy_(solution[-1])
    return model


def save_model(
    folder: Path,
    model: DynamicsModel,
    *,
    kind: str = "mlp",
    space: str = "states",
    **options: object,
) -> Path:
    """Write what a run that has learned ``model`` keeps of it; return its folder."""
    sizes = model.state_size, model.action_size
    description = ModelDescription(kind, options, *sizes, space, model.quaternions.tolist())
    learner = {"description": description.as_dict(), "model": model.state_dict()}
    checkpoint.save(folder / "checkpoints" / "latest.pt", {"algorithm": {"learner": learner}})
    return folder


def random_model(
    nx: int, nu: int, seed: int = 0, hidden: tuple[int, ...] = (16, 16)
) -> MLPDynamics:
    """A small network in double precision whose statistics normalise."""
    generator = torch.Generator().manual_seed(seed)
    model = MLPDynamics(nx, nu, generator, hidden=hidden, activation="tanh", dtype="float64")
    draw = torch.rand(4, nx + nu, generator=generator, dtype=torch.float64)
    model.set_statistics(
        inputs=(draw[0] - 0.5, draw[1] + 0.5), differences=(draw[2, :nx] - 0.5, draw[3, :nx] + 0.1)
    )
    return model


def needed(config: Path, folder: Path) -> list[str]:
    """Return the overrides that a shipped graph needs: a run with a model of the pendulum."""
    if "learned_dynamics" not in config.read_text():
        return []
    options = {"hidden": (16, 16), "activation": "tanh", "dtype": "float64"}
    run = save_model(folder / "model", random_model(4, 1), **options)
    return [f"graph.nodes.dynamics.run={run}", "algorithm.horizon_start=null"]
