"""Filmstrips of the planning tasks: one episode each, a few frames side by side.

    MUJOCO_GL=egl python benchmarks/filmstrips.py docs/planning.png [--tasks cartpole walker ...]

Each row is one task of configs/planning under the controller of its file, from the start of the
first evaluation episode; frames are evenly spaced in time.
"""

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import imageio.v3
import mujoco
import numpy as np
import torch

import mbrl
from mbrl.finished_runs import made_algorithm

FOLDER = Path(__file__).resolve().parents[1] / "configs" / "planning"
FRAMES, HEIGHT, WIDTH = 7, 150, 200
GAP = 4
# Where the camera stands, for models without one of their own called "fixed": looking along y.
DISTANCE, ELEVATION, AZIMUTH = 3.5, -12.0, 90.0


def episode(name):
    """Return the model and the states of one episode, [T+1, nx]."""
    config = mbrl.load_config(FOLDER / f"{name}.yaml")
    generator = torch.Generator().manual_seed(config.seed)
    task = mbrl.make_task(config.task, **config.task_args)
    algorithm = made_algorithm(config, task, generator)
    if config.algorithm["kind"] == "trajectory_optimization":
        done = 0
        while done < algorithm.updates:
            algorithm.update()
            done += 1
    start = task.start(1, generator)
    actor, state, states = algorithm.actor(), start.state, [start.state[0]]
    for t in range(task.max_episode_steps):
        action = torch.from_numpy(actor.act(state.numpy(), t, start.context.numpy()))
        state = task.step(state, action, t=t, context=start.context).next_state
        states.append(state[0])
    return task.simulator, torch.stack(states).numpy()


def strip(simulator, states):
    """Return the frames of a trajectory, side by side, [HEIGHT, width, 3]."""
    model, spec = simulator.model, simulator.spec
    data = mujoco.MjData(model)
    own = mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA, "fixed")
    camera = own if own >= 0 else mujoco.MjvCamera()
    frames = []
    with mujoco.Renderer(model, HEIGHT, WIDTH) as renderer:
        for index in np.linspace(0, len(states) - 1, FRAMES).round().astype(int):
            data.qpos[:], data.qvel[:], data.act[:] = spec.split(states[index])
            mujoco.mj_forward(model, data)
            if own < 0:
                camera.lookat[:] = data.subtree_com[1] if model.nbody > 1 else 0
                camera.distance, camera.elevation = DISTANCE, ELEVATION
                camera.azimuth = AZIMUTH
            renderer.update_scene(data, camera)
            frames.append(renderer.render())
            frames.append(np.full((HEIGHT, GAP, 3), 255, dtype=np.uint8))
    return np.concatenate(frames[:-1], axis=1)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("picture", type=Path)
    parser.add_argument("--tasks", nargs="+", default=["cartpole", "walker", "humanoid_standup"])
    options = parser.parse_args()
    rows = []
    for name in options.tasks:
        rows.append(strip(*episode(name)))
        rows.append(np.full((GAP, rows[0].shape[1], 3), 255, dtype=np.uint8))
        print(name, flush=True)
    imageio.v3.imwrite(options.picture, np.concatenate(rows[:-1], axis=0))


if __name__ == "__main__":
    main()
