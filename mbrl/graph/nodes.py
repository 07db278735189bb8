"""The node kinds that ship with the package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from torch import Tensor

from mbrl.graph.actuators import chosen
from mbrl.graph.kinds import KINDS
from mbrl.graph.learned import LearnedDynamicsNode
from mbrl.graph.node import SCALAR, Node, Place
from mbrl.nn import Policy, act
from mbrl.options import Choice
from mbrl.physics import SMOOTHINGS, smoothing_of
from mbrl.tasks import declared
from mbrl.types import Step, Transition


class Observe(Node):
    """What the agent sees: o_t = o(x_t; t, c)."""

    inputs = {"state": "nx"}
    outputs = {"observation": "n_obs"}

    def forward(self, step: Step, *values: Tensor) -> Tensor:
        """[B, nx] -> [B, n_obs]."""
        return self.place.task.observe(*values, t=step.t, context=step.context)


class PolicyNode(Node):
    """A policy: u_t = pi(o_t).

    Args:
        place: see :class:`Node`.
        policy: pi, for the bounds of the actuators that it drives.
        actuators: their indices; null: all.
    """

    inputs = {"observation": None}
    outputs = {"action": "nu"}

    def __init__(self, place: Place, policy: Policy, *, actuators: Sequence[int] | None = None):
        super().__init__(place)
        self.policy, self.uses_time = policy, policy.uses_time
        self._actuators = chosen(actuators, place.name, place.task)

    def width(self, port: str) -> int:
        """Return the number of actuators."""
        return len(self._actuators)

    def drives(self, port: str) -> tuple[int, ...]:
        """Return the actuators of its option."""
        return self._actuators

    def forward(self, step: Step, *values: Tensor) -> Tensor:
        """[B, width] -> [B, number of actuators]."""
        (observation,) = values
        return act(self.policy, observation, step)


class DynamicsNode(Node):
    """One control step of the task's dynamics: x_{t+1} = F(x_t, u_t).

    Args:
        place: see :class:`Node`.
        method: how it is differentiated; see ``Simulator.linearize``.
        eps: size of differences; null: the method's best.
        centered: second-order differences.
        smoothing: whose derivatives stand in for those of the step, ``{kind: impedance, width:
            0.005}`` or ``{kind: randomized, position_sd: 0.01}``; see
            :class:`~mbrl.physics.ImpedanceSmoothing` and
            :class:`~mbrl.physics.RandomizedSmoothing`. null: exact ones.
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
        smoothing: Annotated[Mapping[str, Any], Choice(SMOOTHINGS)] | None = None,
    ):
        super().__init__(place)
        options: dict[str, Any] = {"method": method, "eps": eps, "centered": centered}
        if smoothing is not None:  # a task of one's own need not know the word
            where = f"graph.nodes.{place.name}.smoothing"
            options["smoothing"] = smoothing_of(smoothing, where)
        self.dynamics = place.task.dynamics(**options)
        self._keywords = declared(self.dynamics.forward)

    def forward(self, step: Step, *values: Tensor) -> Tensor:
        """[B, nx], [B, nu] -> [B, nx]."""
        keywords = {name: getattr(step, name) for name in self._keywords}
        following: Tensor = self.dynamics(*values, **keywords)
        return following


class Reward(Node):
    """The task's reward: r_t = r(x_t, u_t, x_{t+1}; t, c)."""

    inputs = {"state": "nx", "action": "nu", "next_state": "nx"}
    outputs = {"reward": SCALAR}

    def __init__(self, place: Place):
        super().__init__(place)
        task = place.task
        self.is_rowwise = task.has_reward_formula and not (task.uses_time or task.context_size)

    def forward(self, step: Step, *values: Tensor) -> Tensor:
        """[B, nx], [B, nu], [B, nx] -> [B]."""
        return self.place.task.reward(*values, t=step.t, context=step.context)


class OwnStep(Node):
    """The environment's own step: x_{t+1}, r_t, o_{t+1} and whether the episode ends, in one op.

    Everything is exactly what the environment returns, and differentiated together. To let the
    policy see what it will see in the environment, carry ``next_observation`` on as the
    observation, with ``initial: observe``.
    """

    inputs = {"state": "nx", "action": "nu"}
    outputs = {
        "next_state": "nx",
        "reward": SCALAR,
        "next_observation": "n_obs",
        "terminated": SCALAR,
    }

    def forward(self, step: Step, *values: Tensor) -> tuple[Tensor, ...]:
        """[B, nx], [B, nu] -> [B, nx], [B], [B, n_obs], [B] bool."""
        taken: Transition = self.place.task.advance(*values, t=step.t, context=step.context)
        return taken.next_state, taken.reward, taken.observation, taken.terminated


class Terminate(Node):
    """Whether an episode ends on arriving at x_{t+1}; rows that ended are frozen."""

    inputs = {"next_state": "nx"}
    outputs = {"terminated": SCALAR}

    def forward(self, step: Step, *values: Tensor) -> Tensor:
        """[B, nx] -> [B] bool."""
        return self.place.task.terminated(*values, t=step.t, context=step.context)


SHIPPED: dict[str, type[Node]] = {
    "observe": Observe,
    "dynamics": DynamicsNode,
    "learned_dynamics": LearnedDynamicsNode,
    "reward": Reward,
    "step": OwnStep,
    "terminate": Terminate,
    **KINDS,
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
