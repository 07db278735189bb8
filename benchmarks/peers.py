"""What the Jacobians are measured against: MuJoCo's own differences, and MJX."""

from __future__ import annotations

import ctypes
import importlib.util
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mujoco
import numpy as np

EPS = 1e-6


class TransitionFD:
    """``mjd_transitionFD``, chained over the physics steps, at the least cost Python allows.

    The model keeps its own solver settings. Calls go through ctypes with prepared pointers, so that
    threads hold the interpreter's lock next to never; factors are multiplied in one batched call.
    """

    def __init__(self, model: mujoco.MjModel, frame_skip: int, threads: int):
        self._model, self._frame_skip = model, frame_skip
        self._data = [mujoco.MjData(model) for _ in range(threads)]
        self._workers = ThreadPoolExecutor(threads)
        folder = Path(mujoco.__file__).parent
        library = ctypes.CDLL(str(next(iter([*folder.glob("libmujoco*"), folder / "mujoco.dll"]))))
        pointer = ctypes.c_void_p
        self._step, self._reset = library.mj_step, library.mj_resetData
        self._difference = library.mjd_transitionFD
        self._step.argtypes = self._reset.argtypes = [pointer, pointer]
        self._difference.argtypes = [
            pointer, pointer, ctypes.c_double, ctypes.c_ubyte, *[pointer] * 4
        ]  # fmt: skip
        self._step.restype = self._reset.restype = self._difference.restype = None

    def __call__(self, states: np.ndarray, ctrls: np.ndarray) -> np.ndarray:
        """Return [A B] (B, ndx, ndx + nu), one-sided differences."""
        model, n, k = self._model, len(states), self._frame_skip
        ndx = 2 * model.nv + model.na
        a, b = np.empty((n, k, ndx, ndx)), np.empty((n, k, ndx, model.nu))
        parts = np.array_split(np.arange(n), len(self._data))
        jobs = zip(self._data, parts, strict=True)
        list(self._workers.map(lambda job: self._rows(*job, states, ctrls, a, b), jobs))
        chain = np.concatenate([a[:, 0], b[:, 0]], axis=2)
        for i in range(1, k):
            chain = a[:, i] @ chain
            chain[:, :, ndx:] += b[:, i]
        return chain

    def _rows(self, data, rows, states, ctrls, a, b):
        model, last = self._model, self._frame_skip - 1
        nq, nv = model.nq, model.nv
        m, d = model._address, data._address
        qpos, qvel, act, ctrl = data.qpos, data.qvel, data.act, data.ctrl
        for row in rows:
            self._reset(m, d)
            x = states[row]
            qpos[:], qvel[:], act[:] = x[:nq], x[nq : nq + nv], x[nq + nv :]
            ctrl[:] = ctrls[row]
            at, bt = a[row].ctypes.data, b[row].ctypes.data
            for i in range(last + 1):
                to_a, to_b = at + i * a[row, 0].nbytes, bt + i * b[row, 0].nbytes
                self._difference(m, d, EPS, 0, to_a, to_b, None, None)
                if i < last:
                    self._step(m, d)


def has_mjx() -> bool:
    """Whether MJX can be imported."""
    return all(importlib.util.find_spec(name) for name in ("jax", "mujoco.mjx"))


def mjx_jacfwd(model: mujoco.MjModel, frame_skip: int, states, ctrls, rounds: int = 3):
    """Return microseconds per state of ``jax.jacfwd`` of the control step, and seconds to compile.

    In double precision, jitted and vectorised over all states; of the coordinates [qpos, qvel, act]
    and the control, without the step to tangent space.
    """
    import jax  # an extra: mujoco-mjx
    from mujoco import mjx

    jax.config.update("jax_enable_x64", True)
    device_model, blank = mjx.put_model(model), mjx.make_data(model)
    nq, nv = model.nq, model.nv

    def step(x, u):
        parts = {"qpos": x[:nq], "qvel": x[nq : nq + nv], "act": x[nq + nv :], "ctrl": u}
        data = blank.replace(**parts)
        data = jax.lax.fori_loop(0, frame_skip, lambda _, d: mjx.step(device_model, d), data)
        return jax.numpy.concatenate([data.qpos, data.qvel, data.act])

    start = time.perf_counter()
    jacobians = jax.jit(jax.vmap(jax.jacfwd(step, argnums=(0, 1)))).lower(states, ctrls).compile()
    compiled = time.perf_counter() - start
    times = []
    for _ in range(rounds + 1):  # the first warms up
        start = time.perf_counter()
        jax.block_until_ready(jacobians(states, ctrls))
        times.append(time.perf_counter() - start)
    return 1e6 * float(np.median(times[1:])) / len(states), compiled
