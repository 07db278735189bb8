"""The node kinds that ship with the package."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from mbrl.graph.node import SCALAR, Node, Place, Step
from mbrl.nn import Policy


class Observe(Node):
    """What the agent sees: o_t = o(x_t)."""

    inputs = {"state": "nx"}
    outputs = {"observation": "n_obs"}

    def forward(self, step: Step, *values: Tensor) -> Tensor:
        """[B, nx] -> [B, n_obs]."""
        return self.place.task.observe(*values)


class PolicyNode(Node):
    """A policy: u_t = pi(o_t)."""

    inputs = {"observation": None}
    outputs = {"action": "nu"}

    def __init__(self, place: Place, policy: Policy):
        super().__init__(place)
        self.policy = policy

    def forward(self, step: Step, *values: Tensor) -> Tensor:
        """[B, width] -> [B, nu]."""
        return self.policy(*values, generator=step.generator)


class DynamicsNode(Node):
    """One control step of the task's dynamics: x_{t+1} = F(x_t, u_t).

    Args:
        place: see :class:`Node`.
        method: how it is differentiated; see ``Simulator.linearize``.
        eps: size of differences; null: the method's best.
        centered: second-order differences.
    """

    inputs = {"state": "nx", "action": "nu"}
    outputs = {"next_state": "nx"}

    def __init__(
        self,
        place: Place,
        *,
        method: str = "auto",
        eps: float | None = None,
        centered: bool = False,
    ):
        super().__init__(place)
        self.dynamics = place.task.dynamics(method=method, eps=eps, centered=centered)

    def forward(self, step: Step, *values: Tensor) -> Tensor:
        """[B, nx], [B, nu] -> [B, nx]."""
        following: Tensor = self.dynamics(*values)
        return following


class Reward(Node):
    """The task's reward: r_t = r(x_t, u_t, x_{t+1})."""

    inputs = {"state": "nx", "action": "nu", "next_state": "nx"}
    outputs = {"reward": SCALAR}

    def forward(self, step: Step, *values: Tensor) -> Tensor:
        """[B, nx], [B, nu], [B, nx] -> [B]."""
        return self.place.task.reward(*values)


class Terminate(Node):
    """Whether an episode ends on arriving at x_{t+1}; rows that ended are frozen."""

    inputs = {"next_state": "nx"}
    outputs = {"terminated": SCALAR}

    def forward(self, step: Step, *values: Tensor) -> Tensor:
        """[B, nx] -> [B] bool."""
        return self.place.task.terminated(*values)


SHIPPED: dict[str, type[Node]] = {
    "observe": Observe,
    "dynamics": DynamicsNode,
    "reward": Reward,
    "terminate": Terminate,
}

# The graph of Model-Based-RL: a = pi(o(x)); x' = F(x, a); r = r(x, a, x').
VANILLA: dict[str, Any] = {
    "nodes": {
        "observe": {"kind": "observe"},
        "policy": {"kind": "deterministic_mlp"},
        "dynamics": {"kind": "dynamics"},
        "reward": {"kind": "reward"},
        "terminate": {"kind": "terminate"},
    },
    "carry": {"state": "next_state"},
}
