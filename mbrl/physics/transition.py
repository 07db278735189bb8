"""Method "transition": MuJoCo's own ``mjd_transitionFD``, chained over the physics steps."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import mujoco
import numpy as np

from mbrl.errors import DivergenceError, ModelError
from mbrl.physics.engine import quiet
from mbrl.physics.state import StateSpec
from mbrl.physics.step_difference import CENTERED_EPS, FORWARD_EPS
from mbrl.types import Array, Linearization

_REFUSED = {
    mujoco.mjtIntegrator.mjINT_RK4: "RK4",
}


class TransitionDifference:
    r"""Chain of one-step Jacobians, exact over ``frame_skip``.

    .. math:: A = A_k \cdots A_1, \qquad B = \sum_i A_k \cdots A_{i+1} B_i

    Each factor comes from ``mjd_transitionFD``, which skips the stages that a perturbation leaves
    unchanged. Rows are shared among threads; every row starts from a reset MjData, so results do
    not depend on how they were shared.

    Args:
        model: the model to difference, with its solver converged.
        spec: its state space.
        frame_skip: physics steps per control step.
        threads: Python threads; the call releases the interpreter lock.

    Raises:
        ModelError: if ``mjd_transitionFD`` does not support the model's integrator.
    """

    def __init__(self, model: mujoco.MjModel, spec: StateSpec, frame_skip: int, threads: int):
        self.check(model)
        self._model, self._spec = model, spec
        self._frame_skip, self._threads = frame_skip, threads

    @staticmethod
    def check(model: mujoco.MjModel) -> None:
        """Refuse the integrators that ``mjd_transitionFD`` cannot differentiate."""
        name = _REFUSED.get(model.opt.integrator)
        if name is not None:
            raise ModelError(
                f"method 'transition' cannot differentiate the integrator {name}; use method 'step'"
            )

    def __call__(
        self, state: Array, ctrl: Array, *, eps: float | None, centered: bool
    ) -> Linearization:
        """Linearise at states [B, nx] and controls [B, nu]."""
        spec, n = self._spec, len(state)
        eps = eps or (CENTERED_EPS if centered else FORWARD_EPS)
        out = Linearization(np.empty((n, spec.ndx, spec.ndx)), np.empty((n, spec.ndx, spec.nu)))
        parts = [p for p in np.array_split(np.arange(n), self._threads) if len(p)]

        def work(rows: Array) -> list[int]:
            data = mujoco.MjData(self._model)
            return [
                row
                for row in rows
                if not self._row(data, state[row], ctrl[row], eps, centered, out, row)
            ]

        with quiet(), ThreadPoolExecutor(len(parts)) as pool:
            bad = sorted(row for rows in pool.map(work, parts) for row in rows)
        if bad:
            raise DivergenceError(f"linearising states {bad[:8]}: the simulation diverged", bad)
        return out

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
        for _ in range(self._frame_skip):
            mujoco.mjd_transitionFD(model, data, eps, centered, a, b, None, None)
            chain = a @ chain
            chain[:, spec.ndx :] += b
            mujoco.mj_step(model, data)
        out.A[row], out.B[row] = chain[:, : spec.ndx], chain[:, spec.ndx :]
        return bool(np.isfinite(chain).all()) and not any(w.number for w in data.warning)
