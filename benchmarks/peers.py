"""What the Jacobians are measured against: MuJoCo's own differences, and MJX."""

from __future__ import annotations

import ctypes
import importlib.util
import time
from pathlib import Path

import mujoco
import numpy as np
from mujoco.batch import Batch

from mbrl.physics import Simulator, quiet
from mbrl.physics.engine import private_copy
from mbrl.physics.linearization import converged
from mbrl.physics.native_engine import make_engine

EPS = 1e-6


class TransitionFD:
    """``mjd_transitionFD``, chained over the physics steps, on libmujoco's own threads.

    The model keeps its own solver settings. Rows are run by ``mjb_apply``: from the first row to
    the last nothing waits for the interpreter.
    """

    def __init__(self, model: mujoco.MjModel, frame_skip: int, threads: int):
        self._model = private_copy(model)  # without a silent reset of what diverges
        self._frame_skip = frame_skip
        self._engine = make_engine(self._model, threads)

    def __call__(self, states: np.ndarray, ctrls: np.ndarray) -> np.ndarray:
        """Return [A B] (B, ndx, ndx + nu), one-sided differences."""
        with quiet():
            a, b, _ = self._engine.transition(states, ctrls, self._frame_skip, EPS, False)
        return np.concatenate([a, b], axis=2)


class BareBatch:
    """A rollout by nothing but ``mujoco.batch``: what a forward pass can cost at best."""

    def __init__(self, simulator: Simulator, states: np.ndarray, ctrls: np.ndarray):
        self._batch = Batch(simulator.model, len(states), simulator.threads)
        self._x = self._batch.state[:, 1 : 1 + simulator.spec.nx]
        self._ctrl, self._warmstart = map(self._batch.bind, ("ctrl", "qacc_warmstart"))
        self._states, self._ctrls, self._frame_skip = states, ctrls, simulator.frame_skip

    def __call__(self) -> np.ndarray:
        """Return the states [T+1, B, nx]."""
        found = np.empty((len(self._ctrls) + 1, *self._states.shape))
        found[0] = self._x[:] = self._states
        for t, ctrl in enumerate(self._ctrls):
            self._ctrl[:], self._warmstart[:] = ctrl, 0.0
            self._batch.step(nstep=self._frame_skip)
            found[t + 1] = self._x
        return found


class _BatchConfig(ctypes.Structure):
    _fields_ = [("nthread", ctypes.c_int), ("persistent", ctypes.c_ubyte)]


class Floor:
    """What differentiating by differences of inverse dynamics costs at least, stage by stage.

    Per evaluation of forward dynamics: one forward pass; nv times kinematics, tendons,
    transmission, collisions, constraints, velocities, passive forces and recursive Newton-Euler
    (the columns of the position); nv times the velocity stages; nv times the constraint forces.
    Each stage is timed over all states by ``mjb_apply`` on one thread, without the interpreter.
    """

    _POSITION = ("mj_kinematics", "mj_comPos", "mj_tendon", "mj_transmission", "mj_collision",
                 "mj_makeConstraint")  # fmt: skip
    _VELOCITY = ("mj_comVel", "mj_passive", "mj_referenceConstraint", "mj_rne")

    def __init__(self, model: mujoco.MjModel, frame_skip: int, states, ctrls):
        folder = Path(mujoco.__file__).parent
        self._library = ctypes.CDLL(
            str(next(iter([*folder.glob("libmujoco*"), folder / "mujoco.dll"])))
        )
        self._library.mjb_makeBatch.restype = ctypes.c_void_p
        self._library.mjb_state.restype = ctypes.POINTER(ctypes.c_double)
        self._model, n = converged(private_copy(model)), len(states)
        config = _BatchConfig(1, 1)  # one MjData per state: stages find what stages before left
        self._batch = ctypes.c_void_p(
            self._library.mjb_makeBatch(
                ctypes.c_void_p(self._model._address), n, ctypes.byref(config), None, 0
            )
        )
        width = self._library.mjb_nstate(self._batch)
        rows = np.ctypeslib.as_array(self._library.mjb_state(self._batch), (n, width))
        data, signature = mujoco.MjData(self._model), mujoco.mjtState.mjSTATE_INTEGRATION
        for row, x, u in zip(rows, states, ctrls, strict=True):
            data.qpos, data.qvel, data.act = np.split(x, np.cumsum([model.nq, model.nv]))
            data.ctrl = u
            mujoco.mj_getState(self._model, data, row, signature)
        evaluations = 4 if model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4 else 1
        self._evaluations = evaluations * frame_skip
        # What mj_rne, run with the row's number for its flag, writes to.
        self._scratch = (ctypes.c_double * max(1, model.nv))()

    def __call__(self) -> float:
        """Return microseconds per state and control step."""
        nv = self._model.nv
        forward = self._microseconds("mj_forward")
        position, velocity = (
            sum(map(self._microseconds, stages)) for stages in (self._POSITION, self._VELOCITY)
        )
        columns = position + 2 * velocity + self._microseconds("mj_invConstraint")
        return self._evaluations * (forward + nv * columns)

    def _microseconds(self, stage: str, repeats: int = 5) -> float:
        def seconds(name: str) -> float:
            function = ctypes.cast(getattr(self._library, name), ctypes.c_void_p)
            start = time.perf_counter()
            self._library.mjb_apply(self._batch, None, 0, function, self._scratch, 0)
            return time.perf_counter() - start

        # mj_version does nothing: what remains is the call's own cost.
        spent = (seconds(stage) - seconds("mj_version") for _ in range(repeats))
        return 1e6 * max(0.0, float(np.median(list(spent)))) / self._library.mjb_nsim(self._batch)


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
