"""Jacobians of stock models: time, error and rollouts, beside MuJoCo's own differences and MJX.

    python benchmarks/jacobians.py [--markdown] [--models Hopper ...] [--integrator Euler]

For each model, states "in contact" (constraint forces act, along random trajectories, after the
model has settled) and "in the air" (the root lifted until nothing touches; for models without a
floating root, states without constraint forces). Each method is timed at one and more threads, in
turns, so that a drift of the machine meets all; figures are medians over rounds. Beside our methods
stands the baseline: mjd_transitionFD chained over the physics steps on libmujoco's own threads,
with the model's own solver settings, eps 1e-6; for RK4, which it refuses, differences of the whole
step (method "step"). A ratio is the baseline's time over the method's, of the same round at equal
threads: more than 1 is faster. --integrator Euler switches every model. "floor" is the time of
"implicit" over that of the stages that differences of inverse dynamics consist of (peers.Floor),
on one thread.

An error is the Frobenius norm of the difference of [A B] over that of the reference: centred
differences of serial mj_step with Newton at tolerance 0, of two sizes, extrapolated. The median is
over all states, the worst over those where the two agree.
"""

import argparse
import copy
import os
import platform
import shlex
import statistics
import sys
import time
from pathlib import Path
from typing import NamedTuple

import gymnasium
import mujoco
import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import peers  # noqa: E402

from mbrl import MujocoDynamics, Simulator  # noqa: E402
from mbrl.errors import ModelError  # noqa: E402
from mbrl.physics import quiet  # noqa: E402
from mbrl.physics.linearization import METHODS  # noqa: E402
from tests import models  # noqa: E402
from tests.models import reference  # noqa: E402

BASELINE = "mjd_transitionFD"
RK4 = mujoco.mjtIntegrator.mjINT_RK4
CONTACT, AIR = "contact", "air"
HORIZON, BATCHES = 32, (16, 256)


class Figures(NamedTuple):
    """One method at one kind of states of one model."""

    model: str
    where: str
    method: str
    rk4: bool
    microseconds: dict[int, float]  # threads -> per state
    ratio: dict[int, float]
    speedup: float  # of the most threads over the fewest
    floor: float | None
    median: float
    worst: float


def main():
    """Print the tables."""
    options = arguments()
    print(machine(), end="\n\n")
    found = []
    for name in options.models:
        found += measured_model(name, options)
    threads = options.threads
    print_table(jacobian_table(found, threads), options.markdown)
    print_table(pooled_table(found, threads), options.markdown)
    print_table(rollout_table(options), options.markdown)
    if options.mjx and peers.has_mjx():
        print_table(mjx_table(options), options.markdown)
    elif options.mjx:
        print("MJX is not installed (pip install mbrl-mujoco[mjx])")


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=list(models.STOCK), choices=models.STOCK)
    parser.add_argument("--states", type=int, default=64, help="timed, of each kind")
    parser.add_argument("--errors", type=int, default=12, help="states that errors are taken at")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--integrator", choices=models.INTEGRATORS, help="of all models")
    parser.add_argument("--rollouts", nargs="*", default=["Hopper", "HalfCheetah"])
    parser.add_argument("--mjx", nargs="*", default=["HalfCheetah"], help="if it is installed")
    parser.add_argument("--markdown", action="store_true")
    return parser.parse_args()


def machine():
    """Say what was run where."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        named = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = named[0].split(":")[1].strip() if named else cpu
    command = shlex.join(["python", "benchmarks/jacobians.py", *sys.argv[1:]])
    return (
        f"{command}\n{os.cpu_count()} cores, {cpu}; Python {platform.python_version()}, "
        f"MuJoCo {mujoco.__version__}, torch {torch.__version__}"
    )


# Models and states


def model_of(name, integrator=None):
    """Return a stock model and its frame skip."""
    with quiet():  # some models use deprecated attributes
        env = gymnasium.make(f"{name}-v5")
    try:
        model, frame_skip = copy.copy(env.unwrapped.model), int(env.unwrapped.frame_skip)
    finally:
        env.close()
    if integrator is not None:
        model.opt.integrator = models.INTEGRATORS[integrator]
    return model, frame_skip


def visited(model, count, frame_skip, where, tries=40):
    """Return up to ``count`` states and controls of a kind, or None."""
    lifted = where == AIR and height_of(model) is not None
    data, rng = mujoco.MjData(model), np.random.default_rng(0)
    states, ctrls = [], []
    for _ in range(tries):
        for x, u in trajectory(model, data, rng, frame_skip):
            if lifted:
                x[height_of(model)] += 5.0
            reference.load(model, data, x, u)
            mujoco.mj_forward(model, data)
            forced = bool(np.any(data.qfrc_constraint))
            wanted = data.ncon == 0 if lifted else forced == (where == CONTACT)
            if wanted:
                states.append(x)
                ctrls.append(u)
    if not states:
        return None
    rows = rng.permutation(len(states))[:count]
    return np.stack(states)[rows], np.stack(ctrls)[rows]


def trajectory(model, data, rng, frame_skip, settle=0.5, steps=60):
    """Return states and controls under random controls, every fifth step, after settling."""
    mujoco.mj_resetData(model, data)
    mujoco.mj_integratePos(model, data.qpos, 0.05 * rng.standard_normal(model.nv), 1.0)
    for _ in range(int(settle / model.opt.timestep)):
        mujoco.mj_step(model, data)
    low, high = np.where(model.actuator_ctrllimited, model.actuator_ctrlrange.T, [[-1.0], [1.0]])
    found = []
    for t in range(steps):
        if t % 5 == 0:
            # Clear of the bounds, where centred differences would not exist.
            data.ctrl[:] = (low + high) / 2 + 0.475 * (high - low) * rng.uniform(-1, 1, model.nu)
            found.append((reference.read(data), data.ctrl.copy()))
        mujoco.mj_step(model, data, frame_skip)
    return found[1:]


def height_of(model):
    """Return the coordinate that lifts a floating or planar root; None: there is none."""
    for joint in range(model.njnt):
        at, kind = int(model.jnt_qposadr[joint]), model.jnt_type[joint]
        if kind == mujoco.mjtJoint.mjJNT_FREE:
            return at + 2
        root = model.body_parentid[model.jnt_bodyid[joint]] == 0
        vertical = abs(model.jnt_axis[joint, 2]) > 0.99
        if root and vertical and kind == mujoco.mjtJoint.mjJNT_SLIDE:
            return at
    return None


# Time and error of one model


def measured_model(name, options):
    """Return the figures of a model, for both kinds of states."""
    model, frame_skip = model_of(name, options.integrator)
    found = []
    for where in (CONTACT, AIR):
        points = visited(model, options.states, frame_skip, where)
        if points is not None:
            found += measured_points(name, where, model, frame_skip, points, options)
    return found


def measured_points(name, where, model, frame_skip, points, options):
    contenders = contenders_of(model, frame_skip, options.threads)
    calls = {
        (method, n): (lambda call=call: call(*points))
        for method, by_threads in contenders.items()
        for n, call in by_threads.items()
    }
    times = in_turns(calls, options.rounds)
    floor = statistics.median(peers.Floor(model, frame_skip, *points)() for _ in range(3))
    few = tuple(part[: options.errors] for part in points)
    expected = Reference(model, frame_skip, *few)
    rk4 = model.opt.integrator == RK4
    baseline = "step" if rk4 else BASELINE
    for method, by_threads in contenders.items():
        median, worst = expected.errors(by_threads[options.threads[0]](*few))
        microseconds = {
            n: 1e6 * statistics.median(times[method, n]) / len(points[0]) for n in options.threads
        }
        yield Figures(
            name,
            where,
            method,
            rk4,
            microseconds,
            {n: paired(times[baseline, n], times[method, n]) for n in options.threads},
            paired(times[method, options.threads[0]], times[method, options.threads[-1]]),
            microseconds[1] / floor if method == "implicit" and 1 in microseconds else None,
            median,
            worst,
        )


def contenders_of(model, frame_skip, threads):
    """Return {method: {threads: function of states and controls}}."""
    found = {}
    for method in METHODS:
        try:
            found[method] = {n: ours(model, frame_skip, n, method) for n in threads}
        except ModelError:
            continue
    if model.opt.integrator != RK4:
        found[BASELINE] = {n: peers.TransitionFD(model, frame_skip, n) for n in threads}
    return found


def ours(model, frame_skip, threads, method):
    """Return a function that gives [A B] by one of our methods."""
    simulator = Simulator(model, frame_skip=frame_skip, threads=threads)
    simulator.linearization_method(method)  # or it raises

    def call(states, ctrls):
        return np.concatenate(simulator.linearize(states, ctrls, method=method), axis=2)

    return call


class Reference:
    """The Jacobians at a few states, and where those can be told."""

    def __init__(self, model, frame_skip, states, ctrls):
        self.expected, self.trusted = reference.extrapolated(model, states, ctrls, frame_skip)

    def errors(self, found):
        """Return the median over all states and the worst over trusted ones."""
        error = reference.relative_error(found, self.expected)
        return float(np.median(error)), float(error[self.trusted].max(initial=0.0))


def in_turns(calls, rounds):
    """Return the seconds of each call, one after the other in every round."""
    times = {key: [] for key in calls}
    for measured in (False, *[True] * rounds):  # the first allocates
        for key, call in calls.items():
            start = time.perf_counter()
            call()
            if measured:
                times[key].append(time.perf_counter() - start)
    return times


def paired(others, own):
    """Return the median over rounds of the ratio within a round: what drifts cancels."""
    return statistics.median(a / b for a, b in zip(others, own, strict=True))


# Rollouts


def rollout_table(options):
    """Transitions per second of unrolled control steps, and of those with their backward.

    Beside them ``Simulator.rollout`` and a bare loop over ``mujoco.batch``, for the forward part.
    """
    rows = [("model", "method", "batch", "forward /s", "with backward /s")]
    for name in options.rollouts:
        model, frame_skip = model_of(name, options.integrator)
        simulator = Simulator(model, frame_skip=frame_skip)
        for batch in BATCHES:
            calls = {}
            for method in METHODS:
                try:
                    dynamics = MujocoDynamics(simulator, method=method)
                except ModelError:
                    continue
                for backward in (False, True):
                    calls[method, backward] = rollout(dynamics, batch, backward)
            calls["Simulator.rollout", False] = rolled(simulator, batch)
            calls["mujoco.batch", False] = peers.BareBatch(simulator, *starts(model, batch))
            times = in_turns(calls, options.rounds)
            for method in dict.fromkeys(method for method, _ in calls):
                known = (b for b in (False, True) if (method, b) in times)
                seconds = (statistics.median(times[method, b]) for b in known)
                rates = (HORIZON * batch / each for each in seconds)
                cells = [f"{rate:.0f}" for rate in rates]
                rows.append((name, method, str(batch), *cells, *[""] * (2 - len(cells))))
    return rows


def starts(model, batch):
    """Return states at rest [batch, nx] and random controls [HORIZON, batch, nu]."""
    rest = np.concatenate([model.qpos0, np.zeros(model.nv + model.na)])
    actions = np.random.default_rng(0).uniform(-0.5, 0.5, (HORIZON, batch, model.nu))
    return np.tile(rest, (batch, 1)), actions


def rolled(simulator, batch):
    """Return a function that rolls the simulator out, without torch."""
    states, actions = starts(simulator.model, batch)
    return lambda: simulator.rollout(states, actions)


def rollout(dynamics, batch, backward):
    """Return a function that unrolls HORIZON control steps from rest under random actions."""
    first, actions = map(torch.from_numpy, starts(dynamics.simulator.model, batch))

    def call():
        taken = actions.clone().requires_grad_(backward)
        state = first
        with torch.set_grad_enabled(backward):
            for action in taken:
                state = dynamics(state, action)
        if backward:
            state.sum().backward()

    return call


def mjx_table(options):
    """``jacfwd`` of MJX at the states in contact."""
    rows = [("model", "MJX jacfwd us/state", "seconds to compile")]
    for name in options.mjx:
        model, frame_skip = model_of(name, options.integrator)
        points = visited(model, options.states, frame_skip, CONTACT)
        microseconds, compiled = peers.mjx_jacfwd(model, frame_skip, *points)
        rows.append((name, f"{microseconds:.0f}", f"{compiled:.0f}"))
    return rows


# Tables


def jacobian_table(found, threads):
    times = [f"us, {n} thr." for n in threads]
    ratios = [f"ratio, {n} thr." for n in threads]
    rows = [("model", "states", "method", *times, *ratios, "floor", "error", "worst")]
    for f in found:
        rows.append(
            (f.model + " (RK4)" * f.rk4, f.where, f.method,
             *(f"{f.microseconds[n]:.0f}" for n in threads),
             *(f"{f.ratio[n]:.2f}" for n in threads),
             "" if f.floor is None else f"{f.floor:.2f}", f"{f.median:.0e}", f"{f.worst:.0e}")
        )  # fmt: skip
    return rows


def pooled_table(found, threads):
    """Medians and extremes over models."""
    heads = (f"{what}, {n} thr." for n in threads for what in ("ratio", "least"))
    rows = [
        (
            "pooled: states",
            "integrator",
            "method",
            "models",
            *heads,
            f"{threads[-1]} thr. over {threads[0]}",
            "error",
        )
    ]
    for rk4 in (True, False):
        for where in (CONTACT, AIR):
            for method in (*METHODS, BASELINE):
                chosen = [f for f in found if (f.where, f.method, f.rk4) == (where, method, rk4)]
                if not chosen:
                    continue
                ratios = [[f.ratio[n] for f in chosen] for n in threads]
                rows.append(
                    (where, "RK4" if rk4 else "others", method, str(len(chosen)),
                     *(f"{of(r):.2f}" for r in ratios for of in (statistics.median, min)),
                     f"{statistics.median(f.speedup for f in chosen):.2f}",
                     f"{statistics.median(f.median for f in chosen):.0e}")
                )  # fmt: skip
    return rows


def print_table(rows, markdown):
    """Print a table whose first row is its heading."""
    if len(rows) < 2:
        return
    if markdown:
        rows = [rows[0], ("---",) * len(rows[0]), *rows[1:]]
        print(*(f"| {' | '.join(row)} |" for row in rows), sep="\n", end="\n\n", flush=True)
        return
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
    print(flush=True)


if __name__ == "__main__":
    main()
