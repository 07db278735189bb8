"""A forked child has none of its parent's threads: what it computes must not wait for them."""

import os
import subprocess
import sys

import pytest

SCRIPT = """
import multiprocessing, os, signal, sys, threading
import mujoco
import numpy as np
import mbrl

simulator = mbrl.Simulator("assets/inverted_double_pendulum.xml", frame_skip=5, threads=2)
generator = np.random.default_rng(0)
state = 0.1 * generator.standard_normal((8, simulator.spec.nx))
ctrl = generator.standard_normal((8, simulator.spec.nu))


def found():
    A, B = simulator.linearize(state, ctrl)
    by_differences = simulator.linearize(state, ctrl, method="step")
    return [simulator.step(state, ctrl), A, B, *by_differences]


def child(queue, before):
    after = found()
    queue.put(all(a.tobytes() == b.tobytes() for a, b in zip(before, after, strict=True)))


before = found()
context = multiprocessing.get_context("fork")
queue = context.Queue()
process = context.Process(target=child, args=(queue, before), daemon=True)
process.start()
print("same bits:", queue.get(timeout=20))
process.join(timeout=20)
print("exit code:", process.exitcode)
if os.fork() == 0:
    simulator.step(state, ctrl)
    sys.exit(0)  # with all destructors
print("destroyed:", os.wait()[1] == 0)

# While another thread is in the middle of a step.
rest = threading.Event()
many = np.tile(state, (1000, 1)), np.tile(ctrl, (1000, 1))


def keep_busy():
    while not rest.is_set():
        simulator.step(*many)


def is_silent():
    return not mujoco.MjLogConfig.get().logto_console


busy = threading.Thread(target=keep_busy)
busy.start()
ended = []
for _ in range(5):
    if os.fork() == 0:
        signal.alarm(20)
        after = found()
        same = all(a.tobytes() == b.tobytes() for a, b in zip(before, after, strict=True))
        os._exit(0 if same and not is_silent() else 3)
    ended.append(os.wait()[1])
rest.set()
busy.join()
print("beside a thread:", ended)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes do not fork here")
def test_a_forked_child_computes_what_its_parent_does():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.splitlines() == [
        "same bits: True",
        "exit code: 0",
        "destroyed: True",
        "beside a thread: [0, 0, 0, 0, 0]",
    ], done.stderr
