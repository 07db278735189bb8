"""What smoothing of contacts in backward costs (bias) and what it buys.

    python benchmarks/contact_smoothing.py                      # the two tables below, some minutes
    python benchmarks/contact_smoothing.py --train configs/hopper.yaml [--seeds 3 4 5]

Bias: relative errors of A and B against the exact ones, median and largest over states met under
random controls, and of the gradient of the return of ten steps with respect to the controls: its
cosine with the exact one, median and 10 % quantile over rollouts, and the median ratio of norms.

Pushing: a pusher is to move a block which it does not touch, by gradient descent on its controls.
As long as they do not meet, the exact gradient is zero. The cost without any motion is 1; the
column "touch" says after how many updates they met.

Training: evaluation returns of a configuration with each smoothing, and its training time.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import mujoco
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import mbrl  # noqa: E402
from mbrl.physics import smoothing_bias  # noqa: E402
from tests.models import reference  # noqa: E402

STOCK = {
    "impedance 1 mm": {"kind": "impedance", "width": 0.001},
    "impedance 5 mm": {"kind": "impedance", "width": 0.005},
    "impedance 2 cm": {"kind": "impedance", "width": 0.02},
    "impedance 2 cm, slow": {"kind": "impedance", "width": 0.02, "slowdown": 3.0},
    "only slow": {"kind": "impedance", "width": 0.0, "onset": 1.0, "slowdown": 2.0},
    "randomized 0.1 mm": {"kind": "randomized", "position_sd": 0.0001},
    "randomized 1 mm": {"kind": "randomized", "position_sd": 0.001},
    "randomized 1 cm": {"kind": "randomized", "position_sd": 0.01},
}
TRAINED = {
    "none": None,
    "impedance 5 mm": STOCK["impedance 5 mm"],
    "only slow": STOCK["only slow"],
    "randomized 1 mm": {"kind": "randomized", "position_sd": 0.001, "samples": 4},
}
PUSHED = {
    "none": None,
    "impedance 2 cm": {"kind": "impedance", "width": 0.02},
    "impedance 10 cm": {"kind": "impedance", "width": 0.1},
    "impedance 30 cm": {"kind": "impedance", "width": 0.3},
    "randomized 2 cm": {"kind": "randomized", "position_sd": 0.02},
    "randomized 10 cm": {"kind": "randomized", "position_sd": 0.1},
}
PUSHER = """
<mujoco>
  <option timestep="0.005" gravity="0 0 0"/>
  <worldbody>
    <body>
      <joint name="pusher" type="slide" axis="1 0 0" damping="5"/>
      <geom type="sphere" size="0.05" mass="1"/>
    </body>
    <body pos="{position} 0 0">
      <joint type="slide" axis="1 0 0" damping="2"/>
      <geom type="box" size="0.1 0.1 0.1" mass="1"/>
    </body>
  </worldbody>
  <actuator><motor joint="pusher" ctrlrange="-20 20"/></actuator>
</mujoco>
"""
GOAL, STEPS, UPDATES = 0.5, 30, 60


def bias(name, states=60, length=10):
    """Print the first table's rows of a stock environment."""
    task = mbrl.make_task(name)
    simulator = task.simulator
    x, u = reference.samples(simulator.model, states, length=100, frame_skip=simulator.frame_skip)
    controls = np.random.default_rng(0).uniform(-0.9, 0.9, (length, *u.shape))
    exact = return_gradient(task, x, controls, None)
    for label, smoothing in STOCK.items():
        found = smoothing_bias(simulator, x, u, smoothing)
        smoothed = return_gradient(task, x, controls, smoothing)
        ratio = smoothed.norm(dim=1) / exact.norm(dim=1)
        cosine = torch.nn.functional.cosine_similarity(smoothed, exact, dim=1)
        figures = (
            *found,
            *(float(v) for v in (cosine.median(), cosine.quantile(0.1), ratio.median())),
        )
        print(f"{name:14} {label:21}", *(f"{value:>9.2g}" for value in figures), flush=True)


def return_gradient(task, states, controls, smoothing):
    """Gradient of each rollout's return with respect to its controls, (B, T nu)."""
    dynamics = mbrl.MujocoDynamics(task.simulator, smoothing=smoothing)
    actions = torch.from_numpy(controls).requires_grad_()
    state, total = torch.from_numpy(states), torch.zeros(len(states), dtype=torch.float64)
    for action in actions:
        following = dynamics(state, action)
        total, state = total + task.reward(state, action, following), following
    (gradient,) = torch.autograd.grad(total.sum(), actions)
    return gradient.transpose(0, 1).flatten(1)


def push(gap, smoothing):
    """Return the last cost, over that of doing nothing, and the update of the first touch."""
    model = mujoco.MjModel.from_xml_string(PUSHER.format(position=0.15 + gap))
    simulator = mbrl.Simulator(model, frame_skip=4)
    dynamics = mbrl.MujocoDynamics(simulator, smoothing=smoothing)
    controls = torch.zeros(STEPS, 1, 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([controls], lr=0.5)
    costs, touch = [], None
    for update in range(UPDATES):
        state = torch.zeros(1, 4, dtype=torch.float64)
        for control in controls:
            state = dynamics(state, control)
        cost = ((state[0, 1] - GOAL) / GOAL) ** 2 + (0.2 * state[0, 3]) ** 2
        if touch is None and state[0, 1] != 0.0:
            touch = update
        optimizer.zero_grad()
        cost.backward()
        optimizer.step()
        costs.append(cost.item())
    return costs[-1], touch


def train(path, seeds):
    """Print the evaluation returns of a configuration with each smoothing."""
    for label, smoothing in TRAINED.items():
        returns, seconds = [], []
        for seed in seeds:
            with tempfile.TemporaryDirectory() as folder:
                config = mbrl.load_config(path, [f"seed={seed}", f"output_dir={folder}"])
                config.graph["nodes"]["dynamics"]["smoothing"] = smoothing
                summary = mbrl.run(config).summary
            returns.append(summary["eval_return_mean"])
            seconds.append(summary["wall_s"])
        shown = " ".join(f"{value:8.1f}" for value in returns)
        print(f"{label:21} {shown}   {np.mean(seconds):6.1f} s", flush=True)


def main():
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--environments", nargs="+", default=["HalfCheetah", "Hopper", "Walker2d"])
    parser.add_argument("--train", metavar="CONFIG")
    parser.add_argument("--seeds", nargs="+", type=int, default=[3, 4, 5])
    options = parser.parse_args()
    if options.train:
        print(f"{'smoothing':21} evaluation return of seeds {options.seeds}, training time")
        train(options.train, options.seeds)
        return
    columns = ("A median", "largest", "B median", "largest", "cosine", "10 %", "norms")
    print(f"{'environment':14} {'smoothing':21}", *(f"{name:>9}" for name in columns))
    for name in options.environments:
        bias(f"{name}-v5")
    print(f"\n{'gap':>6} {'smoothing':21} {'cost':>7} {'touch':>6} {'s':>6}")
    for gap in (0.02, 0.1):
        for label, smoothing in PUSHED.items():
            start = time.perf_counter()
            cost, touch = push(gap, smoothing)
            seconds = time.perf_counter() - start
            when = "never" if touch is None else touch
            print(f"{gap:6.2f} {label:21} {cost:7.3f} {when:>6} {seconds:6.1f}", flush=True)


if __name__ == "__main__":
    main()
