"""Private copies of models and pools of simulations: the only callers of ``mujoco.batch``."""

from __future__ import annotations

import copy
import ctypes
import os
from collections.abc import Callable
from typing import Any

import mujoco
import numpy as np
from mujoco.batch import Batch, SimulationError
from numpy.typing import NDArray

from mbrl.cores import usable_cores
from mbrl.errors import ArgumentError, DivergenceError, ModelError
from mbrl.physics.forks import ForkedLock, renew_in_children
from mbrl.physics.state import StateSpec
from mbrl.types import Array

_WARNING = mujoco.mjtWarning
# MuJoCo's own limit (mjMAXVAL): past it a coordinate counts as diverged.
_LARGEST = 1e10
_MEMORY_WARNINGS = [int(_WARNING.mjWARN_CONTACTFULL), int(_WARNING.mjWARN_CNSTRFULL)]


def private_copy(model: mujoco.MjModel) -> mujoco.MjModel:
    """Return a copy of ``model`` that does not reset itself when a simulation diverges.

    Raises:
        ModelError: if part of what the next step depends on lies outside [qpos, qvel, act].
    """
    hidden = {
        "engine plugins that keep a state": model.npluginstate,
        "actuator or sensor delays (history)": model.nhistory,
        "plasticity": model.nplastic,
        "sleep (option flag)": model.opt.enableflags & mujoco.mjtEnableBit.mjENBL_SLEEP,
        "IPC contact (option flag)": model.opt.enableflags & mujoco.mjtEnableBit.mjENBL_IPC,
    }
    for feature, present in hidden.items():
        if present:
            raise ModelError(
                f"the model uses {feature}: its next step is not a function of "
                "[qpos, qvel, act] and ctrl alone; remove the feature from the model"
            )
    if not 0 < model.opt.timestep < float("inf"):
        raise ModelError(
            f"the model's timestep must be a positive number of seconds, got {model.opt.timestep}"
        )
    own = copy.copy(model)
    own.opt.disableflags |= int(mujoco.mjtDisableBit.mjDSBL_AUTORESET)
    return own


def thread_count(threads: int | None) -> int:
    """Return the number of engine threads: ``threads``, or every core this process may use.

    Processes that ``torchrun`` started on a host share its cores.
    """
    if threads is None:
        sharing = os.environ.get("LOCAL_WORLD_SIZE", "1")
        return max(1, usable_cores() // (int(sharing) if sharing.isdecimal() else 1))
    if isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 1024:
        raise ArgumentError(
            f"threads must be an integer from 1 to 1024 or None (all cores), got {threads!r}"
        )
    return threads


class _Silence:
    """MuJoCo's log settings, which are global: the first to enter saves them, the last restores."""

    def __init__(self) -> None:
        self._lock, self._depth = ForkedLock(), 0
        self._before: mujoco.MjLogConfig | None = None  # while somebody is inside
        self._silent = mujoco.MjLogConfig.get()
        self._silent.logto_console = self._silent.logto_file = False
        renew_in_children(self)

    def __enter__(self) -> None:
        with self._lock:
            if self._depth == 0:
                self._before = mujoco.MjLogConfig.get()
                mujoco.MjLogConfig.set(self._silent)
            self._depth += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._depth = max(0, self._depth - 1)  # a fork in between may have made it zero
            if self._depth == 0 and self._before is not None:
                mujoco.MjLogConfig.set(self._before)
                self._before = None

    def renew(self) -> None:
        """Restore the settings: whoever was inside is gone."""
        if self._before is not None:
            mujoco.MjLogConfig.set(self._before)
            self._depth, self._before = 0, None


_SILENCE = _Silence()


def quiet() -> _Silence:
    """Keep MuJoCo from printing warnings and writing MUJOCO_LOG.TXT into the working directory.

    Nothing is lost: the counters of every simulation are read and raised as errors.
    """
    return _SILENCE


class SimulationPool:
    """Many independent copies of one model's world, advanced by pure calls on libmujoco's threads.

    Every call writes the whole state it depends on, with a cold-started solver, so results depend
    on the arguments alone, bit for bit, at any number of threads and in any order of calls, in
    processes that were forked as well.

    Args:
        model: the model to run; kept, not copied.
        spec: its state space.
        threads: engine threads.
        fields: MjData fields to copy out after each call.
    """

    def __init__(
        self, model: mujoco.MjModel, spec: StateSpec, threads: int, fields: tuple[str, ...] = ()
    ):
        self.model, self.spec, self.threads, self.fields = model, spec, threads, fields
        self._capacity = 0
        self._batch: Any = None
        renew_in_children(self)

    def advance(self, state: Array, ctrl: Array, substeps: int) -> Array:
        """Return the states [n, nx] after ``substeps`` of ``mj_step`` under constant ``ctrl``.

        Raises:
            DivergenceError: naming the rows that left the finite world.
        """
        ids = self._load(state, ctrl)
        return self._run(ids, lambda: self._batch.step(ids, nstep=substeps))

    def roll(
        self,
        state: Array,
        law: Callable[[int, Array], Array],
        steps: int,
        substeps: int,
        *,
        mark: bool = False,
    ) -> tuple[Array, Array]:
        """Return states [T+1, n, nx] and controls [T, n, nu], stepped as ``advance`` would.

        Args:
            state: [n, nx].
            law: (t, states [n, nx]) -> controls [n, nu]; it must not keep or change the states.
            steps: T.
            substeps: physics steps of each.
            mark: a row that diverges is NaN from then on, instead of an error.

        Raises:
            DivergenceError: naming the rows that left the finite world at some step.
        """
        n = len(state)
        states, ctrls = np.empty((steps + 1, n, self.spec.nx)), np.empty((steps, n, self.spec.nu))
        states[0] = state
        ids = self._load(state, np.zeros((n, self.spec.nu)))
        x, applied, warmstart = self._x[:n], self._ctrl[:n], self._warmstart[:n]
        which = None if n == self._capacity else ids
        lost = np.full(n, steps + 1)  # from which state on a row is marked

        def take_all() -> None:
            for t in range(steps):
                ctrls[t] = law(t, states[t])
                applied[:], warmstart[:] = ctrls[t], 0.0
                if mark:
                    self._step_marking(which, substeps, n, t + 1, lost, state)
                else:
                    self._batch.step(which, nstep=substeps)
                states[t + 1] = x

        self._run(ids, take_all)
        if mark:
            states[np.arange(steps + 1)[:, None] >= lost] = np.nan
        elif not np.abs(states).max(initial=0.0) < _LARGEST:
            finite = np.asarray((np.abs(states) < _LARGEST).all(axis=(0, 2)))
            self._complain(self._batch.warning[:n, :, 1], finite)
        return states, ctrls

    def _step_marking(
        self,
        which: NDArray[np.int32] | None,
        substeps: int,
        n: int,
        index: int,
        lost: NDArray[np.int_],
        harmless: Array,
    ) -> None:
        """Take a step; rows that diverge are noted, and go on from a harmless state."""
        bad = np.zeros(n, dtype=bool)
        try:
            self._batch.step(which, nstep=substeps)
        except SimulationError as error:
            bad[error.ids] = True
        x, warnings = self._x[:n], self._batch.warning[:n]
        if bad.any() or warnings.any() or not np.abs(x).max(initial=0.0) < _LARGEST:
            bad |= warnings[:, :, 1].any(axis=1) | ~(np.abs(x) < _LARGEST).all(axis=1)
            lost[bad] = np.minimum(lost[bad], index)
            x[bad], warnings[bad] = harmless[bad], 0

    def forward(self, state: Array, ctrl: Array) -> None:
        """Run ``mj_forward`` at the given states, for the sake of :meth:`field`."""
        ids = self._load(state, ctrl)
        self._run(ids, lambda: self._batch.forward(ids))

    def field(self, name: str, n: int) -> NDArray[np.generic]:
        """Return a copy of a derived field [n, ...] as the last call left it."""
        return np.array(self._outputs[name][:n])

    def _load(self, state: Array, ctrl: Array) -> NDArray[np.int32]:
        n = len(state)
        if n > self._capacity:
            self._allocate(n)
        self._x[:n] = state
        self._ctrl[:n] = ctrl
        self._warmstart[:n] = 0.0
        self._time[:n] = 0.0
        return self._ids[:n]

    def renew(self) -> None:
        """Begin anew without waiting for the threads of before."""
        if self._batch is not None:
            # The destructor would wait for them: it is never called.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(self._batch))
        self._capacity, self._batch = 0, None

    def _allocate(self, n: int) -> None:
        # Powers of two: a caller whose batch varies does not reallocate at every call.
        capacity = 1 << (n - 1).bit_length()
        self._capacity = 0  # until all is there
        batch = self._batch = Batch(self.model, capacity, self.threads)
        self._ids = np.arange(capacity, dtype=np.int32)
        # A row begins with the time, then [qpos, qvel, act] (the order of mj_getState).
        self._time, self._x = batch.state[:, 0], batch.state[:, 1 : 1 + self.spec.nx]
        self._ctrl, self._warmstart = batch.bind("ctrl"), batch.bind("qacc_warmstart")
        self._outputs = {name: batch.bind(name) for name in self.fields}
        self._extend(batch, capacity)
        self._capacity = capacity

    def _extend(self, batch: Batch, capacity: int) -> None:
        """Get from a new batch what else is wanted of it."""

    def _run(self, ids: NDArray[np.int32], call: Callable[[], None]) -> Array:
        """Return the states [n, nx] that a call of the engine leaves."""
        n = len(ids)
        warnings = self._batch.warning[:n]  # (n, kinds, 2): what it was about, and how often
        warnings.fill(0)
        try:
            with quiet():
                call()
        except SimulationError as error:
            reason = " ".join(self._batch.error(int(error.ids[0])).split())
            raise DivergenceError(
                f"MuJoCo refused {len(error.ids)} of {n} rows {_some(error.ids)}: {reason}",
                error.ids,
            ) from error
        states = np.array(self._x[:n])
        # NaN compares false. One pass in the usual case; rows are looked at if something is wrong.
        if warnings.any() or not np.abs(states).max(initial=0.0) < _LARGEST:
            self._complain(warnings[:, :, 1], (np.abs(states) < _LARGEST).all(axis=1))
        return states

    def _complain(self, counters: NDArray[np.int32], finite: NDArray[np.bool_]) -> None:
        full = np.flatnonzero(counters[:, _MEMORY_WARNINGS].any(axis=1))
        if len(full):
            raise DivergenceError(
                f"MuJoCo ran out of memory for contacts or constraints in rows {_some(full)}; "
                "give the model a larger <size memory=.../>",
                full,
            )
        bad = np.flatnonzero(counters.any(axis=1) | ~finite)
        names = [
            w.name.removeprefix("mjWARN_")
            for w in map(_WARNING, range(counters.shape[1]))
            if counters[bad, w].any()
        ]
        raise DivergenceError(
            f"the simulation diverged in {len(bad)} of {len(finite)} rows {_some(bad)}: "
            f"{', '.join(names) or 'coordinates beyond 1e10'}",
            bad,
        )


def _some(rows: NDArray[np.generic], most: int = 8) -> str:
    shown = ", ".join(str(int(row)) for row in rows[:most])
    return f"[{shown}{', ...' if len(rows) > most else ''}]"
