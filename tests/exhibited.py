"""Runs with something to show, and an environment that is drawn without any graphics."""

from typing import Any

import gymnasium
import numpy as np

from mbrl.tasks.torso import HalfCheetahTorsoEnv

STEPS = 20
LEARNED: dict[str, Any] = {  # a second
    "task": "mbrl/HalfCheetahTorso-v0",
    "task_args": {"max_episode_steps": STEPS},
    "algorithm": {
        "kind": "learned_mpc",
        "planner": {"kind": "random_shooting", "samples": 50},
        "fit": {"epochs": 4},
        "episodes": 3,
        "random_episodes": 3,
        "updates": 3,
        "steps": STEPS,
    },
    "threads": 1,
    "evaluation": {"episodes": 1},
    "checkpoint": {"every": 1},
}
PAINTED = "tests/PaintedCheetah-v0"


class PaintedCheetahEnv(HalfCheetahTorsoEnv):
    """Its pictures are the bytes of its position and velocity, [12, 12, 3]."""

    def render(self):
        picture = np.zeros((12, 12, 3), dtype=np.uint8)
        state = np.concatenate([self.data.qpos, self.data.qvel])
        picture.reshape(-1)[: state.nbytes] = np.frombuffer(state.tobytes(), dtype=np.uint8)
        return picture


def painted_state(frame):
    """Return the state (18) that a picture shows."""
    return np.frombuffer(np.ascontiguousarray(frame).tobytes()[: 18 * 8])


def register_painted():
    if PAINTED not in gymnasium.registry:
        gymnasium.register(PAINTED, entry_point=PaintedCheetahEnv, max_episode_steps=1000)


def states_of(actions, seed, **arguments):
    """Return the states of an episode in the plain environment, [T+1, 18]."""
    env = gymnasium.make("mbrl/HalfCheetahTorso-v0", **arguments)
    env.reset(seed=seed)
    data = env.unwrapped.data
    states = [np.concatenate([data.qpos, data.qvel])]
    for action in actions:
        env.step(action)
        states.append(np.concatenate([data.qpos, data.qvel]))
    env.close()
    return np.stack(states)
