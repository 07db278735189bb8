"""Small runs of several seeds, of every kind of algorithm that has them."""

from typing import Any

import torch

import mbrl
from mbrl.algorithms import ContinuousOMD, DiscreteOMD, Setting
from mbrl.config import from_mapping

SEEDS, STEPS, RANDOM, BATCH = 3, 20, 25, 16
TINY: dict[str, Any] = {
    "seeds": SEEDS,
    "updates": 3,
    "steps": STEPS,
    "random_steps": RANDOM,
    "eval_episodes": 2,
    "batch_size": BATCH,
    "hidden_dim": 8,
    "model_hidden_dim": 4,
}
KINDS = {"omd": DiscreteOMD, "omd_sac": ContinuousOMD}
TASKS = {"omd": "CartPole-v1", "omd_sac": "InvertedPendulum-v5"}  # both end when a pole has fallen


def made(kind, seed=0, task=None, **options):
    """Return an algorithm; ``task``: arguments of its task."""
    made_task = mbrl.make_task(TASKS[kind], threads=1, **(task or {}))
    setting = Setting(made_task, {}, torch.Generator().manual_seed(seed))
    return KINDS[kind](setting, **{**TINY, **options})


def config(folder, kind, **changes):
    """Return the configuration of a run; ``changes``: of the algorithm."""
    content = {
        "task": TASKS[kind],
        "task_args": {"distractors": 1},
        "seed": 4,
        "threads": 1,
        "algorithm": {"kind": kind, **TINY, **changes},
        "evaluation": {"episodes": 5},
        "checkpoint": {"every": 1},
        "output_dir": str(folder),
    }
    return from_mapping(content, "tiny")
