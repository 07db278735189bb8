"""Runs of learned_mpc that take a fraction of a second."""

from pathlib import Path
from typing import Any

from tests.tiny import same, stored, timeless

# The cheetah by its observed cost; random shooting.
CHEETAH: dict[str, Any] = {
    "task": "mbrl/HalfCheetahTorso-v0",
    "task_args": {"max_episode_steps": 5},
    "algorithm": {
        "model": {"kind": "mlp", "hidden": [16]},
        "fit": {"epochs": 4, "batch_size": 16},
        "planner": {"kind": "random_shooting", "samples": 20},
        "validation_episodes": 1,
    },
}

# Poles that fall at different times; the reward is learned by an ensemble, whose particles iCEM
# plans with; an update goes on where patience ends.
PENDULUM: dict[str, Any] = {
    "task": "InvertedPendulum-v5",
    "task_args": {"max_episode_steps": 12},
    "algorithm": {
        "model": {"kind": "ensemble", "hidden": [8], "members": 3, "elites": 2, "reward": True},
        "fit": {
            "epochs": 5,
            "batch_size": 8,
            "held_out": 0.3,
            "patience": 1,
            "statistics": "updated",
        },
        "planner": {"kind": "icem", "samples": 10, "elites": 3, "iterations": 2},
        "propagation": {"mode": "ts1", "particles": 4},
        "iterations": 1,
        "every": 2,
    },
}

# States, and a planner with gains.
CARTPOLE: dict[str, Any] = {
    "task": "mbrl/Residual-v0",
    "task_args": {
        "model": "cartpole.xml",
        "frame_skip": 2,
        "cost": {
            "upright": {"residual": {"kind": "angle", "joint": "hinge"}, "weight": 10},
            "effort": {"residual": {"kind": "control"}, "weight": 0.1},
        },
        "reset": {"joints": {"hinge": [-0.3, 0.3]}},
        "success": {
            "terms": {"up": {"residual": {"kind": "angle", "joint": "hinge"}, "below": 0.2}}
        },
        "max_episode_steps": 5,
    },
    "algorithm": {
        "space": "states",
        "model": {"kind": "mlp", "hidden": [8], "activation": "tanh"},
        "fit": {"epochs": 4, "batch_size": 16},
        "planner": {"kind": "ilqr", "iterations": 1},
    },
}

# The same task as it is observed, by the cross-entropy method.
OBSERVED: dict[str, Any] = {
    **CARTPOLE,
    "algorithm": {
        "model": {"kind": "mlp", "hidden": [8], "reward": True, "ignored": [0]},
        "fit": {"epochs": 4, "batch_size": 16, "held_out": 0.1},
        "planner": {"kind": "cem", "samples": 10, "elites": 3, "iterations": 2},
    },
}

SETTINGS = {"cheetah": CHEETAH, "pendulum": PENDULUM, "cartpole": CARTPOLE, "observed": OBSERVED}


def tiny(folder: Path, setting: dict[str, Any], **algorithm: Any) -> dict[str, Any]:
    """Return a configuration with some options of the algorithm changed."""
    options = {
        "kind": "learned_mpc",
        "updates": 2,
        "horizon": 3,
        "episodes": 2,
        "random_episodes": 3,
        **setting["algorithm"],
        **algorithm,
    }
    return {
        **setting,
        "algorithm": {name: value for name, value in options.items() if value is not ...},
        "evaluation": {"episodes": 1},
        "monitor": {"plots": {"every": 0}},
        "threads": 1,
        "output_dir": str(folder),
        "name": "learned",
    }


def same_learned(a: Path, b: Path) -> bool:
    """Whether two runs measured the same, and ended with the same data and weights."""
    return timeless(a) == timeless(b) and all(
        same(stored(a, name), stored(b, name)) for name in ("latest", "best")
    )
