"""Tasks: what is to be achieved, and the adapter that makes one of any MuJoCo environment."""

from __future__ import annotations

from typing import Any

from mbrl.errors import ArgumentError
from mbrl.registry import TASKS
from mbrl.tasks.cartpole import CartPole, register_cartpole
from mbrl.tasks.collection import (
    Collection,
    collect,
    drawn_seeds,
    random_actions,
    random_walk,
)
from mbrl.tasks.distractors import distracted
from mbrl.tasks.evaluation import Evaluation, evaluate
from mbrl.tasks.formulas import declared
from mbrl.tasks.gymnasium_task import GymnasiumTask
from mbrl.tasks.playback import Playback
from mbrl.tasks.reaching import register_reaching
from mbrl.tasks.residual import Expansion, ResidualCost, Success, register_residual
from mbrl.tasks.smooth import register_smooth
from mbrl.tasks.tabular import TabularMDP, TabularTask, register_tabular
from mbrl.tasks.task import Task
from mbrl.tasks.torch_task import TorchTask
from mbrl.tasks.torso import register_torso
from mbrl.tasks.tracking import register_tracking
from mbrl.types import Space

__all__ = [
    "CartPole",
    "Collection",
    "Evaluation",
    "Expansion",
    "GymnasiumTask",
    "Playback",
    "ResidualCost",
    "Space",
    "Success",
    "TabularMDP",
    "TabularTask",
    "Task",
    "TorchTask",
    "collect",
    "declared",
    "drawn_seeds",
    "evaluate",
    "make_task",
    "random_actions",
    "random_walk",
    "register_cartpole",
    "register_reaching",
    "register_residual",
    "register_smooth",
    "register_tabular",
    "register_torso",
    "register_tracking",
]


def make_task(name: str, /, **kwargs: Any) -> Task:
    """Return the task of a name: a registered one, or else the Gymnasium environment of that id.

    Args:
        name: e.g. "HalfCheetah-v5".
        **kwargs: handed to the task, and by it to the environment; ``threads`` sets the number of
            engine threads, and ``distractors`` how many numbers drawn from N(0, 1) are appended to
            every observation of a Gymnasium environment.

    Raises:
        UnknownNameError: if nothing has that name.
        TaskError: if the environment cannot serve as a task.
    """
    if "render_mode" in kwargs:
        raise ArgumentError(
            f"render_mode is none of a task's arguments, got {kwargs['render_mode']!r}; videos are "
            "made by --mode record and monitor.video"
        )
    if name in TASKS:
        task: Task = TASKS.get(name)(**kwargs)
        return task
    distractors = kwargs.pop("distractors", 0)
    return distracted(GymnasiumTask(name, **kwargs), distractors)
