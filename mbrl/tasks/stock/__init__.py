"""Observations, rewards and terminations of Gymnasium's own environments, in torch.

One class each. They are the environments' formulas written as functions of states, with the
constructor arguments of the very instance; every task holds them against the environment's own
``step`` when it is made. A class whose ``reward`` is None has no formula of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.envs.mujoco.ant_v5 import AntEnv
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from gymnasium.envs.mujoco.humanoid_v5 import HumanoidEnv
from gymnasium.envs.mujoco.humanoidstandup_v5 import HumanoidStandupEnv
from gymnasium.envs.mujoco.inverted_double_pendulum_v5 import InvertedDoublePendulumEnv
from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv
from gymnasium.envs.mujoco.pusher_v5 import PusherEnv
from gymnasium.envs.mujoco.reacher_v5 import ReacherEnv
from gymnasium.envs.mujoco.swimmer_v5 import SwimmerEnv
from gymnasium.envs.mujoco.walker2d_v5 import Walker2dEnv

from mbrl.physics import Simulator
from mbrl.tasks.stock.arms import PusherFormulas, ReacherFormulas
from mbrl.tasks.stock.bodies import AntFormulas, HumanoidFormulas, HumanoidStandupFormulas
from mbrl.tasks.stock.formulas import Formulas
from mbrl.tasks.stock.pendulums import InvertedDoublePendulumFormulas, InvertedPendulumFormulas
from mbrl.tasks.stock.runners import (
    HalfCheetahFormulas,
    HopperFormulas,
    SwimmerFormulas,
    Walker2dFormulas,
)

__all__ = ["STOCK", "Formulas"]

STOCK: dict[type[MujocoEnv], Callable[[Any, Simulator], Formulas]] = {
    InvertedPendulumEnv: InvertedPendulumFormulas,
    InvertedDoublePendulumEnv: InvertedDoublePendulumFormulas,
    HalfCheetahEnv: HalfCheetahFormulas,
    SwimmerEnv: SwimmerFormulas,
    HopperEnv: HopperFormulas,
    Walker2dEnv: Walker2dFormulas,
    ReacherEnv: ReacherFormulas,
    PusherEnv: PusherFormulas,
    AntEnv: AntFormulas,
    HumanoidEnv: HumanoidFormulas,
    HumanoidStandupEnv: HumanoidStandupFormulas,
}
