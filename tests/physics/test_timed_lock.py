"""How long a lock was held."""

import threading
import time

import numpy as np
import pytest

from mbrl.physics import Simulator
from mbrl.physics.timed_lock import TimedLock

PENDULUM = (
    "<mujoco><worldbody><body><joint axis='0 1 0'/><geom size='.1' pos='0 0 1'/></body>"
    "</worldbody></mujoco>"
)


def test_only_the_time_inside_counts_and_nested_time_once():
    lock, began = TimedLock(), time.perf_counter()
    time.sleep(0.05)
    for _ in range(2):
        with lock, lock:
            time.sleep(0.02)
    # Sleeping takes no less than it says; how much more, the machine decides.
    assert 0.04 <= lock.seconds <= time.perf_counter() - began - 0.05


def test_an_error_gives_it_back():
    lock = TimedLock()
    with pytest.raises(ZeroDivisionError), lock:
        raise ZeroDivisionError
    taken = []
    other = threading.Thread(target=lambda: taken.append(lock.__enter__()))
    other.start()
    other.join(5)
    assert taken == [None]


def test_a_simulator_knows_the_time_of_its_engine(tmp_path):
    (tmp_path / "pendulum.xml").write_text(PENDULUM)
    simulator = Simulator(tmp_path / "pendulum.xml", threads=1)
    assert simulator.engine_seconds == 0
    state, ctrl = np.zeros((64, 2)), np.zeros((64, 0))
    began = time.perf_counter()
    simulator.step(state, ctrl)
    stepped = simulator.engine_seconds
    simulator.linearize(state, ctrl)
    assert 0 < stepped < simulator.engine_seconds <= time.perf_counter() - began
