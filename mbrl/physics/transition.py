"""Method "transition": MuJoCo's own ``mjd_transitionFD``, chained over the physics steps."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import mujoco
import numpy as np

from mbrl.errors import DivergenceError, ModelError
from mbrl.physics.engine import quiet
from mbrl.physics.native_engine import make_engine
from mbrl.physics.state import StateSpec
from mbrl.physics.step_difference import bounds, default_eps
from mbrl.types import Array, Linearization


class TransitionDifference:
    r"""Chain of one-step Jacobians, exact over ``frame_skip``.

    .. math:: A = A_k \cdots A_1, \qquad B = \sum_i A_k \cdots A_{i+1} B_i

    Each factor comes from ``mjd_transitionFD``, which skips the stages that a perturbation leaves
    unchanged. Rows are shared among threads, libmujoco's own if the native engine is there; every
    row starts from a reset MjData, so results do not depend on how they were shared. Of a muscle
    whose activation is exactly 1 it takes the derivative from beyond, where no state lies.

    Args:
        model: the model to difference, with its solver converged.
        spec: its state space.
        frame_skip: physics steps per control step.
        threads: how many threads; Python's release the interpreter lock.

    Raises:
        ModelError: if ``mjd_transitionFD`` does not support the model, or is wrong about it.
    """

    def __init__(self, model: mujoco.MjModel, spec: StateSpec, frame_skip: int, threads: int):
        self.check(model)
        self._model, self._spec = model, spec
        self._frame_skip, self._threads = frame_skip, threads
        self._native = make_engine(model, threads)

    @staticmethod
    def default_eps(model: mujoco.MjModel, centered: bool) -> float:
        """Return the size of differences that measured best for models of this kind."""
        return default_eps(model, centered)

    @staticmethod
    def check(model: mujoco.MjModel) -> None:
        """Refuse what ``mjd_transitionFD`` cannot differentiate, or differentiates wrongly."""
        low, high = bounds(model)
        # It takes control ranges, and nothing else, for bounds to stay within.
        limited = model.actuator_ctrllimited.astype(bool)
        assumed = np.where(limited, model.actuator_ctrlrange.T, [[-np.inf], [np.inf]])
        refused = {
            "the integrator RK4": model.opt.integrator == mujoco.mjtIntegrator.mjINT_RK4,
            "activation limits (actlimited)": (
                model.actuator_actlimited.astype(bool) & (model.actuator_actnum > 0)
            ).any(),
            "control bounds other than ctrlrange (a muscle's [0, 1], or clampctrl=disable)": (
                not np.array_equal(assumed, [low[model.na :], high[model.na :]])
            ),
        }
        for feature, present in refused.items():
            if present:
                raise ModelError(
                    f"method 'transition' cannot differentiate {feature}; use method 'step'"
                )

    def __call__(
        self, state: Array, ctrl: Array, *, eps: float | None, centered: bool
    ) -> Linearization:
        """Linearise at states [B, nx] and controls [B, nu]."""
        eps = eps or default_eps(self._model, centered)
        if self._native is None:
            out, bad = self._in_python(state, ctrl, eps, centered)
        else:
            with quiet():
                a, b, status = self._native.transition(state, ctrl, self._frame_skip, eps, centered)
            out, bad = Linearization(a, b), np.flatnonzero(status).tolist()
        if bad:
            raise DivergenceError(f"linearising states {bad[:8]}: the simulation diverged", bad)
        return out

    def _in_python(
        self, state: Array, ctrl: Array, eps: float, centered: bool
    ) -> tuple[Linearization, list[int]]:
        spec, n = self._spec, len(state)
        out = Linearization(np.empty((n, spec.ndx, spec.ndx)), np.empty((n, spec.ndx, spec.nu)))
        parts = [p for p in np.array_split(np.arange(n), self._threads) if len(p)]

        def work(rows: Array) -> list[int]:
            data = mujoco.MjData(self._model)
            return [
                int(row)
                for row in rows
                if not self._row(data, state[row], ctrl[row], eps, centered, out, row)
            ]

        with quiet(), ThreadPoolExecutor(len(parts)) as pool:
            bad = sorted(row for rows in pool.map(work, parts) for row in rows)
        return out, bad

    def _row(
        self,
        data: mujoco.MjData,
        state: Array,
        ctrl: Array,
        eps: float,
        centered: bool,
        out: Linearization,
        row: int,
    ) -> bool:
        model, spec = self._model, self._spec
        mujoco.mj_resetData(model, data)
        data.qpos, data.qvel, data.act = spec.split(state)
        data.ctrl = ctrl
        chain = np.eye(spec.ndx, spec.ndx + spec.nu)  # [A B] so far
        a, b = np.empty((spec.ndx, spec.ndx)), np.empty((spec.ndx, spec.nu))
        try:
            for _ in range(self._frame_skip):
                mujoco.mjd_transitionFD(model, data, eps, centered, a, b, None, None)
                chain = a @ chain
                chain[:, spec.ndx :] += b
                mujoco.mj_step(model, data)
        except mujoco.FatalError:  # out of memory
            return False
        out.A[row], out.B[row] = chain[:, : spec.ndx], chain[:, spec.ndx :]
        return bool(np.isfinite(chain).all()) and not any(w.number for w in data.warning)
