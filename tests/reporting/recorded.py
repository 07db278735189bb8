"""Folders of runs that nobody made."""

import copy
import json
from pathlib import Path
from typing import Any

from mbrl.run_folder import RunFolder

CONFIG: dict[str, Any] = {
    "task": "InvertedPendulum-v5",
    "algorithm": {
        "kind": "policy_gradient",
        "updates": 3,
        "optimizer": {"kind": "adam", "lr": 0.1},
    },
    "graph": {},
    "seed": 0,
    "output_dir": "outputs",
    "name": "made",
}


def config(**changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(CONFIG), **changes}


def folder(
    place: Path,
    columns: dict[str, list[float]] | None = None,
    summary: dict[str, Any] | None = None,
    **changes: Any,
) -> Path:
    """Write a run: its configuration, metrics, and summary if it is finished."""
    place.mkdir(parents=True)
    run = RunFolder(place)
    run.write_config(config(**changes))
    if columns is not None:
        lines = [
            ",".join(columns),
            *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True)),
        ]
        run.metrics.write_text("".join(f"{line}\n" for line in lines))
    if summary is not None:
        (place / "summary.json").write_text(json.dumps(summary))
    return place


def curves(returns: list[float], steps: int = 10) -> dict[str, list[float]]:
    updates = range(1, len(returns) + 1)
    return {
        "update": [*updates],
        "env_steps": [steps * update for update in updates],
        "wall_s": [0.5 * update for update in updates],
        "return_mean": returns,
    }
