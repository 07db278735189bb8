"""Identify masses, damping and contact friction from a trajectory, by back-propagation.

    python benchmarks/identify.py [--seeds 5] [--horizon 1] [--problems HalfCheetah]

A trajectory of Gymnasium's model under random actions is recorded with plain mj_step, every physics
step. Starting from parameters that are 30 to 50 % off, L-BFGS minimises the errors of predictions
from recorded states. Predictions of one step are the robust choice where the state is measured;
over longer horizons it is impacts that decide, and some seeds end in local minima.

InvertedPendulum: the pole's density, which is its mass with the inertia in proportion, and the
damping of its hinge. HalfCheetah: the sliding friction of its contacts. MuJoCo takes the larger
friction of the two geoms that touch, and here all have the same: one parameter sets them all, for
the floor's alone would have a kink at the truth, and no effect below it.
"""

import argparse
import sys
import time
from pathlib import Path

import mujoco
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import mbrl  # noqa: E402

HEADER = ("problem", "seed", "parameter", "true", "start", "found", "error", "updates", "seconds")
ROW = "{:17} {:>4}  {:40} {:>8} {:>8} {:>10} {:>8} {:>7} {:>7}"


STEPS, HOLD = 300, 10  # of a trajectory, and of one action
PROBLEMS = {
    "InvertedPendulum": [("body_mass[pole]", "body_inertia[pole]"), "dof_damping[hinge]"],
    "HalfCheetah": [("geom_friction[*,0]",)],
}


def record(model, seed):
    """Return states (T+1, nx) and actions (T, nu) of plain MuJoCo under random actions."""
    rng, data = np.random.default_rng(seed), mujoco.MjData(model)
    data.qpos += 0.1 * rng.standard_normal(model.nq)
    states, actions = [np.concatenate([data.qpos, data.qvel])], []
    for t in range(STEPS):
        if t % HOLD == 0:
            data.ctrl = rng.uniform(*model.actuator_ctrlrange.T)
        mujoco.mj_step(model, data)
        states.append(np.concatenate([data.qpos, data.qvel]))
        actions.append(data.ctrl.copy())
    return torch.from_numpy(np.stack(states)), torch.from_numpy(np.stack(actions))


def prediction_errors(dynamics, states, actions, parameters, horizon):
    """Errors (horizon, T / horizon, nx) of predictions from every ``horizon``-th state on."""
    state, errors = states[:-1:horizon], []
    for k in range(horizon):
        state = dynamics(state, actions[k::horizon], parameters)
        errors.append(state - states[k + 1 :: horizon])
    return torch.stack(errors)


def identify(dynamics, states, actions, start, horizon=1, updates=60):
    """Minimise squared errors over positive parameters; return them and the updates it took."""
    start = torch.as_tensor(start)
    logarithm = torch.zeros_like(start, requires_grad=True)
    scale = (states[1:] - states[:-1]).std(dim=0)
    optimizer = torch.optim.LBFGS(
        [logarithm], max_iter=updates, line_search_fn="strong_wolfe", tolerance_change=1e-14
    )

    def loss():
        optimizer.zero_grad()
        parameters = start * logarithm.exp()
        errors = prediction_errors(dynamics, states, actions, parameters, horizon)
        total = (errors / scale).square().mean()
        total.backward()
        return total

    optimizer.step(loss)
    found = (start * logarithm.exp()).detach()
    return found, optimizer.state[logarithm]["n_iter"]


def solve(name, seed, horizon=1, threads=None):
    """Return names, true, starting and found parameters, updates and seconds."""
    simulator = mbrl.Simulator(mbrl.make_task(f"{name}-v5").simulator.model, threads=threads)
    parameters = mbrl.ModelParameters(simulator, PROBLEMS[name])
    dynamics = mbrl.ParametricDynamics(simulator, parameters)
    states, actions = record(simulator.model, seed)
    rng = np.random.default_rng(seed)
    off = rng.uniform(0.3, 0.5, parameters.size) * rng.choice([-1.0, 1.0], parameters.size)
    start = parameters.values * (1.0 + off)
    began = time.perf_counter()
    found, updates = identify(dynamics, states, actions, start, horizon)
    seconds = time.perf_counter() - began
    return parameters.names, parameters.values, start, found.numpy(), updates, seconds


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=list(PROBLEMS))
    parser.add_argument("--horizon", type=int, default=1, help="steps of a prediction")
    arguments = parser.parse_args()
    if arguments.horizon < 1 or STEPS % arguments.horizon:
        parser.error(f"--horizon must divide {STEPS}, got {arguments.horizon}")
    print(ROW.format(*HEADER))
    for problem in arguments.problems:
        for seed in range(arguments.seeds):
            names, true, start, found, updates, seconds = solve(problem, seed, arguments.horizon)
            for name, a, b, c in zip(names, true, start, found, strict=True):
                error = abs(c / a - 1.0)
                cells = f"{a:.4g}", f"{b:.4g}", f"{c:.6g}", f"{error:.0e}", updates
                print(ROW.format(problem, seed, name, *cells, f"{seconds:.1f}"), flush=True)


if __name__ == "__main__":
    main()
