"""Gymnasium's environments as oracles: recorded episodes, and steps to a chosen next state."""

import functools
from typing import NamedTuple

import gymnasium
import mujoco
import numpy as np
import torch

from mbrl.physics import Simulator, quiet
from mbrl.tasks.stock import STOCK

NAMES = (
    "InvertedPendulum-v5",
    "InvertedDoublePendulum-v5",
    "HalfCheetah-v5",
    "Hopper-v5",
    "Swimmer-v5",
    "Walker2d-v5",
    "Ant-v5",
    "Humanoid-v5",
    "Reacher-v5",
    "Pusher-v5",
    "HumanoidStandup-v5",
)
SMOOTH = (
    "mbrl/SmoothInvertedPendulum-v0",
    "mbrl/SmoothInvertedDoublePendulum-v0",
    "mbrl/SmoothHopper-v0",
    "mbrl/SmoothWalker2d-v0",
)
WITHOUT_FORMULA = ("Ant-v5", "Humanoid-v5", "HumanoidStandup-v5")
WITH_FORMULA = tuple(name for name in NAMES if name not in WITHOUT_FORMULA)


class Recording(NamedTuple):
    """Steps of the environment from set states, along random episodes; tensors [n, ...]."""

    state: torch.Tensor
    action: torch.Tensor
    next_state: torch.Tensor
    observation: torch.Tensor
    reward: torch.Tensor
    terminated: torch.Tensor


@functools.cache
def record(name, steps=1000, seed=3):
    """Step a random episode, placing the environment anew at its state before every step.

    The solver starts cold then. It would otherwise remember the step before, and Humanoid's PGS
    solver, stopped by its number of iterations, carries 6e-6 of that into the next state.
    """
    with quiet():
        env = gymnasium.make(name)
    bare = env.unwrapped
    env.reset(seed=seed)
    env.action_space.seed(seed)
    rows = []
    for _ in range(steps):
        action = env.action_space.sample().astype(np.float64)
        state = coordinates(bare)
        place(bare, state)
        observation, reward, terminated, truncated, _ = env.step(action)
        rows.append((state, action, coordinates(bare), observation, reward, terminated))
        if terminated or truncated:
            env.reset()
    return Recording(*(torch.from_numpy(np.array(column)) for column in zip(*rows, strict=True)))


def coordinates(env):
    """[qpos, qvel] of an environment."""
    return np.concatenate([env.data.qpos, env.data.qvel])


def stock(name, **options):
    """Return a bare environment and our formulas of that very instance."""
    with quiet():
        env = gymnasium.make(name, **options).unwrapped
    simulator = Simulator(env.model, frame_skip=env.frame_skip, threads=1)
    return env, STOCK[type(env)](env, simulator)


def place(env, state):
    """Put an environment where a reset would leave it at this state (nx,)."""
    mujoco.mj_resetData(env.model, env.data)
    env.set_state(*np.split(state, [env.model.nq]))


def teleport(env, state, action, next_state):
    """The environment's own step from ``state``, its physics replaced by a jump to ``next_state``.

    What it reads out of its data then belongs to the next state, without any lag.
    """

    def jump(ctrl, _):
        env.data.qpos[:], env.data.qvel[:] = np.split(next_state, [env.model.nq])
        env.data.ctrl[:] = ctrl
        mujoco.mj_forward(env.model, env.data)

    place(env, state)
    env.do_simulation = jump
    try:
        return env.step(action)
    finally:
        del env.do_simulation


def shuffled(name, n=30, seed=0):
    """Triples (state, action, next state) [n, ...] of which no two belong to one step."""
    points = record(name)
    rows = torch.randperm(len(points.state), generator=torch.Generator().manual_seed(seed))
    first, second = rows[:n], rows[n : 2 * n]
    return points.state[first], points.action[second], points.next_state[second]
