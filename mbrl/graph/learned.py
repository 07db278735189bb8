"""A learned model of the dynamics as a node."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from mbrl.graph.node import Node, Place
from mbrl.nn import load_state_dynamics
from mbrl.ops import SurrogateDynamics
from mbrl.tasks import declared
from mbrl.types import Step


class LearnedDynamicsNode(Node):
    r"""One control step by a model f that another run has learned: x_{t+1} = f(x_t, u_t).

    The forward pass may be the task's own step F instead, so that the model is differentiated
    alone, along real trajectories; see :class:`~mbrl.ops.SurrogateDynamics`. The model is not
    trained here. An ensemble is the mean of its elites.

    Args:
        place: see :class:`Node`.
        run: folder of a run of ``fit_dynamics``, or of ``learned_mpc`` with ``space: states``.
        forward: whose the values are: learned, the model's; or real, those of the task's dynamics.
            Derivatives are the model's.

    Raises:
        ArgumentError: if there is no such run, or its model does not fit the task.
        CheckpointError: if it has no undamaged checkpoint.
    """

    inputs = {"state": "nx", "action": "nu"}
    outputs = {"next_state": "nx"}

    def __init__(self, place: Place, *, run: str, forward: Literal["learned", "real"] = "learned"):
        super().__init__(place)
        task = place.task
        where = f"graph.nodes.{place.name}.run"
        model = load_state_dynamics(run, task.state_size, task.action_size, where=where)
        self.dynamics: nn.Module = model.requires_grad_(False)
        self._keywords: tuple[str, ...] = ()
        self.is_imagined = forward == "learned"
        if forward == "real":
            real, spec = task.dynamics(), None if task.simulator is None else task.simulator.spec
            self._keywords = declared(real.forward)
            self.dynamics = SurrogateDynamics(real, self.dynamics, spec)

    def forward(self, step: Step, *values: Tensor) -> Tensor:
        """[B, nx], [B, nu] -> [B, nx]."""
        keywords = {name: getattr(step, name) for name in self._keywords}
        following: Tensor = self.dynamics(*values, **keywords)
        return following
